"""What a resumed run has to know of its records before it adds to them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictrain.runs.folder import number
from musictrain.runs.records import record_line
from musictrain.runs.rows import BLOCK_BYTES, VETOED, CountingRows, RowReader, is_marker, step_of, values_of, vetoed_steps

BETTER = {"min": lambda new, old: new < old, "max": lambda new, old: new > old}


@dataclass
class GoingOn:
    """Where the records of a run stand for an attempt that begins at a step.

    Args:
        attempt: the number of the last attempt that left a mark; 1 for older records without marks, 0 without any.
        missing: rows up to that step that are not in the file, and belong there.
        best: ``metric``, ``value`` and ``step`` of the best up to that step, vetoed ones left out; empty without one.
    """

    attempt: int
    missing: list[dict[str, Any]]
    best: dict[str, Any]


def going_on(path: str | Path, step: int, carried: Iterable[dict[str, Any]], metric: str | None, mode: str) -> GoingOn:
    """Read ``metrics.jsonl`` once, in little memory, for an attempt that begins after ``step`` optimizer steps.

    Args:
        path: the file; it may be missing.
        step: where the attempt begins.
        carried: rows that the checkpoint knew of, which a kill may have kept from the file.
        metric: what ``best`` is about; None for none.
        mode: ``min`` or ``max``.
    """
    carried = [row for row in carried if (each := step_of(row)) is not None and each <= step]
    steps = {step_of(row) for row in carried}
    reader, counting, attempt = RowReader(path), CountingRows(), 0
    while new := reader.read_new(BLOCK_BYTES):
        attempt = max([attempt or 1, *(_attempt_of(row) for row in new)])
        counting.add(row for row in new if is_marker(row) or metric in row or VETOED in row or step_of(row) in steps)
    rows = [row for row in counting.rows() if (each := step_of(row)) is not None and each <= step]
    missing = _missing(rows, carried)
    return GoingOn(attempt, missing, best_of([*rows, *missing], metric, mode))


def best_of(rows: Iterable[Mapping[str, Any]], metric: str | None, mode: str, best: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``metric``, ``value`` and ``step`` of the best finite value among rows, or ``best`` if none is better; the first of equals.

    Steps that these rows call vetoed are passed over.
    """
    found, rows = dict(best or {}), list(rows)
    vetoed = vetoed_steps(rows)
    for row in rows:
        value = number(row.get(metric)) if metric is not None and metric in row else math.nan
        if math.isfinite(value) and step_of(row) not in vetoed and (not found or BETTER[mode](value, found["value"])):
            found = {"metric": metric, "value": value, "step": step_of(row) or 0}
    return found


def as_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as one text, which a checkpoint can hold whoever reads it."""
    return b"".join(map(record_line, rows)).decode("ascii")


def from_text(text: str) -> list[dict[str, Any]]:
    """The rows of such a text."""
    return [json.loads(line) for line in text.splitlines()]


def _attempt_of(row: Mapping[str, Any]) -> int:
    attempt = row.get("attempt")
    return attempt if isinstance(attempt, int) else 0


def _missing(rows: Iterable[Mapping[str, Any]], carried: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The carried rows, without the values that are recorded already."""
    recorded: dict[int | None, set[str]] = {}
    for row in rows:
        recorded.setdefault(step_of(row), set()).update(_said_in(row))
    missing = []
    for row in carried:
        known = recorded.setdefault(step_of(row), set())
        left = {key: value for key, value in row.items() if key not in _said_in(row) or key not in known}
        known.update(_said_in(row))
        if _said_in(left):
            missing.append(left)
    return missing


def _said_in(row: Mapping[str, Any]) -> set[str]:
    """The logged values of a row, and its veto."""
    return {*values_of(row), *({VETOED} & row.keys())}
