"""A two-sided measure with a direction: how far pieces lie from a reference.

Conventions: the distance of a piece to a value is their difference, to a band 0 inside and beyond it the difference to the nearer edge, in
the unit of the measure. The distance of a set is the mean over its pieces: half a set too low and half too high are not right on average.
Pieces of which the measure says nothing (nan) are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from musictrain.metrics.barred_notes import Floats
from musictrain.metrics.intervals import band
from musictrain.metrics.measures import MEASURES
from musictrain.metrics.over_pieces import MeanOfValues, notes_of
from musictrain.notes import Notes
from musictrain.suggestions import did_you_mean

Reference = float | tuple[float, float] | Iterable[Any]


def distance_to_band(values: ArrayLike, low: float, high: float) -> Floats:
    """How far each value lies outside [low, high], 0 inside; nan stays nan.

    Raises:
        ValueError: unless low <= high.

    >>> distance_to_band([0.5, 2.0, 4.0], 1.0, 3.0).tolist()
    [0.5, 0.0, 1.0]
    """
    if not low <= high:
        raise ValueError(f"A reference from {low} to {high} cannot be: expected two numbers, the lower one first.")
    each = np.asarray(values, np.float64)
    return np.maximum(np.maximum(low - each, each - high), 0.0)


class DistanceToReference(MeanOfValues):
    """Mean over pieces of how far a measure lies from its reference; 0 is best.

    Of a corpus' own pieces two in ten lie outside its 10-90 % band, so that their distance is small and not 0.

    Args:
        measure: a name of ``musictrain.metrics.MEASURES``.
        reference: a value; a band (low, high); or the pieces of a corpus, whose 10-90 % band is taken.
        torchmetrics_options: see ``torchmetrics.Metric``.

    Raises:
        ValueError: for an unknown measure, or a reference that is no band.
        TypeError: if the reference is neither numbers nor pieces.

    >>> distance = DistanceToReference("pitch_range", (10.0, 20.0))
    >>> distance.update(Notes.from_rows([(0, 1, 60), (1, 1, 64)]))
    >>> float(distance.compute())
    6.0
    """

    higher_is_better = False
    plot_lower_bound = 0.0

    def __init__(self, measure: str, reference: Reference, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        if measure not in MEASURES:
            raise ValueError(
                f"No measure of a piece is called {measure!r}. {did_you_mean(measure, MEASURES)} There are: {', '.join(MEASURES)}.".replace(
                    "  ", " "
                )
            )
        self.measure_name = measure
        self.low, self.high = _band_of(measure, reference)

    def update(self, pieces: Notes | Iterable[Notes]) -> None:
        """Count one piece or several."""
        values = [MEASURES[self.measure_name].function(notes) for notes in notes_of(pieces)]
        self.add(distance_to_band(values, self.low, self.high))


def _band_of(measure: str, reference: Reference) -> tuple[float, float]:
    """The band a reference stands for."""
    if isinstance(reference, int | float):
        low = high = float(reference)
    elif isinstance(reference, tuple) and len(reference) == 2 and all(isinstance(edge, int | float) for edge in reference):
        low, high = (float(edge) for edge in reference)
    else:
        low, high = band([MEASURES[measure].function(notes) for notes in notes_of(reference)])
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"The reference of {measure!r} has no value: give a number, a band (low, high) or pieces with notes in them.")
    distance_to_band(0.0, low, high)
    return low, high
