"""Where between bar lines a beat lies: the bars by which a match or a fault is told.

Conventions: bars are counted from 1, a pickup too; a bar is what lies between two of the ``lines``, in beats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

TOLERANCE = 1e-6


def bar_at(lines: ArrayLike, beat: float) -> int:
    """The number of the bar, from 1, that begins at a beat or before it.

    >>> bar_at([0.0, 1.0, 5.0], 1.0)
    2
    """
    lines = np.asarray(lines)
    return int(np.clip(np.searchsorted(lines, beat + TOLERANCE, side="right"), 1, len(lines) - 1))


def bars_between(lines: ArrayLike, start: float, stop: float) -> float:
    """How many bars lie between two beats, parts of a bar too.

    >>> bars_between([0.0, 1.0, 5.0, 9.0], 1.0, 7.0)
    1.5
    """
    lines = np.asarray(lines, np.float64)
    places = np.interp([start, stop], lines, np.arange(len(lines)))
    return float(places[1] - places[0])
