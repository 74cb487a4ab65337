"""What a trial is worth at a step, by the rows that its run has recorded.

Conventions:

- A row counts if the run's ``metrics.jsonl`` counts it (``musictrain.runs.rows``), and if its step is not above the one asked about: what a
  reused run did later does not help it at a rung.
- ``last`` is the value recorded last, whatever it is; ``best`` the best finite one so far, steps that were vetoed left out.
- Worth is lower for better, whichever way the metric goes: a value that is to be large counts with the other sign. Not finite is nan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from musictrain.runs.folder import number
from musictrain.runs.rows import step_of, values_of, vetoed_steps
from musictrain.search.definition import Objective
from musictrain.suggestions import did_you_mean


def values_at(rows: Sequence[Mapping[str, Any]], objectives: Iterable[Objective], step: int) -> dict[str, float]:
    """The value of each objective after ``step`` optimizer steps, nan for one that is not finite or was not recorded.

    Args:
        rows: that count, by step.
        objectives: what to look for.
        step: rows above it are passed over.
    """
    until = [(reached, row) for row in rows if (reached := step_of(row)) is not None and reached <= step]
    vetoed = vetoed_steps(row for _, row in until)
    return {each.metric: _value(until, each, vetoed) for each in objectives}


def _value(rows: Sequence[tuple[int, Mapping[str, Any]]], objective: Objective, vetoed: Mapping[int, str]) -> float:
    found = [(step, number(row[objective.metric])) for step, row in rows if objective.metric in row]
    if not found:
        return math.nan
    if objective.value == "last":
        return found[-1][1] if math.isfinite(found[-1][1]) else math.nan
    finite = [value for step, value in found if math.isfinite(value) and step not in vetoed]
    if not finite:
        return math.nan
    return min(finite) if objective.mode == "min" else max(finite)


def missing(rows: Iterable[Mapping[str, Any]], objectives: Iterable[Objective]) -> str:
    """What to say if a run has not recorded an objective at all: what there is, and the nearest; empty if all are there."""
    logged = sorted({key for row in rows for key in values_of(row)})
    for each in objectives:
        if each.metric not in logged:
            what = f"it logged {', '.join(logged)}" if logged else "it logged nothing"
            return f"The search looks at {each.metric!r}, and {what}. {did_you_mean(each.metric, logged)}".rstrip()
    return ""


def not_finite(values: Mapping[str, float], step: int) -> str:
    """Why a measurement makes its trial a failed one, such as ``val/loss is not finite at step 300``; empty if it does not."""
    bad = [metric for metric, value in values.items() if not math.isfinite(value)]
    return f"{' and '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite at step {step:,}" if bad else ""


def worth(values: Mapping[str, float] | None, objectives: Iterable[Objective]) -> tuple[float, ...]:
    """Values as they are compared, lower for better, in the order of the objectives; nan for what is not there or not finite."""
    told = values or {}
    return tuple([_signed(told.get(each.metric, math.nan), each.mode) for each in objectives])


def _signed(value: float, mode: str) -> float:
    if not math.isfinite(value):
        return math.nan
    return value if mode == "min" else -value


def is_whole(worth: Iterable[float]) -> bool:
    """Whether there is a finite value of each objective."""
    return all(map(math.isfinite, worth))


def mean_worth(trials: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    """The mean of each objective over the trials of a point, nan where one of them is."""
    if len(trials) == 1:
        return trials[0]
    return tuple(math.fsum(column) / len(column) if all(map(math.isfinite, column)) else math.nan for column in zip(*trials, strict=True))
