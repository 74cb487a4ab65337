"""Secrets: what must never reach a file, found by its name, by its look and by what is already known, and put out of sight.

Conventions:

- A name is secret by its words: ``smtp_password``, ``WANDB_API_KEY``, ``hf_token``; not ``tokenizer``, ``max_tokens``, ``pad_token`` or
  ``password_variable``, which say how, not what.
- A value that stood under a secret name (in the environment, on the command line, in a configuration) is known from then on and hidden
  wherever it appears, also as JSON, a URL, HTML or base64 write it. Values under 6 characters and common words are hidden under their
  name alone: nobody's ``offline`` is to vanish from a log because a token was set to it.
- What is hidden reads ``***``.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from musictrain.runs.secret_names import is_secret_name, is_surely_secret
from musictrain.runs.secret_shapes import SHAPES, URL_PASSWORD, is_code, may_hold_a_secret, spellings

HIDDEN = "***"
SHORTEST_KNOWN = 6
SHORTEST_NUMBER = 10
COMMON_WORDS = {
    *(
        "password",
        "passwd",
        "secret",
        "changeme",
        "change-me",
        "default",
        "disabled",
        "enabled",
        "offline",
        "online",
        "example",
        "anonymous",
    ),
    *("localhost", "username", "nobody", "testing", "training", "chorales", "musictrain", "unknown", "public", "private", "required"),
    *("optional", "production", "development", "postgres", "warning", "string", "number", "config", "stdout", "stderr", "latest"),
    *("finished", "lightning", "account", "session", "server", "method", "simple", "basic", "bearer", "tokens"),
}


class Secrets:
    """What is known to be secret, and how to hide it.

    Args:
        environment: where secrets may stand under secret names, looked through again at every use; this process's, if left out.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._known: set[str] = set()
        self._seen: dict[str, str] = {}
        self._lock = threading.Lock()
        self._pattern: re.Pattern[str] | None = None

    def remember(self, value: object) -> None:
        """Hide this value wherever it appears from now on; passed over if it is too short or too common to be told apart."""
        text = str(value).strip()
        parts = [text, *(line for line in text.splitlines() if len(line) > 2 * SHORTEST_KNOWN)] if "\n" in text else [text]
        with self._lock:
            new = {part for part in parts if can_be_told_apart(part)} - self._known
            if new:
                self._known |= new
                every = {spelling for known in self._known for spelling in spellings(known)}
                words = "|".join(re.escape(each) for each in sorted(every, key=lambda each: (-len(each), each)))
                self._pattern = re.compile(words)

    def remember_command(self, words: Sequence[str]) -> None:
        """Hide the values of secret options from now on: of ``--x.api_key v``, ``--x.api_key=v``, and inside values."""
        for word, value in zip(words, [*words[1:], ""], strict=True):
            option, equals, rest = word.partition("=")
            if option.startswith("-") and is_secret_name(option):
                self.remember(rest if equals else value)
            self.remember_inside(word)

    def remember_config(self, config: object) -> None:
        """Hide every value that stands under a secret key of a nested configuration from now on, and passwords inside other values."""
        for key, value in leaves(config):
            if isinstance(value, str) and not is_secret_name(key):
                self.remember_inside(value)
            elif is_secret(key, value):
                self.remember(value)

    def remember_inside(self, text: str) -> None:
        """Hide what looks like a secret inside a text from now on: the password of a URL, the value in ``api_key=...``."""
        for found in SHAPES.finditer(text):
            value = found["password"] or found["query"] or found["value"]
            if value and not (value == found["value"] and is_code(found)):
                self.remember(value)

    def hide(self, text: str) -> str:
        """The text with every secret in it replaced by ``***``.

        >>> Secrets({}).hide("login at smtp://ada:hunter2@mail.example.org/?token=abc")
        'login at smtp://ada:***@mail.example.org/?token=***'
        """
        self._look_around()
        return self._without_secrets(text)

    def hidden(self, value: Any, key: str = "") -> Any:
        """A copy of nested values without secrets: what stands under a secret key, and what any text holds.

        >>> Secrets({}).hidden({"api_key": "abc", "lr": 0.1, "urls": ["ftp://a:bcd@e"]})
        {'api_key': '***', 'lr': 0.1, 'urls': ['ftp://a:***@e']}
        """
        self._look_around()
        return self._hidden(value, key, False)

    def hidden_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration as it may be written down; what was hidden in it is remembered."""
        self.remember_config(config)
        return dict(self.hidden(config))

    def hidden_command(self, words: Sequence[str]) -> list[str]:
        """A command line as it may be written down; what was hidden in it is remembered."""
        self.remember_command(words)
        return list(self.hidden(list(words)))

    def _hidden(self, value: Any, key: str, everything: bool) -> Any:
        if isinstance(value, Mapping):
            inside = everything or (bool(value) and is_surely_secret(key))
            return {self._text(each): self._hidden(item, str(each), inside) for each, item in value.items()}
        if isinstance(value, list | tuple):
            inside = everything or (bool(value) and is_surely_secret(key))
            items = [self._hidden(item, key, inside) for item in value]
            return type(value)(_without_option_values(value, items)) if type(value) in (list, tuple) else items
        if is_secret(key, value) or (everything and isinstance(value, str) and value):
            return HIDDEN
        return self._text(value)

    def _text(self, value: Any) -> Any:
        return self._without_secrets(value) if isinstance(value, str) else value

    def _without_secrets(self, text: str) -> str:
        if self._pattern is not None:
            text = self._pattern.sub(HIDDEN, text)
        return SHAPES.sub(_blank, text) if may_hold_a_secret(text) else text

    def _look_around(self) -> None:
        for name, value in list(self._environment.items()):
            if self._seen.get(name) == value:
                continue
            self._seen[name] = value
            if is_secret_name(name) or (is_secret_name(name, of_environment=True) and is_random(value)):
                self.remember(value)
            elif found := URL_PASSWORD.search(value):
                self.remember(found["password"])


def can_be_told_apart(value: str) -> bool:
    """Whether a value is long and odd enough to be hidden wherever it appears.

    >>> [can_be_told_apart(value) for value in ("abc", "offline", "100000", "k3y-of-ada")]
    [False, False, False, True]
    """
    if len(value) < SHORTEST_KNOWN or value.lower() in COMMON_WORDS or set(value) <= {"*"}:
        return False
    if value.replace(".", "").replace(",", "").isdigit():
        return len(value) >= SHORTEST_NUMBER
    # Where a secret lies is none.
    return not (value.startswith(("/", "~", "./")) and os.path.exists(os.path.expanduser(value)))  # noqa: PTH110, PTH111


def is_random(value: str) -> bool:
    """Whether a value looks like a key of a service rather than like a word: it may stand under a name such as ``PIECE_KEY``.

    >>> is_random("C major"), is_random("created_at"), is_random("9f8e7d6c5b4a3210")
    (False, False, True)
    """
    return len(value) >= 12 and " " not in value and any(letter.isdigit() for letter in value)


def is_secret(key: str, value: object) -> bool:
    """Whether what stands under a key is to be hidden: a text under a secret name, a number too under one that leaves no doubt.

    >>> is_secret("hf_token", "abc"), is_secret("token", 60), is_secret("password", 1234), is_secret("password", None)
    (True, False, True, False)
    """
    if isinstance(value, bytes | str):
        return bool(value) and value != HIDDEN and is_secret_name(key)
    return isinstance(value, int | float) and not isinstance(value, bool) and is_surely_secret(key)


def leaves(value: object, key: str = "") -> Iterable[tuple[str, object]]:
    """Every value in nested ones that holds no others, with the name it stands under; what is in a list goes by the list's name."""
    if isinstance(value, Mapping):
        for each, item in value.items():
            yield from leaves(item, key if is_surely_secret(key) else str(each))
    elif isinstance(value, list | tuple):
        for word, item in zip(("", *value), value, strict=False):
            option = isinstance(word, str) and word.startswith("-") and "=" not in word and is_secret_name(word)
            yield from leaves(item, str(word) if option else key)
    else:
        yield key, value


