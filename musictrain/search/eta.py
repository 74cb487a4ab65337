"""What a search costs, before it begins and while it goes on: trials, steps, and the time left of all of it.

Conventions:

- A trial takes, for each step, what it took so far, starts included; one that has not begun what the others took on average.
- Rounds wait for their last trial: a round takes as long as its jobs do, dealt out to the slots in their order.
- How many points go on from a rung to come is what the rule says of as many as are expected there; of ``median`` it is half of them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from musictrain.runs.eta import TimeLeft
from musictrain.search.definition import Definition
from musictrain.search.ledger import Ledger
from musictrain.search.plan import Planned, Rung, course, is_settled
from musictrain.search.rules import Field, rule_of

SPREAD = 0.15  # relative: how far the time left strays in any case
SPREAD_TO_COME = 0.35  # of rounds to come: which points go on, and how fast those are, nobody knows
UNKNOWN_SPREAD = 0.5  # with one pace known


@dataclass(frozen=True)
class Cost:
    """What a whole search takes if nothing fails and nothing is known yet.

    Args:
        points: different ones.
        trials: points times seeds.
        steps: optimizer steps of all trials together.
        rounds: points and steps of each of their trials, by rung.
    """

    points: int
    trials: int
    steps: int
    rounds: tuple[tuple[int, int], ...]

    def seconds(self, seconds_per_step: float, slots: int, seeds: int) -> float:
        """How long it takes with so many trials at the same time."""
        return sum(math.ceil(points * seeds / slots) * steps * seconds_per_step for points, steps in self.rounds)

    def words(self) -> str:
        """Such as ``27 trials, 8,100 steps in all``."""
        return f"{self.trials:,} trial{'s' if self.trials != 1 else ''}, {self.steps:,} steps in all"


def cost_of(definition: Definition, points: int) -> Cost:
    """What a search over so many points takes.

    Args:
        definition: with all its rungs.
        points: different ones.
    """
    rungs = definition.rule.rungs
    rounds, count = [], points
    for place, step in enumerate(rungs):
        rounds.append((count, step - (rungs[place - 1] if place else 0)))
        count = going_on(definition, count)
    seeds = len(definition.seeds)
    return Cost(points, points * seeds, sum(each * steps * seeds for each, steps in rounds), tuple(rounds))


def going_on(definition: Definition, points: int) -> int:
    """How many points of so many are expected to go on from a rung."""
    return rule_of(definition.rule.name, definition.rule.factor).keep(Field(points, points, 0, range(points))) if points else 0


@dataclass(frozen=True)
class Running:
    """A job that goes on.

    Args:
        step: that it has come to.
        seconds: of training so far, over all its attempts.
    """

    step: int = 0
    seconds: float = 0.0


def time_left(
    definition: Definition,
    planned: Iterable[Planned],
    ledger: Ledger,
    running: Mapping[str, Running] | None = None,
    slots: int | None = None,
    seconds_per_step: float | None = None,
) -> TimeLeft | None:
    """The time until the last round ends, and what it lies between; None if nobody can tell yet.

    Args:
        definition: with all its rungs.
        planned: every trial.
        ledger: what is known of them.
        running: jobs of this round that go on, by identity.
        slots: how many jobs at the same time; as the definition says if left out.
        seconds_per_step: of a trial, if it is known from elsewhere; it counts for as long as no trial of this search has told.
    """
    rungs = course(definition, planned, ledger)
    if rungs[-1].keep is not None:
        return TimeLeft(0.0, 0.0, 0.0)
    running, slots = running or {}, max(definition.slots if slots is None else slots, 1)
    own = {identity: pace for identity, trial in ledger.trials.items() if (pace := trial.seconds_per_step) is not None}
    paces = [*own.values(), *(each.seconds / each.step for each in running.values() if each.step > 0 and each.seconds > 0)]
    paces = paces or ([] if seconds_per_step is None else [seconds_per_step])
    if not paces:
        return None
    usual = math.fsum(paces) / len(paces)
    now = makespan(_this_round(rungs[-1], ledger, running, own, usual), slots)
    later = _rounds_to_come(definition, rungs, ledger, usual, slots)
    unsure = (_spread(paces) + SPREAD) * now + (_spread(paces) + SPREAD_TO_COME) * later
    whole = now + later
    return TimeLeft(whole, whole**2 / (whole + unsure) if whole else 0.0, whole + unsure)


def makespan(jobs: Sequence[float], slots: int) -> float:
    """How long jobs of so many seconds take if the next one begins whenever a slot is free.

    >>> makespan([3.0, 1.0, 1.0, 2.0], 2)
    4.0

    Raises:
        ValueError: if there is no slot.
    """
    if slots < 1:
        raise ValueError(f"Jobs need a slot to run in, got {slots}.")
    free = [0.0] * min(slots, len(jobs))
    for seconds in jobs:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free, default=0.0)


def _this_round(rung: Rung, ledger: Ledger, running: Mapping[str, Running], own: Mapping[str, float], usual: float) -> list[float]:
    missing = {trial.identity for entry in rung.entered for trial in entry.trials if not is_settled(trial, ledger, rung.step)}
    seconds = []
    # Those that go on already have a slot.
    for identity in sorted(missing, key=lambda each: each not in running):
        known = ledger.trial(identity)
        step = max(0 if known is None else known.step, running[identity].step if identity in running else 0)
        seconds.append(max(rung.step - step, 0) * own.get(identity, usual))
    return seconds


def _rounds_to_come(definition: Definition, rungs: Sequence[Rung], ledger: Ledger, usual: float, slots: int) -> float:
    entered, total, count = rungs[-1].entered, 0.0, len(rungs[-1].entered)
    trials = [trial for entry in entered for trial in entry.trials]
    for before, step in zip(definition.rule.rungs[len(rungs) - 1 :], definition.rule.rungs[len(rungs) :], strict=False):
        count = going_on(definition, count)
        # Some may be known already: another search, or this one before points were added.
        missing = sum(not is_settled(trial, ledger, step) for trial in trials) / len(trials)
        total += math.ceil(count * len(definition.seeds) * missing / slots) * (step - before) * usual
    return total


def _spread(paces: Sequence[float]) -> float:
    """How unsure the mean of some paces is, relative to it."""
    if len(paces) == 1:
        return UNKNOWN_SPREAD
    mean = math.fsum(paces) / len(paces)
    variance = math.fsum((pace - mean) ** 2 for pace in paces) / (len(paces) - 1)
    return math.sqrt(variance / len(paces)) / mean if mean else 0.0
