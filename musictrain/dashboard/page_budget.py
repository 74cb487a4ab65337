"""How a megabyte is shared out: the newest of a list, and points among curves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from musictrain.dashboard.downsampling import MOST_POINTS, Point, thinned
from musictrain.runs.records import plain

MOST_BYTES = 1_000_000
FEWEST_POINTS = 40
# What a curve costs besides its points: its name three times, in the curve, in its chart and in the chart's title, and the punctuation.
FRAME_BYTES = 220


def size_of(value: Any) -> int:
    """Bytes as the page's data file writes it: ASCII, with what HTML could understand escaped."""
    text = json.dumps(plain(value), separators=(",", ":"))
    return len(text) + 5 * sum(map(text.count, "<>&"))


def fit_newest(items: Sequence[Any], most_bytes: int) -> tuple[list[Any], int]:
    """The last items that fit, in their order, and how many before them do not.

    >>> fit_newest(["old", "new"], 8)
    (['new'], 1)
    """
    kept: list[Any] = []
    left = most_bytes
    for item in reversed(items):
        left -= size_of(item) + 1
        if left < 0:
            break
        kept.append(item)
    kept.reverse()
    return kept, len(items) - len(kept)


def fit_curves(
    curves: Sequence[tuple[str, list[Point], int]], room: int, rank_of: Callable[[str], int]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The curves as the page reads them, in at most ``room`` bytes, and in words what was left out.

    Args:
        curves: key, points and number of rows of each, in the order in which they are shown.
        room: bytes.
        rank_of: for a key, 0 for curves that lose points last; within a rank those at the end lose theirs first.
    """
    in_order = sorted(range(len(curves)), key=lambda place: (rank_of(curves[place][0]), place))
    kept: dict[int, dict[str, Any]] = {}
    num_thinned = 0
    for position, place in enumerate(in_order):
        key, points, num_rows = curves[place]
        told, thinner = _fit(key, points, num_rows, room, len(in_order) - position - 1)
        if told is None:
            continue
        kept[place] = told
        num_thinned += thinner
        room -= size_of(told) + _frame(key)
    words = [f"{len(curves) - len(kept):,} of {len(curves):,} curves: all are in metrics.jsonl"] if len(kept) < len(curves) else []
    words += [f"detail of {num_thinned:,} curves, which have fewer points than usual"] if num_thinned else []
    return [kept[place] for place in sorted(kept)], words


def _fit(key: str, points: list[Point], num_rows: int, room: int, num_after: int) -> tuple[dict[str, Any] | None, bool]:
    """One curve in as many points as can be given without starving those after it; None if not even the fewest fit."""
    reserved = min(num_after, 400) * (FRAME_BYTES + 12 * FEWEST_POINTS)
    most = MOST_POINTS
    while True:
        told = _as_data(key, thinned(points, most), num_rows)
        cost = size_of(told) + _frame(key)
        if cost <= room - reserved or (most <= FEWEST_POINTS and cost <= room):
            return told, most < len(points)
        if most <= FEWEST_POINTS:
            return None, False
        most = max(most // 2, FEWEST_POINTS)


def _frame(key: str) -> int:
    return FRAME_BYTES + 3 * size_of(key)


def _as_data(key: str, points: list[Point], num_rows: int) -> dict[str, Any]:
    """A curve as texts that are quick to write and to read: steps as differences, values in six digits, which is exact enough to see."""
    return {"key": key, "rows": num_rows, **columns(points)}


def columns(points: Sequence[Point], digits: int = 6) -> dict[str, str]:
    """Points as two texts.

    >>> columns([(10, 0.5), (30, float("nan"))])
    {'steps': '10,20', 'values': '0.5,NaN'}
    """
    steps = [step for step, _ in points]
    differences = [step - before for before, step in zip([0, *steps], steps, strict=False)]
    return {"steps": ",".join(map(str, differences)), "values": ",".join([_short(value, digits) for _, value in points])}


def _short(value: float, digits: int) -> str:
    # repr of a rounded number would be twice as long for 1e-05 and the like.
    return f"{value:.{digits}g}" if math.isfinite(value) else str(plain(float(value)))
