"""How long a run still takes: steps, validations, samplings and savings that are left, times what each took so far.

    eta = Eta()
    eta.tell("step", 0.21)                       # what was measured, whenever it was
    eta.tell("validation", 12.0)
    eta.left(step=400, total=1500, plan=Plan(every={"validation": 150}, at_end={"sampling": 1}))

Nothing here reads a clock. How it is estimated:

- A step takes what the last quarter of the steps took on average (at least the last hundred). Where the last ten are far from that,
  only they count: longer sequences or a busier machine are followed. The first steps of a process (compiling) are left out.
- A step that takes over three times the usual counts as three; the rest is a stall. Stalls count by the step, without the longest one:
  a laptop that was closed once changes nothing, a disk that is slow every hundred steps does.
- What the plan says comes as often as it says; what it does not speak of comes as often as it came so far.
- Between ``low`` and ``high`` the truth lies four times out of five, by how the steps and pauses have varied. With few of them it is wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from musictrain.suggestions import did_you_mean

PAUSES = ("validation", "sampling", "saving")
KINDS = ("step", *PAUSES)

WARM_UP = 3  # tellings of a process that say little about those to come
FEW = 9  # up to so many, each new telling lets all be weighed again
MOST_USUAL = 3.0  # times the median: the rest of a step is a stall
REMEMBERED_STEPS = 100.0
REMEMBERED_SHARE = 0.25
ANOTHER_PACE = 0.3  # where the last ten steps are off by such a share, what was before no longer counts
TRUSTED_AFTER_CHANGE = 20.0  # steps; also of those that another process took, perhaps on another machine
NORMAL_80 = 1.2816  # standard deviations either side that hold four fifths of a normal distribution
UNSURE = 0.5  # relative error of a pace that was seen once
WANDERS = 0.06  # relative: how far a machine's pace strays later on, by which the bounds hold the truth four times out of five


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until a run ends, and what they lie between four times out of five."""

    seconds: float
    low: float
    high: float

    @property
    def is_rough(self) -> bool:
        """Whether it should be called a guess: the bounds are further apart than half of it."""
        return self.high - self.low > 0.5 * self.seconds


@dataclass(frozen=True)
class Plan:
    """What is to come besides the steps.

    Args:
        every: steps between two of a kind, such as ``{"validation": 150}``; epochs times steps of an epoch, where epochs are counted.
        at_end: how many of a kind follow the last step; 2.5 for one that takes two and a half times as long as those before.
        guesses: how many steps' time one of a kind may take, for as long as none was seen.
        limit_seconds: after so many the training ends wherever it is; what comes at the end follows.

    Raises:
        ValueError: for an unknown kind or a number that is not positive.
    """

    every: Mapping[str, float] = field(default_factory=dict)
    at_end: Mapping[str, float] = field(default_factory=dict)
    guesses: Mapping[str, float] = field(default_factory=dict)
    limit_seconds: float | None = None

    def __post_init__(self) -> None:
        for kind in {*self.every, *self.at_end, *self.guesses}:
            check_kind(kind, PAUSES)
        if not all(steps > 0 for steps in self.every.values()):
            raise ValueError(f"A plan got every={dict(self.every)}: steps between two are positive; leave out what never comes.")

    def count(self, kind: str, step: int, total: int) -> int | None:
        """How many of a kind come after ``step``, up to the last step; None if the plan does not say."""
        every = self.every.get(kind)
        return None if every is None else max(math.floor(total / every) - math.floor(step / every), 0)


def check_kind(kind: str, known: Sequence[str] = KINDS) -> None:
    """Refuse what nobody keeps the time of.

    Raises:
        ValueError: if it is not one of ``known``.
    """
    if kind not in known:
        raise ValueError(f"There is no kind {kind!r}: {', '.join(known)}. {did_you_mean(kind, known)}".rstrip())


@dataclass(frozen=True)
class _Span:
    """Seconds that are expected, and the variance of that."""

    seconds: float = 0.0
    variance: float = 0.0

    def __add__(self, other: _Span) -> _Span:
        return _Span(self.seconds + other.seconds, self.variance + other.variance)

    def bounds(self) -> tuple[float, float]:
        # A ratio, not a difference: surprises are late ones, and no time is negative.
        high = self.seconds + NORMAL_80 * math.sqrt(self.variance)
        return (self.seconds**2 / high if high else 0.0), high


