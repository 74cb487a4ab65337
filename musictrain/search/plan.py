"""What a search does next: a pure function of its definition, its points and what the ledger knows.

Conventions:

- Rounds are synchronous: all points of a rung are trained to its step, then the rule says which go on. So what comes out hangs neither on
  timing nor on slots nor on kills, and points that are added later only add what is missing.
- Trials of one point differ in their seed alone; what ranks is the mean over them. A point of which some trials failed ranks behind all
  whole ones by those that it has; one without any value does not go on.
- Points that come to the same configurations, such as one that says what is so by default, are one, and are trained once.
- A trial that ended by itself before a rung (out of patience) counts there with what it ended with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from musictrain.search.definition import Definition, SearchError
from musictrain.search.ledger import PRUNED, SHORT, Ledger, Record, Trial
from musictrain.search.objectives import is_whole, mean_worth, worth
from musictrain.search.pareto import fronts_and_room, ties
from musictrain.search.points import Point
from musictrain.search.rules import Field, rule_of

LONGER = 16  # characters of an identity in the name of a run, where another one has the same short ones


@dataclass(frozen=True)
class Planned:
    """One trial that the search is to make.

    Args:
        point: what it tries.
        seed: its ``seed_everything``.
        identity: the hash of its whole configuration; empty if it cannot be.
        error: why it cannot be.
    """

    point: Point
    seed: int
    identity: str = ""
    error: str = ""


@dataclass(frozen=True)
class Entry:
    """A point with its trials, one for each seed."""

    point: Point
    trials: tuple[Planned, ...]


@dataclass(frozen=True)
class Rung:
    """What a rung has come to.

    Args:
        step: optimizer steps.
        entered: the points that came to it.
        ranking: those that have a value there, best first; empty for as long as it is not decided.
        ties: the place of each of the ranking, the same for equals.
        keep: how many of the ranking go on; at the last rung all, None for as long as trials are missing.
    """

    step: int
    entered: tuple[Entry, ...]
    ranking: tuple[Entry, ...] = ()
    ties: tuple[int, ...] = ()
    keep: int | None = None

    @property
    def survivors(self) -> tuple[Entry, ...]:
        """Those that go on; none if it is not decided."""
        return self.ranking[: self.keep or 0]


@dataclass(frozen=True)
class Job:
    """What one trial is to be trained.

    Args:
        identity: of the trial.
        point: what it tries.
        seed: its ``seed_everything``.
        run: what its run's folder is called, or is to be called if it has none yet.
        from_step: the furthest step at which it was measured, 0 if it never was; its run may have come further.
        to_step: where it pauses, or ends.
        attempts: processes that have worked at it so far.
    """

    identity: str
    point: Point
    seed: int
    run: str
    from_step: int
    to_step: int
    attempts: int = 0


@dataclass(frozen=True)
class Round:
    """Jobs that may be done in any order, all of them before the next round.

    Args:
        rung: its number, from 0.
        step: where all jobs lead.
        jobs: at least one.
        pruned: records of the trials that the rungs before gave up, and that the ledger does not know of yet.
    """

    rung: int
    step: int
    jobs: tuple[Job, ...]
    pruned: tuple[Record, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Nothing is left to do.

    Args:
        best: the point that ranks first at the last rung, None if no trial has a value.
        pruned: as of a round.
    """

    best: Entry | None
    pruned: tuple[Record, ...] = ()


def next_round(definition: Definition, planned: Iterable[Planned], ledger: Ledger) -> Round | Finished:
    """The jobs that come next, or that there are none.

    The driver calls it again after each round, with what the jobs gave back taken into the ledger. A job that gives back no end and no
    failure would come again, so whoever was interrupted stops there.

    Args:
        definition: with all its rungs.
        planned: every trial, those of one point behind one another.
        ledger: what is known of them.

    Raises:
        SearchError: if the definition has no rungs.
    """
    rungs = course(definition, planned, ledger)
    pruned, last = tuple(_newly_pruned(rungs, ledger)), rungs[-1]
    jobs = () if last.keep is not None else tuple(_jobs(definition.name, last, ledger, _names_in(rungs[0], ledger)))
    if not jobs:
        return Finished(last.ranking[0] if last.ranking else None, pruned)
    return Round(len(rungs) - 1, last.step, jobs, pruned)


def entries_of(planned: Iterable[Planned]) -> list[Entry]:
    """The points with their trials, each configuration once, in the order in which they came."""
    of_point: dict[str, list[Planned]] = {}
    for each in planned:
        of_point.setdefault(each.point.text, []).append(each)
    found: dict[tuple[str, ...], Entry] = {}
    for text, trials in of_point.items():
        identities = tuple(each.identity or f"{text} {each.seed}" for each in trials)
        found.setdefault(identities, Entry(trials[0].point, tuple(trials)))
    return list(found.values())


def course(definition: Definition, planned: Iterable[Planned], ledger: Ledger) -> list[Rung]:
    """What each rung has come to, up to the first one that is not decided or has nobody to go on.

    Raises:
        SearchError: if the definition has no rungs.
    """
    if not definition.rule.rungs:
        raise SearchError("A search needs to know how long a trial is: rungs, of which the last is the whole budget of steps.")
    rule, last = rule_of(definition.rule.name, definition.rule.factor), definition.rule.rungs[-1]
    entered = tuple(entries_of(planned))
    found: list[Rung] = []
    for step in definition.rule.rungs:
        if not all(is_settled(trial, ledger, step) for entry in entered for trial in entry.trials):
            return [*found, Rung(step, entered)]
        ranking, places, whole = ranking_at(definition, entered, ledger, step)
        field = Field(len(entered), whole, len(ranking) - whole, places[:whole])
        keep = len(ranking) if step == last else rule.keep(field)
        found.append(Rung(step, entered, tuple(ranking), tuple(places), keep))
        entered = found[-1].survivors
        if not entered:
            break
    return found


