"""The identities of many points from few questions: reading a configuration as ``fit`` does takes a second, setting a value in it nothing.

Points that vary the same classes differ in plain values alone. One of them is read whole, and is the pattern of the others; that a pattern
does what reading does is tried on the ends of each range, on every listed value, and on another seed. Where it does not, or where
something is refused, each point is read by itself.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from musictrain.search.identity import identity_of
from musictrain.search.plan import Planned
from musictrain.search.points import Point
from musictrain.search.resolving import layer_of

MOST_LISTED = 6  # different numbers of a key that are all tried; of more the ends
ALIKE = 3  # so many complaints of the same words, one after the other, are taken to be that of all points of the same classes
SEED, DATA_SEED = "seed_everything", "data.init_args.seed"

Read = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Config = Mapping[str, Any]


class Refused(Exception):  # noqa: N818  (what a reader says is no fault of ours)
    """A configuration that cannot be; the message says why."""


class Asking:
    """Identities of points over one base.

    Args:
        base: the configuration under every point, fully resolved.
        read: what ``fit`` makes of a layer over the base; raises ``Refused``.
        seed_follows: whether the data's seed is that of everything, unless a point says it.
        refuses: why a network, or whatever else hangs on more than one value, cannot be built; an empty text if it can.
    """

    def __init__(self, base: Config, read: Read, *, seed_follows: bool, refuses: Callable[[Config], str] = lambda config: "") -> None:
        self._base, self._read, self._seed_follows, self._refuses = base, read, seed_follows, refuses
        self._classes: set[str] = set()
        self.questions = 0

    def planned(self, wanted: Sequence[tuple[Point, int]]) -> list[Planned]:
        """What each point with its seed comes to, in the same order."""
        found: dict[tuple[Point, int], Planned] = {}
        rest = list(wanted)
        while rest:
            again = []
            for group in self._groups(rest):
                answers = self._of_group(group)
                if answers is None:
                    again += group
                else:
                    found |= {(each.point, each.seed): each for each in answers}
            rest = again
        return [found[each] for each in wanted]

    def _groups(self, wanted: Iterable[tuple[Point, int]]) -> list[list[tuple[Point, int]]]:
        """Those with the same keys and the same classes."""
        groups: dict[str, list[tuple[Point, int]]] = {}
        for point, seed in wanted:
            classes = {key: value for key, value in point.values.items() if self._names_class(key, value)}
            groups.setdefault(json.dumps([sorted(point.values), classes], sort_keys=True), []).append((point, seed))
        return list(groups.values())

    def _names_class(self, key: str, value: Any) -> bool:
        return key in self._classes or isinstance(value, Mapping) or isinstance(value_of(self._base, key), Mapping)

    def _of_group(self, group: list[tuple[Point, int]]) -> list[Planned] | None:
        """The answers; None if some key has turned out to name a class, so that there are more groups."""
        point, seed = group[0]
        try:
            pattern = self._ask(point.values, seed)
        except Refused:
            return self._one_by_one(group)
        classes = {key for key in point.values if key not in self._classes and self._became_class(pattern, key, point.values[key])}
        if classes:
            self._classes |= classes
            return None
        plain = [key for key in point.values if not self._names_class(key, point.values[key])]
        if not all(self._holds_for(pattern, values, each) for values, each in self._trials(group, plain)):
            return self._one_by_one(group)
        return [self._answer(each, number, self._filled(pattern, each.values, number, plain)) for each, number in group]

    def _became_class(self, pattern: Config, key: str, given: Any) -> bool:
        return isinstance(value_of(pattern, key), Mapping) and not isinstance(given, Mapping) and not self._names_class(key, given)

    def _trials(self, group: list[tuple[Point, int]], plain: list[str]) -> Iterator[tuple[Mapping[str, Any], int]]:
        """Values that stand for all of a group, and a seed for each."""
        first, seeds = group[0][0].values, list(dict.fromkeys(seed for _, seed in group))
        told = {key: representatives([point.values[key] for point, _ in group]) for key in plain}
        number = max([len(each) for each in told.values()] + [min(len(seeds), 2)])
        if len(group) == 1:
            return
        for place in range(number):
            yield {**first, **{key: each[place % len(each)] for key, each in told.items()}}, seeds[-1 if place % 2 else 0]

    def _holds_for(self, pattern: Config, values: Mapping[str, Any], seed: int) -> bool:
        plain = [key for key in values if not self._names_class(key, values[key])]
        try:
            return identity_of(self._ask(values, seed)) == identity_of(self._filled(pattern, values, seed, plain))
        except Refused:
            return False

    def _filled(self, pattern: Config, values: Mapping[str, Any], seed: int, plain: Iterable[str]) -> Config:
        """The pattern with the values of another point."""
        changes: dict[str, Any] = {SEED: seed}
        if self._seed_follows and DATA_SEED not in values and value_of(pattern, DATA_SEED) is not None:
            changes[DATA_SEED] = seed
        for key in plain:
            is_float = isinstance(value_of(pattern, key), float) and isinstance(values[key], int) and not isinstance(values[key], bool)
            changes[key] = float(values[key]) if is_float else values[key]
        for key, value in changes.items():
            pattern = _with_value(pattern, key.split("."), value)
        return pattern

    def _one_by_one(self, group: list[tuple[Point, int]]) -> list[Planned]:
        answers: list[Planned] = []
        for point, seed in group:
            last = [each.error for each in answers[-ALIKE:]]
            if len(last) == ALIKE and last[0] and len(set(last)) == 1:
                answers.append(Planned(point, seed, "", last[0]))
                continue
            try:
                answers.append(self._answer(point, seed, self._ask(point.values, seed)))
            except Refused as error:
                answers.append(Planned(point, seed, "", str(error)))
        return answers

    def _ask(self, values: Mapping[str, Any], seed: int) -> Config:
        self.questions += 1
        return self._read(layer_of(values, seed))

    def _answer(self, point: Point, seed: int, config: Config) -> Planned:
        fault = self._refuses(config)
        return Planned(point, seed, "", fault) if fault else Planned(point, seed, identity_of(config))


def representatives(values: Sequence[Any]) -> list[Any]:
    """Values that stand for all: every one of few, and whatever is no number; of many numbers the ends.

    >>> representatives([0.5, *range(100)])
    [0.5, 0, 99]
    """
    different = list({json.dumps(value, sort_keys=True): value for value in values}.values())
    if len(different) <= MOST_LISTED:
        return different
    found = []
    for kind, members in itertools.groupby(sorted(different, key=_kind), key=_kind):
        listed = list(members)
        found += [min(listed), max(listed)] if kind in ("float", "int") and len(listed) > 1 else listed
    return found


def _kind(value: Any) -> str:
    return type(value).__name__


def value_of(config: Any, key: str) -> Any:
    """The value of a dotted key, None if there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _with_value(config: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with one value set; what lies beside the way is shared."""
    first, *rest = path
    below = dict(config) if isinstance(config, Mapping) else {}
    below[first] = _with_value(below.get(first), rest, value) if rest else value
    return below
