"""What a command line says of a search: the space of its file with ``--grid`` and ``--random`` laid over it, and everything else."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from musictrain.search.definition import SearchError
from musictrain.search.reading import checked_name, with_space
from musictrain.search.yaml_text import read_yaml

SPACE_OPTIONS = "--grid KEY=a,b, --random 20 'KEY=loguniform(1e-4, 1e-2)' or --space FILE"


def told_of(options: argparse.Namespace) -> dict[str, Any]:
    """The same as plain values; what the command line says comes before what a file says.

    Raises:
        SearchError: for anything that cannot be meant.
    """
    told = with_space(_of_file(options.space)) if options.space is not None else {}
    told = _laid_over(told, options)
    stem = options.space.stem if options.space is not None else f"search-{Path((told.get('config') or ['x'])[-1]).stem}"
    told.setdefault("name", stem)
    checked_name(told["name"])
    return told


def _of_file(path: Path) -> Any:
    try:
        return read_yaml(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SearchError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except SearchError as error:
        raise SearchError(f"{path}: {error}") from error


def _laid_over(told: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A file's search with what the command line says."""
    found = dict(told)
    space = dict(found.get("space") or {})
    if options.grid:
        given = _keys_and_values([word for words in options.grid for word in words], "--grid")
        if isinstance(space.get("grid"), list):
            raise SearchError("The space has several grids, to none of which --grid could be added: write it into the file.")
        space["grid"] = _added(space.get("grid") or {}, given, "--grid")
    if options.random is not None or options.random_seed is not None:
        space["random"] = _random(space.get("random"), options)
    found |= {"space": space} if space else {}
    found |= {key: value for key, value in (("name", options.name), ("slots", options.slots), ("threads", options.threads)) if value}
    found |= {"config": options.config} if options.config else {}
    found["overrides"] = [*(found.get("overrides") or []), *options.overrides]
    found |= {"seeds": _numbers(options.seeds, "--seeds")} if options.seeds is not None else {}
    found |= {"objectives": options.objective} if options.objective else {}
    found |= {"rule": rule} if (rule := _rule(found.get("rule"), options)) is not None else {}
    most = {key: value for key, value in (("trials", options.most_trials), ("hours", options.most_hours)) if value is not None}
    return {**found, "most": {**(found.get("most") or {}), **most}}


def _random(told: Any, options: argparse.Namespace) -> dict[str, Any]:
    found = dict(told or {})
    if options.random is not None:
        number, *words = options.random
        if not number.isdigit():
            raise SearchError(
                f"--random begins with how many points are drawn, such as --random 20 'lr=loguniform(1e-4, 1e-2)', got {number!r}."
            )
        found["n"] = int(number)
        given = {key: values if len(values) != 1 or not _is_call(values[0]) else values[0] for key, values in _words(words, "--random")}
        if isinstance(found.get("space"), list) and given:
            raise SearchError("The space draws from one of several mappings, to none of which --random could add: write it into the file.")
        found["space"] = _added(found.get("space") or {}, given, "--random") if given else found.get("space")
    if options.random_seed is not None:
        found["seed"] = options.random_seed
    return found


def _rule(told: Any, options: argparse.Namespace) -> dict[str, Any] | None:
    """None where nothing is said of it."""
    if options.halving is not None and options.median:
        raise SearchError("--halving and --median are two rules: leave one of them out.")
    found = {"name": told} if isinstance(told, str) else dict(told or {})
    if options.halving is not None:
        found |= {"name": "halving", "factor": options.halving}
    if options.median:
        found["name"] = "median"
    if options.rungs is not None:
        if found.get("name", "none") == "none":
            raise SearchError("--rungs are for a rule that gives points up there: say --halving or --median.")
        found = {key: value for key, value in found.items() if key != "min_steps"} | {"rungs": _numbers(options.rungs, "--rungs")}
    return found or None


def _numbers(text: str, option: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() for word in words):
        raise SearchError(f"{option} is a list of whole numbers such as 1,2,3, got {text!r}.")
    return [int(word) for word in words]


def _added(space: Mapping[str, Any], given: Mapping[str, Any], option: str) -> dict[str, Any]:
    for key in given:
        if key in space and space[key] != given[key]:
            raise SearchError(f"{key} is given twice, by {option} and in the file: leave one of them.")
    return {**space, **given}


def _keys_and_values(words: Sequence[str], option: str) -> dict[str, list[Any]]:
    return dict(_words(words, option))


def _words(words: Sequence[str], option: str) -> list[tuple[str, list[Any]]]:
    """Each ``KEY=A,B`` as the key and its values.

    Raises:
        SearchError: for a word that is not like that, or a key with two spaces.
    """
    found: dict[str, list[Any]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key.strip() and equals and text.strip()):
            raise SearchError(
                f"{option} takes KEY=VALUES such as lr=0.001,0.002, got {word!r}. Instead of it, or with it: {SPACE_OPTIONS}."
            )
        values = [each if _is_call(each) else read_yaml(each) for each in parted(text)]
        if key in found and found[key] != values:
            raise SearchError(f"{key} is given twice by {option}, with different values: leave one of them.")
        found[key] = values
    return list(found.items())


def parted(text: str) -> list[str]:
    """A text at its commas, but for those in brackets or quotes.

    >>> parted("loguniform(1e-4, 1e-2)"), parted("[1, 2],[3, 4]"), parted("a, 'b,c'")
    (['loguniform(1e-4, 1e-2)'], ['[1, 2]', '[3, 4]'], ['a', "'b,c'"])
    """
    parts, depth, quote = [""], 0, ""
    for each in text:
        if quote:
            quote = "" if each == quote else quote
        elif each in "'\"":
            quote = each
        depth += (each in "([{") - (each in ")]}") if not quote else 0
        if each == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += each
    return [part.strip() for part in parts]


def _is_call(text: Any) -> bool:
    return isinstance(text, str) and text.rstrip().endswith(")") and "(" in text and text.partition("(")[0].strip().isidentifier()
