"""From jsonargparse's page-long complaint to the one or two lines that matter.

jsonargparse reports a tree: key within class within key, every alternative of a union with its own reason. The cause is the first leaf
that is not "expected None", and the way down to it is the path of the key. Standard library only: tested on recorded complaints.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from musictrain.suggestions import did_you_mean

UNKNOWN = re.compile(r"(?:unrecognized arguments: |does not accept option |Unexpected argument )['\"]?(?:--)?(?P<key>[^'\"\s=]+)")
PARSER_KEY = re.compile(r'Parser key "(?P<key>[^"]+)":?\s*(?P<rest>.*)')
IN_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)'")
NOT_ACCEPTED = re.compile(r"Option '(?P<option>[^']+)' is not accepted")
NO_ATTRIBUTE = re.compile(r"module '(?P<module>[^']+)' has no attribute '(?P<name>[^']+)'")
EXPECTED = re.compile(r"Expected an? (?P<type>.+?)\.? Got value: (?P<value>.*)")
REQUIRED = re.compile(r"the following arguments are required: (?P<names>.+)")
NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a path", "Subclass types expect", "a class path", "a dict")
MOST_KEYS_SHOWN = 12


@dataclass(frozen=True)
class Cause:
    """The leaf of a complaint: the dotted ``key``, the class that complained (empty at the top) and its words."""

    key: str
    class_path: str
    reason: str


def condense(message: str, known_keys: Iterable[str], command: str) -> str:
    """One or two lines: what came, the nearest known word, how to see all.

    Args:
        message: what jsonargparse said.
        known_keys: the dotted keys of the parser that said it.
        command: what to ask for help, such as ``musictrain fit``.
    """
    unknown = UNKNOWN.search(message)
    if unknown:
        return _unknown_key(unknown["key"], list(known_keys), command)
    cause = find_cause(message)
    return _explain(cause, command) if cause else _first_lines(message)


def _unknown_key(key: str, known: list[str], command: str) -> str:
    siblings = [name for name in known if name.count(".") == key.count(".")]
    hint = did_you_mean(key, siblings) or did_you_mean(key, known)
    return " ".join(part for part in (f"Unknown option {key!r}.", hint, f"All options: {command} --help") if part)


def find_cause(message: str) -> Cause | None:
    """The first leaf of the tree that says something, None if the message is no such tree."""
    path: list[str] = []
    class_path = ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ").strip()
        if key := PARSER_KEY.match(text):
            path += [*(["init_args"] if class_path else []), key["key"]]
            text = key["rest"]
        elif given := IN_CLASS.match(text):
            class_path = given["path"]
            continue
        if path and text and not text.startswith(NOISE) and "NoneType" not in text:
            return Cause(".".join(path), class_path, text)
    return None


def innermost(message: str) -> str:
    """What a class said when it refused to be made, out of the tree that jsonargparse puts around it; other messages stay as they are.

    >>> innermost("Does not validate against any\\nErrors:\\n  - Decoder got depth=0.\\n  - Expected a <class 'NoneType'>")
    'Decoder got depth=0.'
    """
    if not message.startswith(NOISE):
        return message
    texts = (line.strip().removeprefix("- ").strip() for line in message.splitlines())
    spoken = (text for text in texts if text and not text.startswith((*NOISE, "Not a valid subclass")) and "NoneType" not in text)
    return next(spoken, message)


def _explain(cause: Cause, command: str) -> str:
    if option := NOT_ACCEPTED.search(cause.reason):
        return _not_accepted(cause, option["option"].split(".")[0], command)
    if missing := NO_ATTRIBUTE.search(cause.reason):
        hint = did_you_mean(missing["name"], _public_names(missing["module"]))
        return f"{cause.key}: there is no {missing['module']}.{missing['name']}. {hint}".rstrip()
    if wrong := EXPECTED.search(cause.reason):
        return f"{cause.key} is {wrong['value']!r}, but should be {_plain_type(wrong['type'])}."
    if required := REQUIRED.search(cause.reason):
        keys = ", ".join(f"{cause.key}.init_args.{name}" for name in required["names"].split(", "))
        return f"Missing: {keys}. Set it, or start from a recipe: {command} --config NAME"
    where = f" ({cause.class_path})" if cause.class_path else ""
    return f"{cause.key}{where}: {cause.reason}"


def _not_accepted(cause: Cause, option: str, command: str) -> str:
    accepted = parameters_of(cause.class_path)
    hint = did_you_mean(option, accepted)
    shown = ", ".join(accepted[:MOST_KEYS_SHOWN]) + (", ..." if len(accepted) > MOST_KEYS_SHOWN else "")
    listing = f"It takes: {shown}." if accepted else f"See `{command} --help`."
    name = cause.class_path.rpartition(".")[2]
    return " ".join(part for part in (f"Unknown key {cause.key}.init_args.{option}: {name} has no {option!r}.", hint, listing) if part)


def parameters_of(class_path: str) -> list[str]:
    """The names a class takes when it is made; none if it cannot be found."""
    module, _, name = class_path.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
        return list(dict.fromkeys(_parameters(made)))
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _parameters(made: Callable[..., Any]) -> Iterator[str]:
    """Those of a class, and where it hands keywords on, of what it inherits."""
    own = inspect.signature(made).parameters.values()
    yield from (each.name for each in own if each.name != "self" and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD))
    inherits = getattr(made, "__base__", None)
    if inherits not in (None, object) and any(each.kind == each.VAR_KEYWORD for each in own):
        yield from _parameters(inherits)


def _public_names(module: str) -> list[str]:
    try:
        return [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    except ImportError:
        return []


def _plain_type(text: str) -> str:
    """A type as people write it.

    >>> _plain_type("<class 'int'>"), _plain_type("typing.Literal['skip', 'stop']")
    ('int', "one of 'skip', 'stop'")
    """
    return re.sub(r"typing\.Literal\[([^]]+)\]", r"one of \1", re.sub(r"<class '([^']+)'>", r"\1", text))


def _first_lines(message: str, most: int = 4) -> str:
    lines = [line.rstrip() for line in message.splitlines() if line.strip()]
    return "\n".join(lines[:most]) + (" ..." if len(lines) > most else "")
