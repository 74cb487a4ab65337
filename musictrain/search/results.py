"""What came out of a search so far: one row for each point, best first, as the terminal, the page and ``results.csv`` show it.

Conventions:

- Points that came further stand before those that were given up earlier; among those of one rung the ranking of the rung counts. What is
  measured early is never compared with what is measured late.
- A mean is over the seeds, with a t interval that holds the true one in 90 of 100 cases; one seed alone has no bounds.
- The Pareto front is that of the points at the furthest rung that any has a value at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from musictrain.search.definition import Definition
from musictrain.search.intervals import Interval, t_interval
from musictrain.search.ledger import FAILED, SHORT, Ledger, Trial
from musictrain.search.objectives import is_whole, worth
from musictrain.search.pareto import fronts
from musictrain.search.plan import Entry, Planned, Rung, course, mean_of, pruned_because, ranking_at
from musictrain.search.points import Point

DONE, TRAINING, GIVEN_UP, FAILED_POINT = "done", "training", "pruned", "failed"
IMPOSSIBLE = "impossible"
TO_COME = "to come"


@dataclass(frozen=True)
class TrialRow:
    """One trial of a point.

    Args:
        seed: its ``seed_everything``.
        trial: what it is called, empty if it cannot be.
        identity: hash of its configuration, empty if it cannot be.
        run: name of its run's folder, empty if it has not begun.
        state: of the ledger, ``to come``, or ``impossible``.
        step: the furthest at which it was measured.
        values: of the objectives where its point stands, by metric; empty if it has none there.
        reason: why it failed or was given up.
        attempts: processes that have worked at it.
        seconds: that they took.
        host: where the last one ran.
    """

    seed: int
    trial: str = ""
    identity: str = ""
    run: str = ""
    state: str = TO_COME
    step: int = 0
    values: Mapping[str, float] | None = None
    reason: str = ""
    attempts: int = 0
    seconds: float = 0.0
    host: str = ""


@dataclass(frozen=True)
class Row:
    """One point.

    Args:
        place: from 1, the same for equals; None without a value.
        point: what was tried.
        state: ``done`` (at the last rung), ``training`` (or to be trained in this round), ``pruned``, or ``failed`` (without any value).
        step: where its values were measured, 0 without any.
        means: of each objective, over the seeds that have a value there.
        trials: one for each seed.
        curve: the mean of each objective at each rung that the point has a value at.
        pareto: whether no other point at the furthest rung is nowhere worse and somewhere better.
        reason: why it failed or was given up.
    """

    place: int | None
    point: Point
    state: str
    step: int
    means: Mapping[str, Interval]
    trials: tuple[TrialRow, ...]
    curve: Mapping[str, tuple[tuple[int, float], ...]]
    pareto: bool = False
    reason: str = ""

    def best_run(self, objectives: Sequence[Any]) -> TrialRow | None:
        """Of its trials the one that the first objective likes best; None if none has a value."""
        found = [(values[0], place) for place, trial in enumerate(self.trials) if is_whole(values := worth(trial.values, objectives))]
        return self.trials[min(found)[1]] if found else None


@dataclass(frozen=True)
class Results:
    """All of a search.

    Args:
        rows: those with a place first, best first.
        rungs: what each rung has come to: ``step``, ``entered``, ``with_value``, ``kept`` (None for one that is not decided).
        finished: whether nothing is left to do.
    """

    rows: tuple[Row, ...]
    rungs: tuple[Mapping[str, int | None], ...]
    finished: bool

    @property
    def best(self) -> Row | None:
        """The first row, None if no point has a value."""
        return self.rows[0] if self.rows and self.rows[0].place is not None else None

    def failures(self) -> list[tuple[Point, TrialRow]]:
        """The trials that failed or cannot be, with their points."""
        return [(row.point, trial) for row in self.rows for trial in row.trials if trial.state in (FAILED, IMPOSSIBLE)]

    def counts(self) -> dict[str, int]:
        """How many trials are in each state, by state; a run that several points come to counts with each of them."""
        found: dict[str, int] = {}
        for row in self.rows:
            for trial in row.trials:
                found[trial.state] = found.get(trial.state, 0) + 1
        return found


def results_of(definition: Definition, planned: Iterable[Planned], ledger: Ledger) -> Results:
    """What came out so far.

    Args:
        definition: with all its rungs.
        planned: every trial.
        ledger: what is known of them.
    """
    rungs = course(definition, planned, ledger)
    last, finished = rungs[-1], rungs[-1].keep is not None
    ranking, places = (last.ranking, last.ties) if finished else ranking_at(definition, last.entered, ledger, last.step)[:2]
    rows = _waiting(definition, rungs, ranking, ledger)
    front = _front(definition, ranking, ledger, last.step)
    for place, entry in zip(places, ranking, strict=True):
        state = DONE if finished else TRAINING
        rows.append(_row(definition, entry, ledger, last.step, state, place=place + 1, pareto=id(entry) in front))
    for number in range(1, len(rungs)):
        rows += _given_up(definition, rungs[number - 1], number, ledger)
    # Those without a value stand behind all others, whatever rung they failed at.
    rows.sort(key=lambda row: (row.place is None, row.place or row.state == FAILED_POINT))
    told = tuple({"step": rung.step, "entered": len(rung.entered), "with_value": len(rung.ranking), "kept": rung.keep} for rung in rungs)
    return Results(tuple(rows), told, finished)


def _waiting(definition: Definition, rungs: Sequence[Rung], ranking: Sequence[Entry], ledger: Ledger) -> list[Row]:
    """Those that came to the last rung and have no value there: the values of the rung before are what is known of them."""
    before, ranked = rungs[-2].step if len(rungs) > 1 else 0, {id(entry) for entry in ranking}
    waiting = [entry for entry in rungs[-1].entered if id(entry) not in ranked]
    front = set() if ranking or not before else _front(definition, waiting, ledger, before)
    rows = []
    for entry in waiting:
        if all(_is_over(trial, ledger) for trial in entry.trials):
            rows.append(_row(definition, entry, ledger, before, FAILED_POINT, reason=_why(entry, ledger)))
        else:
            # They come in the ranking of the rung before.
            place = len(ranking) + len(rows) + 1 if before else None
            rows.append(_row(definition, entry, ledger, before, TRAINING, place=place, pareto=id(entry) in front))
    return rows


def _given_up(definition: Definition, rung: Rung, number: int, ledger: Ledger) -> list[Row]:
    rows = []
    stay = {id(entry) for entry in rung.survivors}
    for place, entry in zip(rung.ties, rung.ranking, strict=True):
        if id(entry) not in stay:
            reason = pruned_because(number, rung, place)
            # Behind all that went on, whatever became of them.
            at = max(place, rung.keep or 0) + 1
            rows.append(_row(definition, entry, ledger, rung.step, GIVEN_UP, place=at, reason=reason))
    ranked = {id(entry) for entry in rung.ranking}
    for entry in rung.entered:
        if id(entry) not in ranked:
            rows.append(_row(definition, entry, ledger, rung.step, FAILED_POINT, reason=_why(entry, ledger)))
    return rows


def _row(
    definition: Definition,
    entry: Entry,
    ledger: Ledger,
    step: int,
    state: str,
    *,
    place: int | None = None,
    pareto: bool = False,
    reason: str = "",
) -> Row:
    known = [ledger.trial(trial.identity) for trial in entry.trials]
    trials = tuple(map(_trial, entry.trials, known, repeat(step)))
    curve = [(rung, means) for rung in definition.rule.rungs if (means := _means(definition, known, rung))]
    means = dict(curve).get(step, {})
    by_metric = {each.metric: tuple((rung, found[each.metric].mean) for rung, found in curve) for each in definition.objectives}
    return Row(place, entry.point, state, step if means else 0, means, trials, by_metric, pareto, reason)


def _means(definition: Definition, trials: Sequence[Trial | None], step: int) -> dict[str, Interval]:
    """Of each objective over the trials that have all of them at a step; empty without any."""
    every = [trial.values_at(step) for trial in trials if trial is not None]
    good = [values for values in every if values is not None and is_whole(worth(values, definition.objectives))]
    return {each.metric: t_interval([found[each.metric] for found in good]) for each in definition.objectives} if good else {}


def _trial(trial: Planned, known: Trial | None, step: int) -> TrialRow:
    if trial.error:
        return TrialRow(trial.seed, state=IMPOSSIBLE, reason=trial.error)
    if known is None:
        return TrialRow(trial.seed, trial.identity[:SHORT], trial.identity)
    last, values = known.last, known.values_at(step) if step else None
    return TrialRow(
        trial.seed, last.trial, last.identity, last.run, last.state, known.step, values, last.reason, last.attempts, last.seconds, last.host
    )


def _is_over(trial: Planned, ledger: Ledger) -> bool:
    known = ledger.trial(trial.identity)
    return bool(trial.error) or (known is not None and known.failed)


def _why(entry: Entry, ledger: Ledger) -> str:
    """The first reason that one of its trials gives."""
    for trial in entry.trials:
        known = ledger.trial(trial.identity)
        reason = trial.error or (known.last.reason if known is not None and known.failed else "")
        if reason:
            return reason
    return "no value"


def _front(definition: Definition, entries: Sequence[Entry], ledger: Ledger, step: int) -> set[int]:
    """Which of some points (by ``id``) no other one dominates at a step."""
    means = [mean_of(definition, entry, ledger, step) for entry in entries]
    scored = [(id(entry), each) for entry, each in zip(entries, means, strict=True) if each is not None]
    numbers = fronts([each for _, each in scored]).tolist() if scored else []
    return {who for (who, _), number in zip(scored, numbers, strict=True) if number == 0}
