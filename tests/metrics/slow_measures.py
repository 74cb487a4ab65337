"""The measures once more, note by note in plain Python and with fractions: slow, and written from their definitions alone."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import combinations, pairwise
from typing import NamedTuple

from musictrain.notes import Notes

ANY_SCALE = [{0, 2, 4, 5, 7, 9, 11}, {0, 2, 3, 5, 7, 8, 10}, {0, 2, 3, 5, 7, 8, 11}, {0, 2, 3, 5, 7, 9, 11}]


class Placed(NamedTuple):
    """One note with its place."""

    onset: Fraction
    end: Fraction
    pitch: int
    track: int
    bar: int
    position: int


def exactly(number: float) -> Fraction:
    return Fraction(number).limit_denominator(10_000)


def bars_of(notes: Notes, until: Fraction) -> list[tuple[Fraction, Fraction]]:
    """(start, length) of bars until one begins after ``until``."""
    signs = [(exactly(sign.onset), Fraction(sign.numerator * 4, sign.denominator)) for sign in notes.time_signatures]
    if not signs or signs[0][0] > 0:
        signs.insert(0, (Fraction(0), Fraction(4)))
    bars, start = [], Fraction(0)
    while start <= until + 8:
        length = [beats for onset, beats in signs if onset <= start][-1]
        coming = [onset for onset, _ in signs if onset > start]
        end = min([start + length, *coming])
        bars.append((start, end - start))
        start = end
    return bars


def place(notes: Notes, steps_per_beat: int = 4) -> tuple[list[Placed], list[int]]:
    """The notes that are no drums, and the steps of each bar from their first to their last."""
    pitched = [i for i in range(len(notes)) if not notes.drum[i]]
    if not pitched:
        return [], []
    bars = bars_of(notes, max(exactly(notes.onset[i]) for i in pitched))
    steps = [math.ceil(length * steps_per_beat) for _, length in bars]
    placed = []
    for i in pitched:
        onset = exactly(notes.onset[i])
        bar = max(b for b, (start, _) in enumerate(bars) if start <= onset)
        position = math.floor((onset - bars[bar][0]) * steps_per_beat + Fraction(1, 2))
        if position >= steps[bar]:
            bar, position = bar + 1, 0
        end = onset + max(Fraction(0), exactly(notes.duration[i]))
        placed.append(Placed(onset, end, int(notes.pitch[i]), int(notes.track[i]), bar, position))
    first, last = min(p.bar for p in placed), max(p.bar for p in placed)
    return [p._replace(bar=p.bar - first) for p in placed], steps[first : last + 1]


def bits(counts: Counter[object]) -> float:
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values()) if total else math.nan


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def window_entropy(placed: list[Placed], num_bars: int, width: int) -> float:
    width = min(width, num_bars)
    windows = [[p.pitch % 12 for p in placed if start <= p.bar < start + width] for start in range(num_bars - width + 1)]
    return mean([bits(Counter(window)) for window in windows if window])


def scale_consistency(placed: list[Placed]) -> float:
    shares = [mean([float((p.pitch - root) % 12 in scale) for p in placed]) for scale in ANY_SCALE for root in range(12)]
    return max(shares)


def lines(placed: list[Placed], steps: list[int]) -> list[list[tuple[int, int]]]:
    """(step, pitch) of the highest note at each step, a list for each track."""
    tracks: dict[int, dict[int, int]] = defaultdict(dict)
    for p in placed:
        step = sum(steps[: p.bar]) + p.position
        tracks[p.track][step] = max(p.pitch, tracks[p.track].get(step, p.pitch))
    return [sorted(track.items()) for track in tracks.values()]


def transition_entropy(placed: list[Placed], steps: list[int]) -> float:
    following: dict[int, Counter[object]] = defaultdict(Counter)
    for line in lines(placed, steps):
        for (_, pitch), (_, after) in pairwise(line):
            following[pitch % 12][after % 12] += 1
    total = sum(sum(counts.values()) for counts in following.values())
    return sum(bits(counts) * sum(counts.values()) for counts in following.values()) / total if total else math.nan


def groove(placed: list[Placed], steps: list[int], *, adjacent: bool) -> float:
    rhythms = [{p.position for p in placed if p.bar == bar} for bar in range(len(steps))]
    pairs = pairwise(range(len(steps))) if adjacent else combinations(range(len(steps)), 2)
    return mean([1 - len(rhythms[a] ^ rhythms[b]) / steps[a] for a, b in pairs if steps[a] == steps[b]])


def sounding(placed: list[Placed]) -> tuple[float, float]:
    """Polyphony and its rate."""
    times = sorted({time for p in placed for time in (p.onset, p.end)})
    weighed = [(end - start, sum(p.onset <= start and p.end >= end for p in placed)) for start, end in pairwise(times)]
    total = sum((length for length, num in weighed if num), Fraction(0))
    if not total:
        return math.nan, math.nan
    return float(sum(length * num for length, num in weighed) / total), float(sum(length for length, num in weighed if num >= 2) / total)


def already_seen(things: list[object]) -> float:
    return mean([float(thing in things[:number]) for number, thing in enumerate(things)])


def bar_repetition(placed: list[Placed]) -> float:
    bars: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for p in placed:
        bars[p.bar].add((p.position, p.pitch))
    return already_seen([bars[bar] for bar in sorted(bars)])


def motif_repetition(placed: list[Placed], steps: list[int]) -> float:
    turns: list[object] = []
    for line in lines(placed, steps):
        moves = [(after - pitch, later - step) for (step, pitch), (later, after) in pairwise(line)]
        turns += [moves[start : start + 4] for start in range(len(moves) - 3)]
    return already_seen(turns)


def slow_measures(notes: Notes) -> dict[str, float]:
    """What ``measure_all`` should give."""
    placed, steps = place(notes)
    if not placed:
        return {}
    first_of_step: dict[tuple[int, int], Fraction] = {}
    for p in placed:
        first_of_step.setdefault((p.bar, p.position), p.onset)
    pitches = [p.pitch for p in placed]
    starts = bars_of(notes, max(p.onset for p in placed))
    first = next(b for b, (start, length) in enumerate(starts) if placed[0].onset + Fraction(1, 8) < start + length)
    beats = sum(length for _, length in starts[first : first + len(steps)])
    polyphony, rate = sounding(placed)
    return {
        "pitch_class_entropy": bits(Counter(pitch % 12 for pitch in pitches)),
        "pitch_class_entropy_1_bar": window_entropy(placed, len(steps), 1),
        "pitch_class_entropy_4_bars": window_entropy(placed, len(steps), 4),
        "scale_consistency": scale_consistency(placed),
        "pitch_class_transition_entropy": transition_entropy(placed, steps),
        "groove_similarity": groove(placed, steps, adjacent=False),
        "groove_similarity_adjacent": groove(placed, steps, adjacent=True),
        "empty_bar_rate": 1 - len({p.bar for p in placed}) / len(steps),
        "mean_inter_onset_interval": mean([float(b - a) for a, b in pairwise(first_of_step.values())]),
        "polyphony": polyphony,
        "polyphony_rate": rate,
        "pitch_range": float(max(pitches) - min(pitches)),
        "notes_per_beat": len(placed) / float(beats),
        "notes_per_bar": len(placed) / len(steps),
        "mean_note_length": mean([float(p.end - p.onset) for p in placed]),
        "bar_repetition": bar_repetition(placed),
        "motif_repetition": motif_repetition(placed, steps),
    }
