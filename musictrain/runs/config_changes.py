"""What changed between two configurations, leaf by leaf, and a fingerprint of what a configuration trains."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Iterable, Iterator
from typing import Any

from musictrain.runs.records import plain

# Where something is written, shown or loaded from, and over which devices it is spread, which does not change what is trained.
ELSEWHERE = (
    *("runs", "name", "ckpt_path", "config", "trainer.logger", "trainer.enable_progress_bar", "trainer.default_root_dir"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "timeout_minutes", "data.init_args.wait_minutes"),
)


def config_changes(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every leaf in which two configurations differ: (dotted key, then, now).

    >>> list(config_changes({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}))
    [('b.c', 2, 3)]
    """
    if isinstance(was, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*was, *now]):
            yield from config_changes(was.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    elif was != now:
        yield path, was, now


def config_fingerprint(config: Any, without: Iterable[str] = ELSEWHERE) -> str:
    """16 hexadecimal digits that stand for everything in a configuration but the dotted keys ``without``."""
    return hashlib.sha256(json.dumps(plain(_without(config, "", set(without))), sort_keys=True).encode()).hexdigest()[:16]


def known_to(earlier: Any, config: Any) -> Any:
    """A configuration without the keys that an earlier one does not have.

    >>> known_to({"a": 1, "b": [{"c": 2}]}, {"a": 5, "b": [{"c": 2, "d": 3}], "e": 4})
    {'a': 5, 'b': [{'c': 2}]}
    """
    if isinstance(earlier, dict) and isinstance(config, dict):
        return {key: known_to(earlier[key], value) for key, value in config.items() if key in earlier}
    if isinstance(earlier, list) and isinstance(config, list) and len(earlier) == len(config):
        return [known_to(then, now) for then, now in zip(earlier, config, strict=True)]
    return config


def without_new_defaults(earlier: Any, config: Any) -> Any:
    """A configuration without the arguments that its classes have learnt since an earlier one was written, where they are as by default.

    So a run that was begun before there was such an argument is seen to be what it was; one that is given another value is not.

    >>> was = {"class_path": "fractions.Fraction", "init_args": {"numerator": 2}}
    >>> now = {"class_path": "fractions.Fraction", "init_args": {"numerator": 2, "denominator": None}}
    >>> without_new_defaults(was, now) == was
    True
    """
    if isinstance(earlier, list) and isinstance(config, list) and len(earlier) == len(config):
        return [without_new_defaults(then, now) for then, now in zip(earlier, config, strict=True)]
    if not (isinstance(earlier, dict) and isinstance(config, dict)):
        return config
    kept = {key: without_new_defaults(earlier[key], value) if key in earlier else value for key, value in config.items()}
    before, arguments = earlier.get("init_args"), kept.get("init_args")
    if isinstance(before, dict) and isinstance(arguments, dict) and any(name not in before for name in arguments):
        usual = _defaults(str(config.get("class_path")))
        kept["init_args"] = {
            name: value for name, value in arguments.items() if name in before or name not in usual or plain(usual[name]) != value
        }
    return kept


def _defaults(class_path: str) -> dict[str, Any]:
    """The defaults of a class's arguments; empty if there is no such class."""
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return {}
    return {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}


def _without(config: Any, path: str, left_out: set[str]) -> Any:
    if not isinstance(config, dict):
        return config
    dotted = {key: f"{path}.{key}" if path else str(key) for key in config}
    return {key: _without(value, dotted[key], left_out) for key, value in config.items() if dotted[key] not in left_out}
