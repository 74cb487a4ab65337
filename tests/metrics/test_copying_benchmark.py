"""The benchmark of copying measures what it says, on a corpus small enough for a test."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.copying import COPIES, large_corpus, measure_corpus, reordered
from musictrain.notes import Notes


def tune(seed: int) -> Notes:
    pitch = np.random.default_rng(seed).integers(50, 70, 48)
    return Notes(np.arange(48) / 2, np.full(48, 0.5), pitch)


def test_the_large_corpus_holds_copies_and_music_of_the_same_bars() -> None:
    pieces = [notes for _, notes in large_corpus([tune(0)], 400)]
    copies = sum(one is other for one, other in pairwise(pieces))
    assert abs(copies / 400 - COPIES) < 0.06
    changed = reordered(tune(0), np.random.default_rng(1))
    assert sorted(np.diff(changed.pitch[:8]).tolist()) in [
        sorted(np.diff(tune(0).pitch[bar : bar + 8]).tolist()) for bar in range(0, 48, 8)
    ]


def test_sizes_and_times_are_told(tmp_path: Path) -> None:
    result = measure_corpus(large_corpus([tune(0), tune(1)], 20), [tune(2)], tmp_path)
    assert (result["pieces"], result["chords"], result["notes"]) == (20, 960, 960)
    assert {"index_mib", "copy_rate_ms_a_piece", "longest_match_ms_a_piece", "build_seconds", "open_seconds"} <= set(result)
