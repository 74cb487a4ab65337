"""From a space to its points, in an order that never changes.

Conventions:

- A grid is scikit-learn's ``ParameterGrid``, what is drawn its ``ParameterSampler`` (lists with putting back), in their order.
- With both, each combination of the grid has the same ``n`` draws, so that its values are compared alike.
- More draws begin with the fewer ones of the same seed; more values of the grid leave the draws of the others as they are.
- A conditional part has random numbers of its own: it changes nothing of what is drawn elsewhere.
- A space of lists alone, up to ``MOST_LISTED`` points, is shuffled and not drawn from, so that no point comes twice and all are found.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from musictrain.search.conditions import holds
from musictrain.search.constraints import Constraint, read_constraint
from musictrain.search.definition import Condition, Definition, Random, SearchError
from musictrain.search.points import Point

MOST_LISTED = 100_000
MOST_POINTS = 1_000_000
TRIES = 200  # draws for each point that is wanted, before we give up
Values = dict[str, Any]


def points_of(definition: Definition, base: Mapping[str, Any] | None = None) -> list[Point]:
    """Every point of a search, each once; of the same definition always the same.

    Args:
        definition: the search, its keys in full.
        base: values of the configuration under all points, by dotted key, for constraints that name more than the space.

    Raises:
        SearchError: if there is none, if there are too many to be listed, or if too few meet the constraints.
    """
    check_size(definition)
    constraints = [read_constraint(text) for text in definition.constraints]
    found: dict[Point, None] = {}
    for combination in combinations(definition):
        if definition.random is None:
            expanded = (Point(values) for values in _listed_parts(definition.when, combination))
            found.update(dict.fromkeys(point for point in expanded if _meets(point, constraints, base)))
        else:
            found.update(dict.fromkeys(_drawn_points(definition, combination, constraints, base)))
    if not found:
        raise SearchError(_nothing(definition))
    return list(found)


def combinations(definition: Definition) -> list[Values]:
    """Those of the grid, as scikit-learn lists them; a single empty one without a grid."""
    if not definition.grid:
        return [{}]
    from sklearn.model_selection import ParameterGrid

    return list(ParameterGrid([{key: list(values) for key, values in grid.items()} for grid in definition.grid]))


def largest_number(definition: Definition) -> int:
    """How many points there are at most, counted and not listed."""
    grid = sum(math.prod(len(values) for values in each.values()) for each in definition.grid) if definition.grid else 1
    if definition.random is not None:
        return grid * definition.random.n
    return grid * math.prod(max(_length(each), 1) for each in definition.when)


def check_size(definition: Definition) -> None:
    """Refuse a space that is empty, or too large to be listed.

    Raises:
        SearchError: saying how many points there would be.
    """
    if not definition.grid and definition.random is None:
        raise SearchError("The space is empty: say what to try, such as --grid KEY=a,b or --random 20 'KEY=loguniform(1e-4, 1e-2)'.")
    if (number := largest_number(definition)) > MOST_POINTS:
        raise SearchError(f"The space has up to {number:,} points. That is more than anybody can try: draw some of them by random: n.")
    for each in definition.when if definition.random is None else ():
        drawn = [key for key, distribution in each.space.items() if not distribution.is_choice]
        if drawn:
            raise SearchError(
                f"'when' draws {drawn[0]} from {each.space[drawn[0]]}, and a grid draws nothing: list its values, or say random: n."
            )


def _length(condition: Condition) -> int:
    return math.prod(len(each.arguments) if each.is_choice else 1 for each in condition.space.values())


def _meets(point: Point, constraints: Sequence[Constraint], base: Mapping[str, Any] | None) -> bool:
    if not constraints:
        return True
    values = {**(base or {}), **point.values}
    return all(each.holds(values) for each in constraints)


def _listed_parts(when: Sequence[Condition], values: Values) -> Iterator[Values]:
    """Values with every combination of the conditional parts that hold, one part after the other."""
    if not when:
        yield values
        return
    first, *rest = when
    if not holds(first, values):
        yield from _listed_parts(rest, values)
        return
    names = sorted(first.space)
    for chosen in itertools.product(*(first.space[name].arguments for name in names)):
        yield from _listed_parts(rest, {**values, **dict(zip(names, chosen, strict=True))})


def _drawn_points(
    definition: Definition, combination: Values, constraints: Sequence[Constraint], base: Mapping[str, Any] | None
) -> Iterator[Point]:
    """As many different points as are to be drawn over one combination of the grid.

    Raises:
        SearchError: if too few are found that meet the constraints.
    """
    assert definition.random is not None
    wanted, found = definition.random.n, set[Point]()
    listed = _all_listed(definition, combination)
    for tried, values in enumerate(_draws(definition, combination) if listed is None else listed, start=1):
        point = Point(values)
        if point not in found and _meets(point, constraints, base):
            found.add(point)
            yield point
        if len(found) == wanted:
            return
        if tried >= TRIES * (wanted + 10):
            why = "meet the constraints" if constraints else "differ"
            raise SearchError(f"Of {tried:,} draws only {len(found):,} {why}, and {wanted:,} are wanted: widen the space, or lower n.")


def _all_listed(definition: Definition, combination: Values) -> Iterable[Values] | None:
    """Every point over a combination, shuffled, if all of the space is lists and they are not too many; else None."""
    assert definition.random is not None
    spaces: list[Mapping[str, Any]] = [*definition.random.spaces, *(each.space for each in definition.when)]
    if not all(each.is_choice for space in spaces for each in space.values()):
        return None
    number = sum(math.prod(len(each.arguments) for each in space.values()) for space in definition.random.spaces)
    if number * math.prod(max(_length(each), 1) for each in definition.when) > MOST_LISTED:
        return None
    from sklearn.model_selection import ParameterGrid
    from sklearn.utils import shuffle

    grid = ParameterGrid([{key: list(each.arguments) for key, each in space.items()} for space in definition.random.spaces])
    points = [values for drawn in grid for values in _listed_parts(definition.when, {**combination, **drawn})]
    result: Iterable[Values] = shuffle(points, random_state=definition.random.seed)
    return result


def _draws(definition: Definition, combination: Values) -> Iterator[Values]:
    """Draws without end; every conditional part draws each time, whether it holds or not, so that none shifts another."""
    assert definition.random is not None
    parts = [_sampler([each.space], _seed_of_part(definition.random, place, each)) for place, each in enumerate(definition.when)]
    for drawn, *conditional in zip(_sampler(definition.random.spaces, definition.random.seed), *parts, strict=False):
        values = {**combination, **drawn}
        for condition, further in zip(definition.when, conditional, strict=True):
            values |= further if holds(condition, values) else {}
        yield values


def _sampler(spaces: Sequence[Mapping[str, Any]], seed: int) -> Iterator[Values]:
    from sklearn.model_selection import ParameterSampler

    sampler: Iterator[Values] = iter(ParameterSampler([dict(space) for space in spaces], n_iter=10**9, random_state=seed))
    return sampler


def _seed_of_part(random: Random, place: int, condition: Condition) -> int:
    """A seed that hangs on what the part says, so that a part more leaves those that are there alone."""
    told = json.dumps(
        [random.seed, {key: list(values) for key, values in condition.holds_for.items()}, sorted(condition.space)], sort_keys=True
    )
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:4], "big")


def _nothing(definition: Definition) -> str:
    if definition.constraints:
        return f"No point meets the constraints: {'; '.join(definition.constraints)}. Widen the space, or take one of them back."
    return "The space is empty: it has not a single point."


def space_fingerprint(definition: Definition, base: Mapping[str, Any] | None = None) -> str:
    """16 hexadecimal digits that stand for everything the points hang on."""
    names = sorted({name for text in definition.constraints for name in read_constraint(text).names})
    fixed = {name: (base or {})[name] for name in names if name in (base or {})}
    told = json.dumps([definition.told()["space"], fixed], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]
