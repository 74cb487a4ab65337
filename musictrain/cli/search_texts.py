"""A search in the words of a terminal: the table of its best points, what failed, and the line while it goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from musictrain.cli.runs_texts import duration, figure, inert, table
from musictrain.runs.standing import Standing
from musictrain.search.definition import Definition
from musictrain.search.intervals import Interval
from musictrain.search.keys import short_names
from musictrain.search.points import shown_value
from musictrain.search.results import Results, Row
from musictrain.search.telling import OF_POINTS, counted

MOST_POINTS = 10
MOST_SETTINGS = 6
MOST_FAILURES = 5
LONGEST_VALUE = 24
SURE_DIGITS = 2


@dataclass(frozen=True)
class SearchStanding(Standing):
    """Where a whole search stands; ``step`` and ``total`` are its trials.

    Args:
        rung: such as ``rung 2 of 3 (300 steps)``.
        best: such as ``best val/loss 0.4123``.
        failed: how many trials.
        of_all: share of the steps that are done.
    """

    rung: str = ""
    best: str = ""
    failed: int = 0
    of_all: float | None = None

    @property
    def share(self) -> float | None:
        """Of all steps."""
        return self.of_all

    def parts(self) -> dict[str, str]:
        """The trials instead of a run's steps; what a narrow terminal does without goes by the names that those have."""
        own = {
            "step": f"{self.step:,} of {self.total:,} trials",
            "percent": "" if self.share is None else f"{100 * self.share:3.0f} %",
            "rate": self.rung,
            "state": self.state,
            "score": self.best,
            "loss": f"{self.failed:,} failed" if self.failed else "",
        }
        rest = {name: words for name, words in super().parts().items() if name in ("elapsed", "left", "bounds", "end")}
        return {name: words for name, words in (own | rest).items() if words}


def standing_of(
    definition: Definition, results: Results, facts: Mapping[str, Any], *, left: Any, running: int, elapsed: float, now: float
) -> SearchStanding:
    """Where it stands.

    Args:
        definition: with all its rungs.
        results: of the search so far.
        facts: see ``musictrain.search.telling.progress_of``.
        left: time of the whole search, None if nobody can tell.
        running: trials that train now.
        elapsed: seconds since this driver began.
        now: seconds since 1970.
    """
    rungs, first = definition.rule.rungs, definition.objectives[0].metric
    step = rungs[min(facts["rung"], len(rungs)) - 1]
    return SearchStanding(
        step=facts["done"],
        total=facts["trials"],
        elapsed_seconds=elapsed,
        left=left,
        state=f"{running} running" if running else "",
        now=now,
        rung=f"rung {facts['rung']} of {len(rungs)} ({step:,} steps)" if len(rungs) > 1 else "",
        best="" if results.best is None else f"best {inert(first)} {results.best.means[first].mean:.4g}",
        failed=facts["failed"],
        of_all=facts["share"],
    )


def with_interval(interval: Interval | None) -> str:
    """A mean with as many digits as its interval allows to say.

    >>> with_interval(Interval(0.412345, 0.40012, 0.42457, 3)), with_interval(Interval(0.412345, math.nan, math.nan, 1))
    ('0.412 ± 0.012', '0.4123')
    """
    if interval is None or not math.isfinite(interval.mean):
        return ""
    if not math.isfinite(interval.half) or interval.half == 0:
        return figure(interval.mean)
    decimals = max(SURE_DIGITS - 1 - math.floor(math.log10(interval.half)), 0)
    return f"{interval.mean:.{decimals}f} ± {interval.half:.{decimals}f}"


def best_lines(definition: Definition, results: Results, most: int | None = MOST_POINTS) -> list[str]:
    """The table of the best points; those without a value behind them, if there is room for all."""
    rows = list(results.rows[:most])
    if not rows:
        return ["No point yet."]
    keys = _varying(results, definition)
    several = len(definition.objectives) > 1
    names = short_names(definition.parameters())
    headings = [
        "place",
        *(inert(each.metric) for each in definition.objectives),
        "at step",
        *(inert(names[key]) for key in keys),
        "state",
        "run",
    ]
    cells = [list(_cells(row, definition, keys, several=several)) for row in rows]
    right = [place <= len(definition.objectives) + 1 for place in range(len(headings))]
    lines = table(headings, cells, right, states=len(headings) - 2)
    left_out = len(definition.parameters()) - len(keys)
    more = [f"{counted(len(results.rows) - len(rows), 'more point')}"] if len(rows) < len(results.rows) else []
    more += [f"{counted(left_out, 'setting')} not shown"] if left_out else []
    more += ["* on the Pareto front"] if several else []
    return [*lines, *([f"({', '.join(more)})"] if more else [])]


