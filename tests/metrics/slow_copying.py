"""Copying once more: every chord of a piece compared with every chord of every other; slow, and written from the definitions alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st

from musictrain.notes import Notes, TimeSignature
from tests.metrics.drawn_pieces import of_rows

TICKS = 12
METERS = [(), ((0, 3, 4),), ((0, 6, 8),), ((0, 1, 4), (1, 4, 4)), ((0, 3, 4), (6, 4, 4)), ((0, 5, 8),)]
BEATS = [number / 4 for number in range(32)] + [number / 3 for number in range(24)]
Chord = tuple[int, list[tuple[int, int]]]  # tick, (pitch, ticks) of its notes from the lowest up


class Shared(NamedTuple):
    """Chords that two pieces have in common: where, how long, and how much higher the first stands."""

    ticks: int
    own: int
    source: int
    semitones: int
    chords: int


@st.composite
def music(draw: st.DrawFn) -> Notes:
    """Few pitches, so that passages come back, in any metre; a drum now and then."""
    drum = st.sampled_from([False] * 9 + [True])
    row = st.tuples(st.sampled_from(BEATS), st.sampled_from([0.25, 1 / 3, 1.0]), st.sampled_from([60, 62, 64]), st.just(0), drum)
    signatures = draw(st.sampled_from(METERS))
    return of_rows(draw(st.lists(row, max_size=16)), time_signatures=tuple(TimeSignature(*each) for each in signatures))


@st.composite
def borrowing(draw: st.DrawFn, sources: Sequence[Notes]) -> Notes:
    """Music that goes on with a passage of one of the sources, in another key, at another beat, in another metre."""
    own, source = draw(music()), draw(st.sampled_from(sources))
    start, later = draw(st.sampled_from([0.0, 1.0, 2.0])), draw(st.sampled_from([0.0, 0.5, 1 / 3, 3.0]))
    stop, higher = start + draw(st.integers(1, 9)), draw(st.integers(-5, 5))
    kept, taken = own.between(stop + later, math.inf), source.between(start, stop)
    rows = [*_rows(kept), *((onset + later, duration, pitch + higher, 0, drum) for onset, duration, pitch, _, drum in _rows(taken))]
    return of_rows(rows, time_signatures=own.time_signatures)


def _rows(notes: Notes) -> list[tuple[float, float, int, int, bool]]:
    return list(zip(notes.onset, notes.duration, notes.pitch, notes.track, notes.drum, strict=True))


def chords_in(notes: Notes, from_beat: float = 0.0) -> list[Chord]:
    """What starts together, in ticks; drums left out, equal notes once."""
    heard: dict[int, set[tuple[int, int]]] = {}
    for onset, duration, pitch, _, drum in _rows(notes):
        if not drum and onset >= from_beat:
            heard.setdefault(round(onset * TICKS), set()).add((int(pitch), max(1, round(duration * TICKS))))
    return sorted((tick, sorted(chord)) for tick, chord in heard.items())


def all_shared(own: list[Chord], source: list[Chord]) -> list[Shared]:
    """The longest common passage from each chord of one piece and each of another, of two chords at least."""
    found = []
    for i in range(len(own)):
        for j in range(len(source)):
            later, higher = own[i][0] - source[j][0], own[i][1][0][0] - source[j][1][0][0]
            number = 0
            for (tick, chord), (other_tick, other) in zip(own[i:], source[j:], strict=False):
                if tick - other_tick != later or chord != [(pitch + higher, ticks) for pitch, ticks in other]:
                    break
                number += 1
            if number > 1:
                found.append(Shared(_length(own, i, number), own[i][0], source[j][0], higher, number))
    return found


def _length(own: list[Chord], start: int, number: int) -> int:
    """Ticks until the longest note of the last chord ends or the next chord begins."""
    last, chord = own[start + number - 1]
    end = last + max(ticks for _, ticks in chord)
    following = [tick for tick, _ in own[start + number :]]
    return min([end, *following]) - own[start][0]


def lines_of(notes: Notes, until: float) -> list[float]:
    """Bar lines, bar after bar, until one is at or beyond ``until``."""
    signs = [(sign.onset, sign.numerator * 4 / sign.denominator) for sign in notes.time_signatures]
    signs = signs if signs and signs[0][0] <= 0 else [(0.0, 4.0), *signs]
    lines = [0.0]
    while lines[-1] < until or len(lines) < 2:
        length = [beats for onset, beats in signs if onset <= lines[-1]][-1]
        lines.append(min([lines[-1] + length, *(onset for onset, _ in signs if onset > lines[-1])]))
    return lines


def bars_of(notes: Notes, start_tick: int, ticks: int) -> tuple[int, int]:
    """The first and the last bar, from 1, that a passage stands in."""
    lines = lines_of(notes, (start_tick + ticks) / TICKS)
    inside = [
        number
        for number, (line, following) in enumerate(pairwise(lines), start=1)
        if line * TICKS < start_tick + ticks and following * TICKS > start_tick
    ]
    return inside[0], inside[-1]


def windows_of(notes: Notes, bars: int, from_beat: float) -> list[list[Chord]]:
    """The chords of each window that counts: two at least, and one in its first and its last bar."""
    chords = chords_in(notes, from_beat)
    lines = [line * TICKS for line in lines_of(notes, notes.end) if line >= from_beat]
    windows = []
    for first in range(len(lines) - bars):
        inside = [
            [chord for chord in chords if line <= chord[0] < following] for line, following in pairwise(lines[first : first + bars + 1])
        ]
        together = [chord for bar in inside for chord in bar]
        if inside[0] and inside[-1] and len(together) > 1:
            windows.append(together)
    return windows
