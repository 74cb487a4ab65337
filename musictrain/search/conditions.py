"""Parts of a space that are there only where others have certain values: ``if: {model.init_args.optimizer: Lion}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from musictrain.search.definition import Condition, Definition, SearchError
from musictrain.search.points import shown_value
from musictrain.suggestions import did_you_mean


def holds(condition: Condition, values: Mapping[str, Any]) -> bool:
    """Whether a point with these values has the part of the space.

    >>> holds(Condition({"optimizer": ("Lion",)}, {}), {"optimizer": "musictrain.optim.Lion"})
    True
    """
    return all(key in values and any(same(values[key], each) for each in allowed) for key, allowed in condition.holds_for.items())


def same(value: Any, wanted: Any) -> bool:
    """Whether two values are one; of classes, the last part of their path will do where no more is said.

    >>> same(1, True), same(1, 1.0), same("musictrain.optim.Lion", "other.Lion")
    (False, True, False)
    """
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return value == wanted
    left, right = (each.get("class_path", each) if isinstance(each, Mapping) else each for each in (value, wanted))
    if isinstance(left, str) and isinstance(right, str):
        return left == right or (("." not in left or "." not in right) and left.rpartition(".")[2] == right.rpartition(".")[2])
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def check_conditions(definition: Definition) -> None:
    """Refuse what can never hold, and a part of the space that hangs on nothing.

    Raises:
        SearchError: naming the key and what there is.
    """
    outside = _values_by_key(definition)
    for place, condition in enumerate(definition.when):
        where = f"'when', part {place + 1}"
        for key, allowed in condition.holds_for.items():
            if key not in outside:
                hint = did_you_mean(key, outside) or f"There are: {', '.join(outside) or 'none'}."
                raise SearchError(f"{where}: {key!r} is no key of the space above it, so that it never varies. {hint}")
            values = outside[key]
            if values is not None and not any(same(value, each) for value in values for each in allowed):
                shown = ", ".join(shown_value(each) for each in values)
                raise SearchError(f"{where} never holds: {key} is never {' or '.join(map(shown_value, allowed))}, but {shown}.")
        for key, drawn in condition.space.items():
            # Several conditions may say something of one key, where they do not hold together: the later one then has the last word.
            known = outside.get(key, ())
            outside[key] = None if known is None or not drawn.is_choice else (*known, *drawn.arguments)


def _values_by_key(definition: Definition) -> dict[str, tuple[Any, ...] | None]:
    """What each key can be outside of all conditions; None where it is drawn from more than a list."""
    found: dict[str, tuple[Any, ...] | None] = {}
    for grid in definition.grid:
        for key, values in grid.items():
            found[key] = (*(found.get(key) or ()), *values)
    for space in definition.random.spaces if definition.random else ():
        for key, drawn in space.items():
            known = found.get(key, ())
            found[key] = (*known, *drawn.arguments) if drawn.is_choice and known is not None else None
    return found
