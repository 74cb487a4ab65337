"""One configuration laid over another, key by key, as a stage's is over what it extends.

Conventions:

- Mappings are merged; everything else, lists too, takes the place of what was there.
- A key that ends in ``+`` adds to the list under that key: ``callbacks+: [...]``.
- A part with another class takes the place of the whole part: arguments of one class are none of another. ``AdamW``, the same with its
  path, and another path to it are one class; a class path alone is a part too, and settings without ``init_args`` are arguments.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Mapping
from typing import Any

CLASS, ARGUMENTS, ADDS = "class_path", "init_args", "+"
OF_A_PART = {CLASS, ARGUMENTS, "dict_kwargs"}
CLASS_PATH = re.compile(r"([A-Za-z_]\w*\.)*[A-Z]\w*")
DEFAULTS = {
    "model": "musictrain.MusicModule",
    "data": "musictrain.MusicDataModule",
    "model.init_args.optimizer": "musictrain.optim.AdamW",
    "model.init_args.schedule": "musictrain.optim.WarmupCosine",
}
"""The class of a part that does not name its own."""


def merged(below: Any, above: Any, path: str = "") -> Any:
    """``above`` laid over ``below``; neither is changed.

    >>> merged({"a": 1, "b": {"c": 2, "d": [3]}}, {"b": {"c": 5, "d+": [4]}})
    {'a': 1, 'b': {'c': 5, 'd': [3, 4]}}

    Raises:
        ValueError: if something is added to what is no list, or settings could be those of another class, naming the key.
    """
    if isinstance(above, str) and isinstance(below, Mapping) and CLASS in below:
        above = {CLASS: above} if same_class(str(below[CLASS]), above) else above
    if not isinstance(above, Mapping):
        return copy.deepcopy(above)
    below, above = _as_parts(below, above, path)
    # A mapping over something else is laid over nothing, so that its own additions are lists too.
    is_another = not isinstance(below, Mapping) or _another_class(below, above)
    result = {} if is_another else copy.deepcopy(dict(below))
    for key, value in above.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(key, str) and key.endswith(ADDS):
            result[key[:-1]] = _lengthened(result.get(key[:-1]), value, place)
        else:
            result[key] = merged(result.get(key), value, place)
    if CLASS in result and (beside := [str(key) for key in result if key not in OF_A_PART]):
        raise ValueError(f"{path} has {', '.join(beside)} beside its class_path. Settings of a class go into its init_args.")
    return result


def _as_parts(below: Any, above: Mapping[str, Any], path: str) -> tuple[Any, Mapping[str, Any]]:
    """Both written out, with a class path and ``init_args``, where one of them says that it is about a class."""
    if isinstance(below, str) and CLASS not in above and CLASS_PATH.fullmatch(below):
        below = {CLASS: below}
    if not isinstance(below, Mapping) or not below:
        return below, above
    if CLASS in below and above and not OF_A_PART & set(above):
        return below, {ARGUMENTS: above}
    if CLASS in above and CLASS not in below:
        if path not in DEFAULTS:
            raise ValueError(
                f"{path} is to be {above[CLASS]}, and below it has settings of a class that is not named. Write class_path there."
            )
        return {CLASS: DEFAULTS[path], **(below if OF_A_PART & set(below) else {ARGUMENTS: below})}, above
    return below, above


def _another_class(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return CLASS in above and CLASS in below and not same_class(str(below[CLASS]), str(above[CLASS]))


def same_class(one: str, other: str) -> bool:
    """Whether two class paths, either of which may be a name alone, are one class; a name alone is what ``fit`` takes it for.

    >>> same_class("Decoder", "musictrain.Decoder"), same_class("torch.optim.SGD", "torch.optim.Adam")
    (True, False)
    """
    if one == other or _name(one) != _name(other):
        return one == other
    # Only here is anything imported.
    names = importlib.import_module("musictrain.optim").OPTIMIZERS
    whole = [f"musictrain.optim.{path}" if path in names else path for path in (one, other)]
    if any("." not in path for path in whole):
        return True
    found = [_class_of(path) for path in whole]
    return whole[0] == whole[1] or (found[0] is not None and found[0] is found[1])


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _class_of(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``merged`` for whole configurations, whose outermost keys may be dotted ones, as ``fit`` takes them.

    >>> laid_over({"trainer": {"max_steps": 3, "devices": 1}}, {"trainer.max_steps": 5})
    {'trainer': {'max_steps': 5, 'devices': 1}}

    Raises:
        ValueError: as ``merged``.
    """
    result: dict[str, Any] = merged(below, {key: value for key, value in above.items() if "." not in str(key)})
    for key, value in above.items():
        if "." in str(key):
            result = with_value(result, str(key), value)
    return result


def _lengthened(below: Any, value: Any, place: str) -> list[Any]:
    if not (below is None or isinstance(below, list)) or not isinstance(value, list):
        what = type(value if isinstance(below, list | None) else below).__name__
        raise ValueError(f"{place} adds to a list, and got {what}. Leave out the '+' to set it instead.")
    return [*copy.deepcopy(below or []), *copy.deepcopy(value)]


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key, None if there is none.

    >>> value_at({"trainer": {"max_steps": 3}}, "trainer.max_steps")
    3
    """
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def with_value(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with the value of a dotted key set.

    >>> with_value({"trainer": {"max_steps": 3}}, "trainer.max_epochs", -1)
    {'trainer': {'max_steps': 3, 'max_epochs': -1}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    result: dict[str, Any] = merged(config, value)
    return result
