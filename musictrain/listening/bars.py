"""Where the bars of a piece begin, from its time signatures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from musictrain.notes import Notes, TimeSignature

MOST_BARS = 100_000


def bar_lines(notes: Notes, until: float | None = None) -> NDArray[np.float64]:
    """Every bar line in beats, from 0.0 to the first one at or after ``until``, so that line i and i + 1 enclose bar i + 1.

    A time signature that comes before its bar is over starts a new bar there. No time signature means 4/4.

    Args:
        notes: the piece.
        until: beats; None is the end of the last note. At least one bar is always given.

    >>> bar_lines(Notes.from_rows([(0, 5, 60)])).tolist()
    [0.0, 4.0, 8.0]
    """
    until = max(notes.end if until is None else until, 1e-6)
    changes = [sign for sign in sorted(notes.time_signatures) if sign.numerator > 0 and sign.denominator > 0]
    if not changes or changes[0].onset > 0:
        changes = [TimeSignature(0.0, 4, 4), *changes]
    lines: list[NDArray[np.float64]] = []
    for index, sign in enumerate(changes):
        is_last = index + 1 == len(changes)
        stop = until if is_last else min(until, changes[index + 1].onset)
        count = min(MOST_BARS, max(0, int(np.ceil((stop - sign.onset) / sign.beats_per_bar - 1e-9))))
        lines.append(np.asarray(sign.onset + sign.beats_per_bar * np.arange(count), np.float64))
        if is_last or changes[index + 1].onset >= until:
            return np.append(np.concatenate(lines), sign.onset + sign.beats_per_bar * count)
    raise AssertionError("the last time signature ends the loop")
