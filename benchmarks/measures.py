"""What the measures of music cost: milliseconds a piece, all together and one by one, on Bach's 365 chorales (median 213 notes).

*Together* is ``measure_all``, bars and grid worked out once. *Alone* is one measure from the notes on, *shared* the same where bars, grid
and lines are there already. Notes are in memory. Of each piece the best of several rounds counts, so that other work of the machine matters
little; given is the mean over pieces, and of all together the 90th percentile and the longest piece too.

    python -m benchmarks.measures [rounds]
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import write_result
from musictrain.data import load_corpus
from musictrain.metrics import MEASURES, compare_sets, in_bars, measure_all, measure_pieces
from musictrain.metrics.intervals import bootstrap_intervals

ROUNDS = 7
TARGET_MS = 1.0


def milliseconds(function: Callable[[Any], object], pieces: Sequence[Any], rounds: int) -> NDArray[np.float64]:
    """Best time of a call of each piece, (pieces,)."""
    times = np.zeros((rounds, len(pieces)))
    for row in times:
        for number, piece in enumerate(pieces):
            start = time.perf_counter()
            function(piece)
            row[number] = time.perf_counter() - start
    best: NDArray[np.float64] = 1_000 * times.min(axis=0)
    return best


def mean_milliseconds(function: Callable[[Any], object], pieces: Sequence[Any], rounds: int) -> float:
    """Mean over pieces of :func:`milliseconds`."""
    return round(float(milliseconds(function, pieces, rounds).mean()), 4)


def costs_of_sets(measured: dict[str, NDArray[np.float64]], rounds: int) -> dict[str, float]:
    """What is made of the measures of many pieces."""
    thirty_two = {name: values[:32] for name, values in measured.items()}
    generated, reference = (measured["groove_similarity"][start::2] for start in (0, 1))
    return {
        "intervals_of_all_measures_32_pieces_ms": mean_milliseconds(bootstrap_intervals, [thirty_two], rounds),
        "comparison_of_two_sets_of_182_pieces_ms": mean_milliseconds(partial(compare_sets, reference), [generated], rounds),
    }


def main(rounds: int = ROUNDS) -> None:
    """Measure and write ``results/measures.json``."""
    pieces = [piece.notes for piece in load_corpus("chorales").pieces]
    barred = [in_bars(notes) for notes in pieces]
    measured = measure_pieces(pieces)
    for each in barred:
        measure_all(each)  # works out what is shared
    together = milliseconds(measure_all, pieces, rounds)
    write_result(
        "measures",
        {
            "corpus": "chorales",
            "pieces": len(pieces),
            "notes_a_piece_median": float(np.median([len(notes) for notes in pieces])),
            "rounds": rounds,
            "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "measures_together": len(MEASURES),
            "together_ms_a_piece": round(float(together.mean()), 4),
            "together_ms_90th_percentile": round(float(np.percentile(together, 90)), 4),
            "together_ms_longest": round(float(together.max()), 4),
            "target_ms_a_piece": TARGET_MS,
            "target_met": bool(together.mean() <= TARGET_MS),
            "in_bars_ms_a_piece": mean_milliseconds(in_bars, pieces, rounds),
            "alone_ms_a_piece": {name: mean_milliseconds(measure.function, pieces, rounds) for name, measure in MEASURES.items()},
            "shared_ms_a_piece": {name: mean_milliseconds(measure.function, barred, rounds) for name, measure in MEASURES.items()},
            **costs_of_sets(measured, rounds),
        },
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
