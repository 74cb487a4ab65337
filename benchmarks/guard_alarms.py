"""How often a ready guard would raise a false alarm: real music, cut as samples are, put in their place.

Conventions: a *window* is as much of a piece as is judged of a sample, 32 beats from a bar line on; a *set* is as many windows as a
validation plays samples, each of another piece drawn by chance, and what is logged is their mean. A *false alarm* is a set beyond the
bound. Of no alarm in n sets it is said that the rate is below 3 / n (95 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.data import load_corpus
from musictrain.data.corpus import Corpus
from musictrain.data.tokenizers import Tokenizer, VoiceGrid
from musictrain.generation.continuation import first_beats
from musictrain.listening.bars import bar_lines
from musictrain.metrics import measure_all
from musictrain.metrics.copying import CopyCounts, copy_counts, corpus_copy_rate
from musictrain.metrics.copying_index import CopyIndex, as_tokens_hold
from musictrain.metrics.intervals import bootstrap_interval
from musictrain.notes import Notes
from musictrain.sampling.scores import music_from
from musictrain.stopping import GUARDS

BEATS = 32.0
SETS = 20_000
SET_SIZES = (18, 8, 4)  # sixteen samples and two continuations are what SampleAndScore plays by itself
MEASURED = {"bar_repetition": "collapse", "mean_note_length": "standstill"}
LOOPS = (1, 2, 4)
Floats = NDArray[np.float64]


def held_pieces(corpus: Corpus, tokenizer: Tokenizer | None) -> dict[str, Notes]:
    """Each piece by its name as the tokenizer holds it, None for as it is; those that it cannot hold are left out."""
    held = {}
    for piece in corpus.pieces:
        try:
            held[piece.name] = piece.notes if tokenizer is None else as_tokens_hold(piece.notes, tokenizer)
        except ValueError:
            continue
    return held


def windows_of(notes: Notes, most: int | None = None) -> list[Notes]:
    """The windows of a piece, one from each bar line that a whole one follows, at most ``most`` of them; a shorter piece as it is."""
    lines = [float(line) for line in bar_lines(notes) if line + BEATS <= notes.end] or [0.0]
    if most is not None and len(lines) > most:
        lines = [lines[number] for number in np.linspace(0, len(lines) - 1, most).astype(int)]
    return [first_beats(music_from(notes, line), BEATS) for line in lines]


def drawn(pieces: Sequence[Sequence[Any]], size: int, random: np.random.Generator) -> list[Any]:
    """A set: one entry each of ``size`` pieces."""
    chosen = [pieces[number] for number in random.integers(len(pieces), size=size).tolist()]
    return [windows[int(random.integers(len(windows)))] for windows in chosen]


def alarm_rate(values: Floats, bound: float) -> dict[str, float]:
    """The share of sets above a bound, and how large the sets' values become."""
    over = int((values > bound).sum())
    at_most = {"at_most_95": round(3 / len(values), 6)} if not over else {}
    told = {"alarms": over, "sets": len(values), "rate": over / len(values), **at_most}
    return {**told, "median": round(float(np.median(values)), 4), "largest": round(float(values.max()), 4)}


def of_measures(pieces: Sequence[Sequence[Notes]], seed: int = 0) -> dict[str, Any]:
    """Windows, sets and false alarms of the guards that look at a measure of each sample."""
    measured = [[measure_all(window) for window in windows] for windows in pieces]
    result: dict[str, Any] = {}
    for name, guard in MEASURED.items():
        values = [[one[name] for one in each] for each in measured]
        means = bootstrap_interval([float(np.nanmean(each)) for each in values if not np.isnan(each).all()], level=0.95)
        every = np.array([value for each in values for value in each])
        bound = float(GUARDS[guard].bound)
        sets = {}
        for size in SET_SIZES:
            random = np.random.default_rng(seed)
            sets[str(size)] = alarm_rate(np.array([np.nanmean(drawn(values, size, random)) for _ in range(SETS)]), bound)
        result[name] = {
            "bound": bound,
            "mean_over_pieces": [round(value, 4) for value in means],
            "windows": len(every),
            "quantiles_50_90_99_100_of_windows": [round(float(q), 4) for q in np.nanquantile(every, (0.5, 0.9, 0.99, 1.0))],
            "sets_of": sets,
        }
    return result