def _without_option_values(words: Sequence[Any], items: list[Any]) -> list[Any]:
    """Hide what follows a secret option, and what is behind its equals sign."""
    hide_next = False
    for position, word in enumerate(words):
        option, equals, rest = word.partition("=") if isinstance(word, str) else ("", "", "")
        secret = option.startswith("-") and is_secret_name(option)
        if hide_next:
            items[position] = HIDDEN
        elif secret and equals and rest:
            items[position] = f"{option}={HIDDEN}"
        hide_next = secret and not equals and not hide_next
    return items


def _blank(found: re.Match[str]) -> str:
    """What a match becomes: only the part that is secret goes."""
    parts = found.groupdict()
    for name in ("password", "query", "credentials", "value"):
        if parts[name] is not None:
            if name == "value" and is_code(found):
                return found[0]
            start, end = found.start(name) - found.start(), found.end(name) - found.start()
            return found[0][:start] + HIDDEN + found[0][end:]
    return HIDDEN


OURS = Secrets()
remember, remember_command, remember_config = OURS.remember, OURS.remember_command, OURS.remember_config
hide, hidden, hidden_config, hidden_command = OURS.hide, OURS.hidden, OURS.hidden_config, OURS.hidden_command


def hidden_keys(config: object, path: str = "") -> list[str]:
    """The dotted keys of a configuration whose value was hidden when it was written down.

    >>> hidden_keys({"logger": [{"api_key": "***"}], "url": "ftp://a:***@b", "note": "good ***"})
    ['logger.0.api_key', 'url']
    """
    if isinstance(config, Mapping):
        return [found for key, value in config.items() for found in hidden_keys(value, f"{path}.{key}" if path else str(key))]
    if isinstance(config, list | tuple):
        return [found for number, value in enumerate(config) for found in hidden_keys(value, f"{path}.{number}" if path else str(number))]
    return [path] if isinstance(config, str) and was_hidden(config) else []


def was_hidden(text: str) -> bool:
    """Whether a text is, or holds in a secret's place, what secrets are hidden by."""
    if HIDDEN not in text:
        return False
    return text.strip() == HIDDEN or any(HIDDEN in (found["password"], found["query"], found["value"]) for found in SHAPES.finditer(text))


def check_nothing_is_hidden(config: object, source: str = "The configuration") -> None:
    """Refuse to work with ``***`` in a secret's place.

    Args:
        config: nested, as it is about to be used.
        source: what holds it, the first words of the message.

    Raises:
        ValueError: naming the keys, why they are hidden, and how to give them again.
    """
    if keys := hidden_keys(config):
        raise ValueError(
            f"{source} says {HIDDEN} for {', '.join(keys)}: what is secret is never written down with a run, so it is not known here. Give "
            f"it again on the command line (--{keys[0]} VALUE) or in one more --config FILE. Better still, leave it out of configurations "
            "and set the environment variable that the service reads, such as WANDB_API_KEY."
        )


__all__ = [
    "HIDDEN",
    "Secrets",
    "check_nothing_is_hidden",
    "hidden",
    "hidden_command",
    "hidden_config",
    "hidden_keys",
    "hide",
    "is_secret_name",
    "remember",
    "remember_command",
    "remember_config",
]
