"""What the page of a search is told: settings, points best first, failures, and how far all of it is, in plain values.

Conventions: states are in words for people. Importance is told by the values at one rung, which nearly all points have come to: those
that were given up early tell of the settings too, and nothing measured early is mixed with what was measured late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from musictrain.runs.eta import TimeLeft
from musictrain.runs.folder import RunFolder
from musictrain.runs.status import STALE, read_status
from musictrain.search.definition import Definition
from musictrain.search.eta import Running, cost_of
from musictrain.search.importance import LEAST_R2, Importances, importances
from musictrain.search.intervals import LEVEL, Interval
from musictrain.search.keys import short_names
from musictrain.search.ledger import BEGUN, FAILED, FINISHED, PRUNED, REACHED, REUSED, Ledger
from musictrain.search.points import Point, shown_value
from musictrain.search.results import DONE, FAILED_POINT, GIVEN_UP, IMPOSSIBLE, TO_COME, TRAINING, Results, Row, TrialRow
from musictrain.search.rules import rule_of

NEARLY_ALL = 0.9
MOST_VALUES = 12
OF_POINTS = {DONE: "finished", TRAINING: "training", GIVEN_UP: "given up", FAILED_POINT: "failed"}
OF_TRIALS = {
    **{BEGUN: "begun", REACHED: "waits for the others of its rung", FINISHED: "finished", PRUNED: "given up", FAILED: "failed"},
    **{REUSED: "known before", TO_COME: "to come", IMPOSSIBLE: "impossible"},
}
OVER = (FINISHED, PRUNED, FAILED, IMPOSSIBLE)


def told_of(
    definition: Definition,
    results: Results,
    ledger: Ledger,
    *,
    importance: Mapping[str, Any] | None = None,
    left: TimeLeft | None = None,
    running: int = 0,
    state: str = "going on",
) -> dict[str, Any]:
    """Everything that the page cannot find in the folders of the trials; see ``musictrain.dashboard.search``.

    Args:
        definition: with all its rungs and keys in full.
        results: of the search so far.
        ledger: what they come from.
        importance: see ``importance_of``, None to show none.
        left: time of the whole search.
        running: how many trials train now.
        state: ``going on`` or ``finished``.
    """
    names = short_names(definition.parameters())
    facts = {
        **{"state": "finished" if results.finished else state, "running": running, "slots": definition.slots},
        **progress_of(definition, results, ledger),
        **{"left": None if left is None else [left.seconds, left.low, left.high], "seeds": list(definition.seeds)},
        **{"rule": rule_of(definition.rule.name, definition.rule.factor).words(), "constraints": list(definition.constraints)},
        **{"space": f"{counted(len(results.rows), 'point')}, {counted(len(names), 'setting')}", "about": about_results(definition)},
    }
    return {
        "objectives": [{**asdict(each), "words": each.words()} for each in definition.objectives],
        "parameters": [parameter_of(definition, results, key, name) for key, name in names.items()],
        "points": [point_of(definition, row) for row in results.rows],
        "failures": [failure_of(point, trial, names) for point, trial in results.failures()],
        **{"importance": importance, "rungs": list(definition.rule.rungs), "facts": facts},
    }


def training_now(runs: Path, ledger: Ledger, identities: Iterable[str]) -> dict[str, Running]:
    """Those of some trials whose runs say that they go on, by identity; a run that has fallen silent does not.

    Args:
        runs: where the runs lie.
        ledger: what is known of the trials.
        identities: of those that may train.
    """
    found = {}
    for identity in identities:
        known = ledger.trial(identity)
        if known is None or known.failed or not known.last.run:
            continue
        status = read_status(RunFolder(runs / known.last.run).status)
        if status is not None and status.is_active() and status.shown_state() != STALE:
            found[identity] = Running(status.step, status.elapsed_seconds)
    return found


def counted(number: int, what: str) -> str:
    """Such as ``1 point``, ``27 points``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def progress_of(definition: Definition, results: Results, ledger: Ledger) -> dict[str, Any]:
    """Trials in all, those that are done, failed and known before; the rung that is trained; share of the steps; seconds of training."""
    last = definition.rule.rungs[-1]
    trials = [trial for row in results.rows for trial in row.trials]
    steps = sum(trial.step for trial in trials)
    expected = cost_of(definition, len(results.rows)).steps
    return {
        "trials": len(trials),
        "done": sum(trial.state in OVER or trial.step >= last for trial in trials),
        "failed": sum(trial.state in (FAILED, IMPOSSIBLE) for trial in trials),
        "reused": sum(trial.state == REUSED or (not trial.attempts and trial.step > 0) for trial in trials),
        "rung": len(results.rungs),
        "share": 1.0 if results.finished else min(steps / expected, 1.0) if expected else 0.0,
        "elapsed": math.fsum(trial.last.seconds for trial in ledger.trials.values()),
    }