def _varying(results: Results, definition: Definition) -> list[str]:
    """The settings in which points differ, as many as there is room for."""
    keys = definition.parameters()
    return ([key for key in keys if _differs(results.rows, key)] or keys)[:MOST_SETTINGS]


def _differs(rows: Sequence[Row], key: str) -> bool:
    shown = (shown_value(row.point.values.get(key, "")) for row in rows)
    first = next(shown, "")
    return any(each != first for each in shown)


def _cells(row: Row, definition: Definition, keys: list[str], *, several: bool) -> Iterator[str]:
    yield ("" if row.place is None else f"{row.place:,}") + (" *" if several and row.pareto else "  " if several else "")
    for objective in definition.objectives:
        yield with_interval(row.means.get(objective.metric))
    yield f"{row.step:,}" if row.step else ""
    for key in keys:
        yield _cut(inert(shown_value(row.point.values[key]))) if key in row.point.values else ""
    yield OF_POINTS[row.state]
    best = row.best_run(definition.objectives)
    yield inert(best.run if best is not None else "")


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def alike_lines(definition: Definition, results: Results) -> list[str]:
    """A word on points that all have the very same value: then they were told apart by nothing."""
    first = definition.objectives[0].metric
    values = [row.means[first].mean for row in results.rows if first in row.means and math.isfinite(row.means[first].mean)]
    if len(values) < 2 or len(set(values)) > 1:
        return []
    return [
        f"All {len(values):,} points have the very same {inert(first)}: nothing tells them apart. "
        "Is what is searched used at all, and does anything change before the first rung?"
    ]


def failure_lines(definition: Definition, results: Results, most: int | None = MOST_FAILURES) -> list[str]:
    """What failed and why; nothing if nothing did."""
    failures = results.failures()
    if not failures:
        return []
    names = short_names(definition.parameters())
    lines = [f"{counted(len(failures), 'trial')} failed; --retry-failed tries them again:"]
    for point, trial in failures[:most]:
        lines.append(f"  {inert(trial.trial or '-')}  {inert(point.words(names))}, seed {trial.seed}: {inert(trial.reason)}")
    return [*lines, *([f"  and {len(failures) - most:,} more"] if most is not None and len(failures) > most else [])]


def importance_lines(definition: Definition, told: Mapping[str, Any] | None, most: int = MOST_SETTINGS) -> list[str]:
    """What mattered, in a line; none if nobody has found out, or there was too little to go by.

    Args:
        definition: of the search.
        told: as its page has it, see ``musictrain.search.telling.importance_of``.
        most: how many settings are named.
    """
    if not told or not told["parameters"]:
        return []
    of = f"R2 {told['r2']:.2f}, {counted(told['num_points'], 'point')}"
    if told["unsure"]:
        return [f"What mattered cannot be told ({of})."]
    names = short_names(definition.parameters())
    words = [f"{inert(names.get(each['key'], each['key']))} {each['mean']:.2f}" for each in told["parameters"][:most]]
    return [f"What mattered, by how far R2 falls: {', '.join(words)} ({of})."]


def summary_line(definition: Definition, results: Results, facts: Mapping[str, Any]) -> str:
    """Such as ``lr-and-depth: finished, 27 points, 81 of 81 trials, 2 failed``."""
    state = "finished" if results.finished else f"rung {facts['rung']} of {len(definition.rule.rungs)}"
    words = [f"{inert(definition.name)}: {state}", counted(len(results.rows), "point"), f"{facts['done']:,} of {facts['trials']:,} trials"]
    words += [f"{facts['running']:,} running"] if facts.get("running") else []
    words += [f"{facts['failed']:,} failed"] if facts["failed"] else []
    words += [f"about {duration(facts['left'][0])} left"] if facts.get("left") else []
    words += [f"{facts['reused']:,} known before"] if facts["reused"] else []
    return ", ".join(words)
