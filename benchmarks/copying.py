"""What it costs to ask whether music is copied: building the index of a training corpus, and looking a piece up in it.

Once for the training split of the built-in chorales, once for a large corpus made from them: each piece a chorale in another key with its
bars in another order, a fifth of them exact copies of another (as in Lakh). Asked is as in training: the chorales of the validation split,
their share of copied windows of two bars and their longest match. The index is saved, and asked from disk. Seconds are the processor's, so
that what else the machine does hardly counts; those of making or reading the pieces are not in them.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import write_result
from musictrain.data import load_corpus
from musictrain.metrics.copying import copy_counts, longest_match
from musictrain.metrics.copying_index import CopyIndex
from musictrain.notes import Notes

COPIES = 0.2
BEATS = 4.0


def large_corpus(chorales: list[Notes], num_pieces: int, seed: int = 0) -> Iterator[tuple[str, Notes]]:
    """Pieces made of chorales, each with a number as its name."""
    random = np.random.default_rng(seed)
    latest: Notes | None = None
    for number in range(num_pieces):
        if latest is None or random.random() >= COPIES:
            latest = reordered(chorales[random.integers(len(chorales))], random)
        yield str(number), latest


def reordered(notes: Notes, random: np.random.Generator) -> Notes:
    """A piece with its bars of four beats in another order and its key up to six semitones away."""
    bar = (notes.onset // BEATS).astype(np.int64)
    new_bar = random.permutation(int(bar.max()) + 1)[bar]
    moved = replace(notes, onset=notes.onset + (new_bar - bar) * BEATS, time_signatures=())
    return moved.transposed(int(random.integers(-6, 7)))


def milliseconds_a_piece(index: CopyIndex, pieces: list[Notes], rounds: int = 3) -> dict[str, float]:
    """Milliseconds of the share of copied windows and of the longest match, the best of some rounds."""
    questions = {"copy_rate": lambda notes: copy_counts(notes, index, bars=2), "longest_match": lambda notes: longest_match(notes, index)}
    result = {}
    for name, ask in questions.items():
        best = float("inf")
        for _ in range(rounds):
            start = time.process_time()
            for notes in pieces:
                ask(notes)
            best = min(best, time.process_time() - start)
        result[f"{name}_ms_a_piece"] = round(1000 * best / len(pieces), 2)
    return result


class Stopwatch:
    """Passes pieces on, and keeps the seconds that they took to come."""

    def __init__(self, pieces: Iterable[tuple[str, Notes]]) -> None:
        self.pieces, self.seconds = iter(pieces), 0.0

    def __iter__(self) -> Iterator[tuple[str, Notes]]:
        return self

    def __next__(self) -> tuple[str, Notes]:
        start = time.process_time()
        try:
            return next(self.pieces)
        finally:
            self.seconds += time.process_time() - start


def measure_corpus(pieces: Iterable[tuple[str, Notes]], asked: list[Notes], folder: Path) -> dict[str, Any]:
    """Seconds to build, save and open the index, its size, and what a question costs."""
    waited = Stopwatch(pieces)
    start = time.process_time()
    index = CopyIndex.build(waited)
    built = time.process_time()
    index.save(folder / "index")
    saved = time.process_time()
    result: dict[str, Any] = {"pieces": len(index), "chords": len(index.chords), "notes": len(index.chords.pitch)}
    result |= {"build_seconds": round(built - start - waited.seconds, 2)}
    result |= {"index_mib": round(index.nbytes / 2**20, 1), "save_seconds": round(saved - built, 2)}
    del index
    start = time.process_time()
    opened = CopyIndex.load(folder / "index")
    result["open_seconds"] = round(time.process_time() - start, 3)
    return result | milliseconds_a_piece(opened, asked)


def measure(num_pieces: int = 100_000) -> dict[str, Any]:
    """The chorales, and a corpus of ``num_pieces``."""
    corpus = load_corpus("chorales", progress=False)
    train = [(piece.name, piece.notes) for piece in corpus.split("train")]
    asked = [piece.notes for piece in corpus.split("valid")]
    with tempfile.TemporaryDirectory() as folder:
        chorales = measure_corpus(train, asked, Path(folder))
        large = measure_corpus(large_corpus([notes for _, notes in train], num_pieces), asked, Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"chorales": chorales, "large": large, "peak_memory_mib": round(peak)}


def main() -> None:
    """Measures, prints the result and keeps it in ``benchmarks/results/copying.json``."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--pieces", type=int, default=100_000, help="of the large corpus")
    write_result("copying", measure(parser.parse_args().pieces))


if __name__ == "__main__":
    main()