def about_results(definition: Definition) -> str:
    """How the numbers are to be read."""
    words = ["Points that came further stand first: what is measured early is not compared with what is measured late."]
    if len(definition.seeds) > 1:
        words.insert(0, f"Means over {len(definition.seeds)} seeds, ± half of a {100 * LEVEL:.0f} % t interval.")
    else:
        words.insert(0, "One seed each: how much of a difference is chance, these numbers do not tell.")
    return " ".join(words)


def parameter_of(definition: Definition, results: Results, key: str, name: str) -> dict[str, Any]:
    """A setting of the space: what it is called, drawn from, and whether a logarithmic axis shows it evenly."""
    drawn = definition.distribution_of(key)
    told = str(drawn) if drawn is not None and not drawn.is_choice else _values_in_words(results, key)
    return {"key": key, "name": name, "told": told, "log": drawn is not None and drawn.logarithmic}


def _values_in_words(results: Results, key: str) -> str:
    seen: dict[str, None] = {}
    for row in results.rows:
        if key in row.point.values:
            seen.setdefault(shown_value(row.point.values[key]))
    found = sorted(seen, key=_by_number)
    return ", ".join(found[:MOST_VALUES]) + (f", ... ({len(found):,} values)" if len(found) > MOST_VALUES else "")


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text


def point_of(definition: Definition, row: Row) -> dict[str, Any]:
    """A point as the page shows it."""
    means = [row.means.get(each.metric) for each in definition.objectives]
    return {
        **{"name": row.point.hash[:8], "values": dict(row.point.values), "state": OF_POINTS[row.state], "step": row.step},
        **{"rank": row.place, "front": row.pareto, "reason": row.reason},
        "results": [None if mean is None else _bounds(mean) for mean in means],
        "trials": [_trial(trial) for trial in row.trials],
    }


def _bounds(interval: Interval) -> list[float | None]:
    return [each if math.isfinite(each) else None for each in (interval.mean, interval.low, interval.high)] + [interval.count]


def _trial(trial: TrialRow) -> dict[str, Any]:
    told = {"name": trial.trial, "run": trial.run, "seed": trial.seed, "state": OF_TRIALS.get(trial.state, trial.state)}
    return {**told, "step": trial.step, "reason": trial.reason}


def failure_of(point: Point, trial: TrialRow, names: Mapping[str, str]) -> dict[str, Any]:
    """A trial that failed, and why."""
    told = {"name": trial.trial or "impossible", "run": trial.run, "seed": trial.seed, "step": trial.step, "attempts": trial.attempts}
    return {**told, "reason": trial.reason, "words": point.words(names)}


def importance_of(definition: Definition, results: Results) -> dict[str, Any]:
    """How much each setting matters for the first objective, and how much of that is to be believed; takes seconds."""
    points, values, step = compared(definition, results)
    found = importances(points, values)
    told: dict[str, Any] = {key: value for key, value in asdict(found).items() if key != "parameters"}
    told["parameters"] = [asdict(each) for each in found.parameters]
    return {**told, "unsure": not found.r2 >= LEAST_R2, "about": _about(definition, found, step)}


def compared(definition: Definition, results: Results) -> tuple[list[Mapping[str, Any]], list[float | None], int]:
    """All points, what the first objective came to at the highest rung that nearly all with a value have come to, and its step."""
    metric = definition.objectives[0].metric
    curves = [dict(row.curve.get(metric, ())) for row in results.rows]
    counts = {step: sum(step in curve for curve in curves) for step in definition.rule.rungs}
    most = max(counts.values(), default=0)
    step = max((step for step, count in counts.items() if count and count >= NEARLY_ALL * most), default=0)
    return [row.point.values for row in results.rows], [curve.get(step) for curve in curves], step


def _about(definition: Definition, found: Importances, step: int) -> str:
    if not found.parameters:
        return ""
    left = f"; {found.num_left_out:,} left out" if found.num_left_out else ""
    return (
        f"By {definition.objectives[0].words()} after {step:,} steps{left}. A bar is how far that R2 falls when a setting's values are "
        "shuffled among the points, in the ranges that were searched."
    )