def of_copying(name: str, held: dict[str, Notes], split_seeds: Sequence[int], most: int | None) -> dict[str, Any]:
    """The same for the copy guard: test pieces as samples, against training and validation set of each of several splits."""
    bound, values, rates, own_rates = float(GUARDS["copying"].bound), {size: [] for size in SET_SIZES}, [], []  # type: ignore[var-annotated]
    for seed in split_seeds:
        corpus = load_corpus(name, progress=False, seed=seed)
        names = {split: [piece.name for piece in corpus.split(split) if piece.name in held] for split in ("train", "valid", "test")}
        index = CopyIndex.build((each, held[each]) for each in names["train"])
        own = corpus_copy_rate([first_beats(held[each], BEATS) for each in names["valid"]], index)
        counts = [[copy_counts(window, index, bars=2) for window in windows_of(held[each], most)] for each in names["test"]]
        rates += [CopyCounts(*map(sum, zip(*each, strict=True))).rate for each in counts]
        own_rates.append(own)
        for size in SET_SIZES:
            random = np.random.default_rng(seed)
            for _ in range(SETS // len(split_seeds)):
                rate = CopyCounts(*map(sum, zip(*drawn(counts, size, random), strict=True))).rate
                values[size].append(max(0.0, rate - own))
    return {
        "bound": bound,
        "splits": len(split_seeds),
        "validation_sets_own_rate": [round(rate, 4) for rate in own_rates],
        "test_rate_mean_over_pieces": [round(value, 4) for value in bootstrap_interval(rates, level=0.95)],
        "sets_of": {str(size): alarm_rate(np.array(values[size]), bound) for size in SET_SIZES},
    }


def looped(notes: Notes, bars: int) -> Notes:
    """The first ``bars`` bars of a piece over and over, for as long as a window."""
    lines = bar_lines(notes)
    whole = lines[1] if lines[1] - lines[0] < lines[2] - lines[1] else lines[0]  # not from the pickup on
    length = float((lines[2] - lines[1]) * bars)
    once = music_from(notes, float(whole)).between(0.0, length)
    rows = [
        (start + onset, min(duration, length - onset), pitch)
        for start in np.arange(0.0, BEATS, length)
        for onset, duration, pitch in zip(once.onset, once.duration, once.pitch, strict=True)
        if start + onset < BEATS
    ]
    return Notes.from_rows(rows) if rows else Notes.empty()


def of_loops(pieces: Sequence[Notes]) -> dict[str, Any]:
    """What pieces that were caught in a loop have, and in how many of the samples of a round it takes one to be noticed."""
    bound, result = float(GUARDS["collapse"].bound), {}
    for bars in LOOPS:
        values = [measure_all(looped(notes, bars))["bar_repetition"] for notes in pieces if len(bar_lines(notes)) > bars + 2]
        mean = float(np.nanmean(values))
        share = round(bound / mean, 2) if mean > bound else None
        result[str(bars)] = {"bar_repetition": round(mean, 4), "share_of_samples_that_must_loop": share}
    return result


def measure(name: str, tokenizer: Tokenizer | None, split_seeds: Sequence[int], most: int | None = None) -> dict[str, Any]:
    """False alarms of one corpus; ``most`` windows of each piece."""
    held = held_pieces(load_corpus(name, progress=False), tokenizer)
    told: dict[str, Any] = {"pieces": len(held), **of_measures([windows_of(notes, most) for notes in held.values()])}
    return {**told, "copy_excess": of_copying(name, held, split_seeds, most), "loops_of_bars": of_loops(list(held.values()))}


def measure_all_corpora() -> dict[str, Any]:
    """Bach's chorales as ``make train`` holds them, every window; and fiddle tunes, which repeat themselves more than most music."""
    chorales = measure("chorales", VoiceGrid(lowest=36, highest=81, steps_per_beat=4), range(10))
    return {"chorales": chorales, "ryans": measure("ryans", None, range(2), most=2)}
