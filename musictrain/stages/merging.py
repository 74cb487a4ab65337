"""One configuration laid over another, key by key, as a stage's is over what it extends.

Conventions:

- Mappings are merged; everything else, lists too, takes the place of what was there.
- A key that ends in ``+`` adds to the list under that key: ``callbacks+: [...]``.
- A part with another ``class_path`` takes the place of the whole part: arguments of one class are none of another.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

CLASS, ADDS = "class_path", "+"


def merged(below: Any, above: Any, path: str = "") -> Any:
    """``above`` laid over ``below``; neither is changed.

    >>> merged({"a": 1, "b": {"c": 2, "d": [3]}}, {"b": {"c": 5, "d+": [4]}})
    {'a': 1, 'b': {'c': 5, 'd': [3, 4]}}

    Raises:
        ValueError: if something is added to what is no list, naming the key.
    """
    if not isinstance(above, Mapping):
        return copy.deepcopy(above)
    # A mapping over something else is laid over nothing, so that its own additions are lists too.
    is_another = not isinstance(below, Mapping) or _another_class(below, above)
    result = {} if is_another else copy.deepcopy(dict(below))
    for key, value in above.items():
        place = f"{path}.{key}" if path else str(key)
        if isinstance(key, str) and key.endswith(ADDS):
            result[key[:-1]] = _lengthened(result.get(key[:-1]), value, place)
        else:
            result[key] = merged(result.get(key), value, place)
    return result


def _another_class(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return CLASS in above and CLASS in below and above[CLASS] != below[CLASS]


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