def _usual(values: Sequence[float]) -> float:
    """The most that still counts as usual among ``values``; of two the smaller is the median."""
    median = sorted(values)[(len(values) - 1) // 2]
    return MOST_USUAL * median if median else math.inf


class _Pace:
    """Seconds per step."""

    def __init__(self) -> None:
        self.told = 0  # by this process
        self.quickest = math.inf  # while warming up
        self.seen = 0
        self.recent: list[list[float]] = []  # seconds per step, steps
        self.mean = self.variance = self.quick = self.drift = self.weight = 0.0
        self.steps = self.stalled = self.longest_stall = 0.0

    def tell(self, seconds: float, steps: int) -> None:
        self.told += 1
        if self.told <= WARM_UP:
            self.quickest = min(self.quickest, seconds / steps)
            return
        self.recent = [*self.recent, [seconds / steps, float(steps)]][-FEW:]
        self.seen += 1
        for rate, weight in self.recent if self.seen == FEW else self.recent[-1:] if self.seen > FEW else ():
            self._fold(rate, weight)

    def _fold(self, rate: float, steps: float) -> None:
        usual = min(rate, _usual([each for each, _ in self.recent]))
        stall = (rate - usual) * steps
        self.steps, self.stalled, self.longest_stall = self.steps + steps, self.stalled + stall, max(self.longest_stall, stall)
        share = steps / (self.weight + steps)
        off = usual - self.mean
        self.mean += share * off
        self.variance = (1 - share) * (self.variance + share * off**2 * steps) if self.weight else 0.0
        # How far the last ten steps lie from the rest tells how far those to come may.
        self.quick += (usual - self.quick) * (max(share, steps / (10 + steps)))
        self.drift += share * ((self.quick - self.mean) ** 2 - self.drift)
        if abs(self.quick - self.mean) > ANOTHER_PACE * self.mean:
            self.weight = min(self.weight, TRUSTED_AFTER_CHANGE)
        self.weight = min(self.weight + steps, max(REMEMBERED_STEPS, self.weight + REMEMBERED_SHARE * steps))

    def step(self) -> float | None:
        """Seconds of a usual step; None before the first."""
        if self.weight:
            return self.mean
        if not self.recent:
            return self.quickest if math.isfinite(self.quickest) else None
        most = _usual([rate for rate, _ in self.recent])
        return sum(min(rate, most) * steps for rate, steps in self.recent) / sum(steps for _, steps in self.recent)

    def of(self, steps: int) -> _Span | None:
        """What so many steps take."""
        usual = self.step()
        if usual is None:
            return _Span() if steps == 0 else None
        stalls = max(self.stalled - self.longest_stall, 0.0) / self.steps if self.steps else 0.0
        trusted = self.weight or float(len(self.recent))
        level = self.drift + usual**2 * (WANDERS**2 + UNSURE**2 / (1 + trusted)) + (stalls / 2) ** 2
        return _Span(steps * (usual + stalls), steps**2 * level + steps * self.variance)

    def state(self) -> dict[str, Any]:
        kept = {key: value for key, value in vars(self).items() if key not in ("told", "quickest")}
        return {**kept, "recent": [list(each) for each in self.recent]}

    def load(self, state: Mapping[str, Any]) -> None:
        for key in self.state().keys() & state.keys():
            setattr(self, key, state[key])
        self.recent = [list(each) for each in self.recent]
        self.weight = min(self.weight, TRUSTED_AFTER_CHANGE)


class Eta:
    """Estimates how long a run still takes, from what it is told of the past.

    Seconds of different kinds must not overlap: a validation inside an epoch is no part of a step's seconds.
    """

    def __init__(self) -> None:
        self._pace = _Pace()
        self._steps = 0
        self._counts = dict.fromkeys(PAUSES, 0)
        self._last: dict[str, list[float]] = {kind: [] for kind in PAUSES}

    def tell(self, kind: str, seconds: float, steps: int = 1) -> None:
        """Something was done.

        Args:
            kind: one of ``KINDS``.
            seconds: that it took, without what else was done meanwhile.
            steps: how many, where the kind is ``step``.

        Raises:
            ValueError: for an unknown kind, seconds that are negative or not finite, or no steps.
        """
        check_kind(kind)
        if not (math.isfinite(seconds) and seconds >= 0) or steps < 1:
            raise ValueError(f"Eta was told {seconds} seconds and {steps} steps; it needs finite seconds from 0 on, and steps from 1 on.")
        if kind == "step":
            self._steps += steps
            self._pace.tell(seconds, steps)
        else:
            self._counts[kind] += 1
            self._last[kind] = [*self._last[kind], seconds][-5:]

    def left(self, step: int, total: float | None, plan: Plan | None = None, running: tuple[str, float] | None = None) -> TimeLeft | None:
        """The time until the run ends, by what was told so far.

        Args:
            step: optimizer steps done.
            total: optimizer steps in all; None (or infinite) without such a limit.
            plan: what is to come besides.
            running: what is being done now, and for how many seconds already. A validation that has begun counts here, no more in the
                plan.

        Returns:
            None if nobody can tell: there is neither a total nor a limit of time, or not one step has been seen.
        """
        plan = plan or Plan()
        known = total is not None and math.isfinite(total)
        last_step = int(total) if total is not None and known else step
        ending = running is not None and step >= last_step and running[0] in plan.at_end
        end = self._end(plan, running if ending else None)
        training = self._training(step, last_step, plan, None if ending else running) if known else None
        if training is None and plan.limit_seconds is None:
            return None
        limit = math.inf if plan.limit_seconds is None else max(plan.limit_seconds, 0.0)
        whole = end + (_Span(limit) if training is None else training)
        low, high = whole.bounds()
        return TimeLeft(min(whole.seconds, limit + end.seconds), min(low, limit + end.seconds), min(high, limit + end.bounds()[1]))

    def _training(self, step: int, total: int, plan: Plan, running: tuple[str, float] | None) -> _Span | None:
        steps = max(total - step, 0)
        span = self._pace.of(steps)
        if span is None:
            return None
        for kind in PAUSES:
            planned = plan.count(kind, step, total)
            count = steps * self._counts[kind] / self._steps if planned is None and self._steps else planned or 0.0
            span += self._pauses(kind, count, plan)
        return self._without_begun(span, steps, plan, running)

    def _without_begun(self, span: _Span, steps: int, plan: Plan, running: tuple[str, float] | None) -> _Span:
        kind, spent = running or ("step", 0.0)
        check_kind(kind)
        if kind == "step":
            usual = self._pace.step() or 0.0
            return _Span(max(span.seconds - min(spent, usual), 0.0) if steps else span.seconds, span.variance)
        one = self._pauses(kind, 1, plan)
        return span + _Span(max(one.seconds - spent, 0.0), one.variance)

    def _end(self, plan: Plan, running: tuple[str, float] | None) -> _Span:
        end = _Span()
        for kind, count in plan.at_end.items():
            one = self._pauses(kind, count, plan)
            spent = running[1] if running is not None and running[0] == kind else 0.0
            end += _Span(max(one.seconds - spent, 0.0), one.variance)
        return end

    def _pauses(self, kind: str, count: float, plan: Plan) -> _Span:
        last = self._last[kind]
        if not last:
            guess = plan.guesses.get(kind, 0.0) * (self._pace.step() or 0.0)
            return _Span(count * guess, (count * guess) ** 2 / 2)
        most = _usual(last)
        usual = [min(seconds, most) for seconds in last]
        mean = sum(usual) / len(usual)
        variance = sum((seconds - mean) ** 2 for seconds in usual) / len(usual)
        level = variance / len(usual) + mean**2 * (WANDERS**2 + (UNSURE / 2) ** 2 / len(usual))
        return _Span(count * mean, count**2 * level + count * variance)

    def state_dict(self) -> dict[str, Any]:
        """All of it in plain values, so that a resumed run can tell at once."""
        last = {kind: list(seconds) for kind, seconds in self._last.items()}
        return {"pace": self._pace.state(), "steps": self._steps, "counts": dict(self._counts), "last": last}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take it back, in a new process: its first steps are left out again, and its own pace soon counts for more than the old one."""
        self._pace = _Pace()
        self._pace.load(state_dict["pace"])
        self._steps = int(state_dict["steps"])
        self._counts = {kind: int(state_dict["counts"].get(kind, 0)) for kind in PAUSES}
        self._last = {kind: list(state_dict["last"].get(kind, ())) for kind in PAUSES}
