"""Pacing: how a share grows over training, from little to everything.

Conventions: the *amount* is what a course counts, optimizer steps, tokens, or how competent the network is; the *way* is the part of the
way from ``begin`` to ``until`` that is behind, from 0 to 1. Every shape begins at ``start``, never falls, and is 1 from ``until`` on.

Sources: Platanios et al. 2019, "Competence-based curriculum learning for neural machine translation" (linear, and root with power 2);
Hacohen and Weinshall 2019, "On the power of curriculum learning in training deep networks" (steps); Penha and Hauff 2020, "Curriculum
learning strategies for IR" (geometric).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from musictrain.suggestions import did_you_mean

Made = TypeVar("Made")


def linear(way: float, start: float) -> float:
    """As much more in every part of the way.

    >>> linear(0.5, 0.25)
    0.625
    """
    return start + (1.0 - start) * way


def root(way: float, start: float, power: float = 2.0) -> float:
    """Fast at first, slower as there is more to learn: so that every new example is seen for as long as the others were.

    >>> root(0.5, 0.0)
    0.7071067811865476
    """
    return float((way * (1.0 - start**power) + start**power) ** (1.0 / power))


def step(way: float, start: float, stages: int = 4) -> float:
    """In so many equal jumps; nothing changes between them.

    >>> [step(way, 0.25, stages=2) for way in (0.0, 0.49, 0.5, 1.0)]
    [0.25, 0.25, 0.625, 1.0]
    """
    return linear(math.floor(way * stages) / stages, start)


def geometric(way: float, start: float) -> float:
    """As many times more in every part of the way: slow at first, and most of all near the end.

    >>> geometric(0.5, 0.25)
    0.5
    """
    return float(start ** (1.0 - way))


SHAPES: dict[str, str] = {
    "linear": "evenly",
    "root": "fast at first",
    "step": "in jumps",
    "geometric": "slowly at first",
}
"""What a pacing may be shaped like, and what that means."""


@dataclass(frozen=True)
class Pacing:
    """How a share grows with what a course counts.

    Args:
        until: from here on it is 1. In what the course counts: optimizer steps, or tokens; None, the whole way, is for a course by value.
        shape: ``linear``, ``root``, ``step`` or ``geometric``.
        start: the share at first, above 0 and at most 1.
        begin: up to here it stays at ``start``.
        power: of the root; 2 is the usual one.
        stages: jumps of ``step``.

    Raises:
        ValueError: for a setting out of its range.

    >>> pacing = Pacing(until=1000, start=0.25)
    >>> pacing.at(0), pacing.at(500), pacing.at(2000)
    (0.25, 0.625, 1.0)
    """

    until: float | None = None
    shape: str = "linear"
    start: float = 0.1
    begin: float = 0.0
    power: float = 2.0
    stages: int = 4

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            hint = did_you_mean(str(self.shape), SHAPES) or f"There are: {', '.join(SHAPES)}."
            raise ValueError(f"A pacing got shape={self.shape!r}. {hint}")
        if not (is_number(self.start) and 0.0 < self.start <= 1.0):
            raise ValueError(f"A pacing got start={self.start!r}; it needs a share above 0 and at most 1, which is everything.")
        check_way("A pacing", self.begin, self.until)
        if not (is_number(self.power) and self.power > 0):
            raise ValueError(f"A pacing got power={self.power!r}; it needs a number above 0, and 2 is the usual root.")
        check_stages("A pacing", self.stages)

    def at(self, amount: float) -> float:
        """The share when so much is behind, from ``start`` to 1."""
        way = way_of(amount, self.begin, self.until)
        # Rounding must neither fall short of everything in the end, nor go beyond it.
        return 1.0 if way >= 1.0 else min(1.0, max(self.start, self._shaped(way)))

    def _shaped(self, way: float) -> float:
        if self.shape == "root":
            return root(way, self.start, self.power)
        if self.shape == "step":
            return step(way, self.start, self.stages)
        shapes: dict[str, Callable[[float, float], float]] = {"linear": linear, "geometric": geometric}
        return shapes[self.shape](way, self.start)


@dataclass(frozen=True)
class Shift:
    """How a mixture of corpora becomes another one.

    Args:
        start: shares of the rows by corpus at first; what they sum to is the whole.
        end: the same from ``until`` on.
        until: where it is done, in what the course counts; None, the whole way, is for a course by value.
        begin: up to here it stays at ``start``.
        stages: so many equal jumps; None shifts evenly.

    Raises:
        ValueError: for a setting out of its range.

    >>> Shift({"ryans": 1}, {"chorales": 1}, until=100).at(25)
    (('ryans', 0.75), ('chorales', 0.25))
    """

    start: Mapping[str, float]
    end: Mapping[str, float]
    until: float | None = None
    begin: float = 0.0
    stages: int | None = None

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            object.__setattr__(self, name, shares(f"A mixture's {name}", getattr(self, name)))
        check_way("A mixture", self.begin, self.until)
        if self.stages is not None:
            check_stages("A mixture", self.stages)

    def at(self, amount: float) -> tuple[tuple[str, float], ...]:
        """Pairs of corpus and share when so much is behind; the shares sum to 1."""
        way = way_of(amount, self.begin, self.until)
        way = way if self.stages is None else math.floor(way * self.stages) / self.stages
        names = dict.fromkeys([*self.start, *self.end])
        return tuple((name, (1.0 - way) * self.start.get(name, 0.0) + way * self.end.get(name, 0.0)) for name in names)


def shares(what: str, given: Any) -> dict[str, float]:
    """Shares by name that sum to 1, from numbers that sum to anything.

    Raises:
        ValueError: if these are none.
    """
    fits = isinstance(given, Mapping) and all(is_number(value) and value >= 0 for value in given.values())
    if not fits or not math.fsum(given.values()) > 0:
        raise ValueError(f"{what} got {given!r}; it needs shares by the name of a corpus, such as {{'ryans': 0.8, 'chorales': 0.2}}.")
    whole = math.fsum(given.values())
    return {str(name): float(value) / whole for name, value in given.items()}


def way_of(amount: float, begin: float, until: float | None) -> float:
    """The part of the way from ``begin`` to ``until`` that is behind, from 0 to 1; the whole of it ends at 1."""
    return min(1.0, max(0.0, (amount - begin) / ((1.0 if until is None else until) - begin)))


def check_way(who: str, begin: float, until: float | None) -> None:
    """Refuse a way that leads nowhere."""
    end = 1.0 if until is None else until
    if not (is_number(begin) and is_number(end) and 0 <= begin < end):
        raise ValueError(f"{who} got begin={begin!r} and until={until!r}; it needs two numbers from 0 on, `begin` the lower one.")


def check_stages(who: str, stages: int) -> None:
    """Refuse what is no number of jumps."""
    if not (isinstance(stages, int) and not isinstance(stages, bool) and stages >= 1):
        raise ValueError(f"{who} got stages={stages!r}; it needs a whole number from 1 on: the jumps on the way.")


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no text that reads like one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def made_of(kind: type[Made], what: str, given: Any) -> Made:
    """A pacing or a shift, from what a configuration holds: its settings by name.

    Raises:
        ValueError: for a setting that it does not have, or that is out of its range.
    """
    if isinstance(given, kind):
        return given
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} got {given!r}; it needs settings by name: {', '.join(known)}.")
    for name in given:
        if name not in known:
            raise ValueError(f"{what} has no {name!r}, only {', '.join(known)}. {did_you_mean(str(name), known)}".rstrip())
    if missing := [name for name in ("start", "end") if kind is Shift and name not in given]:
        raise ValueError(f"{what} lacks {' and '.join(missing)}: shares of the rows by corpus, such as {{'ryans': 0.8, 'chorales': 0.2}}.")
    try:
        return kind(**given)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