def is_settled(trial: Planned, ledger: Ledger, step: int) -> bool:
    """Whether nothing is left to train of a trial up to a step; nothing ever is of one that cannot be."""
    known = ledger.trial(trial.identity)
    return bool(trial.error) or (known is not None and known.settled_at(step))


def ranking_at(definition: Definition, entries: Sequence[Entry], ledger: Ledger, step: int) -> tuple[list[Entry], list[int], int]:
    """The points that have a value at a step, best first; their places, the same for equals; and how many of them are whole."""
    whole: list[tuple[Entry, tuple[float, ...]]] = []
    partial: list[tuple[Entry, tuple[float, ...]]] = []
    for entry in entries:
        good = _worth_at(definition, entry, ledger, step)
        if good:
            (whole if len(good) == len(entry.trials) else partial).append((entry, mean_worth(good)))
    ranking, places = _ranked(whole)
    behind, their_places = _ranked(partial)
    return [*ranking, *behind], [*places, *(place + len(ranking) for place in their_places)], len(ranking)


def mean_of(definition: Definition, entry: Entry, ledger: Ledger, step: int) -> tuple[float, ...] | None:
    """The mean worth of a point over those of its trials that have a value at a step, None if none has."""
    good = _worth_at(definition, entry, ledger, step)
    return mean_worth(good) if good else None


def _worth_at(definition: Definition, entry: Entry, ledger: Ledger, step: int) -> list[tuple[float, ...]]:
    known = [ledger.trial(trial.identity) for trial in entry.trials]
    every = [worth(None if each is None else each.values_at(step), definition.objectives) for each in known]
    return [values for values in every if is_whole(values)]


def _ranked(scored: Sequence[tuple[Entry, tuple[float, ...]]]) -> tuple[list[Entry], list[int]]:
    if not scored:
        return [], []
    front, room = fronts_and_room([values for _, values in scored])
    # Of the ends of a front the one that is best by the first objective stands first. Equals stand by what they say, not by when they came,
    # so that points added later change nothing among those before.
    order = sorted(range(len(scored)), key=lambda place: (front[place], -room[place], scored[place][1], scored[place][0].point.text))
    return [scored[place][0] for place in order], ties([(front[place], room[place]) for place in order])


def _jobs(name: str, rung: Rung, ledger: Ledger, names: dict[str, str]) -> Iterator[Job]:
    begun: set[str] = set()
    for entry in rung.entered:
        for trial in entry.trials:
            if trial.identity in begun or is_settled(trial, ledger, rung.step):
                continue
            begun.add(trial.identity)
            known = ledger.trial(trial.identity)
            run = known.last.run if known is not None and known.last.run else _free_name(name, trial.identity, names)
            step, attempts = (0, 0) if known is None else (known.step, known.last.attempts)
            yield Job(trial.identity, trial.point, trial.seed, run, step, rung.step, attempts)


def _names_in(rung: Rung, ledger: Ledger) -> dict[str, str]:
    """Which identity has a short name; of two that would have the same, the one that the ledger knows, else the first."""
    identities = [trial.identity for entry in rung.entered for trial in entry.trials if trial.identity]
    names: dict[str, str] = {}
    for identity in sorted(identities, key=lambda each: ledger.trial(each) is None):
        names.setdefault(identity[:SHORT], identity)
    return names


def _free_name(name: str, identity: str, names: dict[str, str]) -> str:
    return f"{name}-{identity[: SHORT if names.get(identity[:SHORT]) == identity else LONGER]}"


def _newly_pruned(rungs: Sequence[Rung], ledger: Ledger) -> Iterator[Record]:
    """Of the trials that a rule gave up those of which the ledger does not say so; failed ones, and those further on, stay as they are."""
    going_on = {trial.identity for entry in (*rungs[-1].entered, *rungs[-1].survivors) for trial in entry.trials}
    for number, rung in enumerate(rungs[:-1], start=1):
        stay = {id(entry) for entry in rung.survivors}
        places = {id(entry): place for entry, place in zip(rung.ranking, rung.ties, strict=True)}
        for entry in rung.entered:
            if id(entry) not in stay:
                reason = pruned_because(number, rung, places.get(id(entry)))
                trials = [trial.identity for trial in entry.trials if trial.identity not in going_on]
                yield from _pruned(filter(None, map(ledger.trial, trials)), rung.step, reason)


def _pruned(trials: Iterable[Trial], step: int, reason: str) -> Iterator[Record]:
    for known in trials:
        given_up = known.last.state == PRUNED and known.last.reason == reason
        if not (given_up or known.failed or known.ended is not None or known.step > step):
            yield replace(known.last, state=PRUNED, step=step, values={}, reason=reason)


def pruned_because(number: int, rung: Rung, place: int | None) -> str:
    """Why a rule gave a point up, such as ``place 5 of 9 at rung 1 (100 steps), of which the first 3 went on``.

    Args:
        number: of the rung, from 1.
        rung: itself.
        place: of the point among its ranking, from 0; None if it has no value there.
    """
    which = "no value" if place is None else f"place {place + 1:,} of {len(rung.entered):,}"
    return f"{which} at rung {number} ({rung.step:,} steps), of which the first {rung.keep or 0:,} went on"
