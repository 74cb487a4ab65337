"""Rules of four-part writing, counted as Bach breaks them: parallel and direct fifths and octaves, crossed voices, wide spacing.

Conventions:

- A four-part piece has notes in tracks 0 to 3, soprano, alto, tenor and bass, one at a time, and no drums. A note lasts until the next
  one of its voice at the longest; of notes that start together in one voice, which may be a tenth of all, the highest counts.
- A *sonority* is what the four voices hold between two moments at which a voice changes its pitch or falls silent; striking a note again
  changes nothing. Times are rounded to 48ths of a beat. A voice that rests takes no part in any rule.
- From one sonority to the next, two voices that both move, in one direction, from a fifth to a fifth are *parallel fifths*, from an octave
  or unison to one *parallel octaves* (compound intervals too; every pair of voices counts, crossed or not). Soprano and bass that move in
  one direction to a fifth or an octave from another interval, the soprano by a leap (more than two semitones), are *direct*. Rates are per
  100 changes.
- *Voice crossing* is a sonority in which a voice is lower than the next voice below it; *wide spacing* one in which soprano and alto, or
  alto and tenor, are more than an octave apart. Rates are per 100 sonorities.

What they mean: Bach breaks each of these rules at a steady low rate, so that **the distance to his rate counts, and less is not better**; a
model that never crosses voices is as unlike him as one that does it all the time. The rates are of rare events: 30 chorales hold some
five parallel fifths. That a piece keeps the rules says nothing about whether it is good.

``BACH`` is where nine of ten sets of 30 of the built-in chorales lie. Rates of the 365 built-in and the 305 JSB Chorales (training and
validation), and of the built-in ones with alto, tenor and bass shifted in time, around the end of the piece:

| | parallel fifths | parallel octaves | direct | crossing | spacing |
|---|---|---|---|---|---|
| built-in | 0.16 | 0.07 | 0.54 | 2.5 | 1.4 |
| JSB | 0.17 | 0.14 | 0.51 | 3.0 | 1.6 |
| 1.75, 3.25, 7.25 beats later | 1.24 | 1.35 | 0.00 | 7.4 | 3.3 |
| the same and quarters of the piece | 1.16 | 1.29 | 0.00 | 18 | 8.4 |
| each by a number of 16ths drawn for it | 1.2 to 1.3 | 1.4 to 1.5 | 0.2 | 16 | 7.6 |

Intervals are distances: with differences modulo 12 instead, a fourth between crossed voices is a fifth, and fifths come to 0.17 and 0.20.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from musictrain.listening.bars import bar_lines
from musictrain.metrics.copying_bars import bar_at
from musictrain.notes import Notes
from musictrain.suggestions import did_you_mean

VOICES = ("soprano", "alto", "tenor", "bass")
RULES = ("parallel_fifths", "parallel_octaves", "direct_intervals", "voice_crossing", "wide_spacing")
OF_A_CHANGE = frozenset(RULES[:3])
MOST_IN_CHORDS = 0.1
BACH = {
    "parallel_fifths": (0.04, 0.34),
    "parallel_octaves": (0.0, 0.18),
    "direct_intervals": (0.28, 0.83),
    "voice_crossing": (1.5, 3.5),
    "wide_spacing": (0.8, 2.2),
}
TICKS_PER_BEAT = 48
REST = -1
LARGEST_STEP = 2
OCTAVE, FIFTH = 12, 7
ADJACENT = ((0, 1), (1, 2), (2, 3))
PAIRS = tuple(itertools.combinations(range(4), 2))


class Sonorities(NamedTuple):
    """The sonorities of a piece: where each begins, in beats, and the four voices' pitches, -1 for a rest."""

    onset: NDArray[np.float64]  # (sonorities,)
    pitch: NDArray[np.int64]  # (sonorities, 4)


class RuleCounts(NamedTuple):
    """How often a rule was broken, and how often it could have been."""

    faults: int
    chances: int

    @property
    def rate(self) -> float:
        """Faults per 100 chances; nan without a chance."""
        return 100.0 * self.faults / self.chances if self.chances else math.nan


@dataclass(frozen=True)
class Fault:
    """One place where a rule is broken.

    Args:
        rule: one of ``RULES``.
        bar: in which it is, from 1, a pickup counted.
        beat: beats from the start of the piece; of a change, when the second sonority begins.
        voices: the two voices.
        pitches: their MIDI numbers there.
    """

    rule: str
    bar: int
    beat: float
    voices: tuple[str, str]
    pitches: tuple[int, int]

    def __str__(self) -> str:
        return f"bar {self.bar}, beat {self.beat:g}: {self.rule.replace('_', ' ')} of {self.voices[0]} and {self.voices[1]}"


def is_four_part(notes: Notes) -> bool:
    """Whether a piece can be judged: notes in all of the tracks 0 to 3, in no other, no drums, and hardly any chord within a voice."""
    if notes.drum.any() or not np.array_equal(np.unique(notes.track), np.arange(len(VOICES))):
        return False
    return bool(_is_chord(notes).mean() <= MOST_IN_CHORDS)


def sonorities(notes: Notes) -> Sonorities:
    """What the four voices hold together, one row whenever a voice changes.

    Raises:
        ValueError: if the piece is not four-part: see ``is_four_part``.
    """
    if not is_four_part(notes):
        tracks = f"notes in tracks {np.unique(notes.track).tolist()}, {np.count_nonzero(_is_chord(notes))} of them in chords"
        what = "drums" if notes.drum.any() else tracks
        raise ValueError(
            f"Chorale rules are of four voices of one note at a time in tracks 0 to 3, soprano to bass; this piece has {what}."
        )
    start, stop = _spans(notes)
    moments = np.unique(np.concatenate([start, stop]))
    first, last = np.searchsorted(moments, start), np.searchsorted(moments, stop)
    note = np.repeat(np.arange(len(notes)), last - first)
    row = np.arange(len(note)) - np.repeat(np.cumsum(last - first) - last, last - first)
    pitch = np.full((len(moments), len(VOICES)), REST, np.int64)
    pitch[row, notes.track[note]] = notes.pitch[note]
    changes = np.append(True, (pitch[1:] != pitch[:-1]).any(axis=1))
    sounds = (pitch != REST).any(axis=1)
    return Sonorities(moments[changes & sounds] / TICKS_PER_BEAT, pitch[changes & sounds])


def chorale_counts(notes: Notes) -> dict[str, RuleCounts]:
    """How often each rule was broken, of how many changes of sonority or sonorities; no chances in a piece that is not four-part."""
    if not is_four_part(notes):
        return dict.fromkeys(RULES, RuleCounts(0, 0))
    heard = sonorities(notes)
    num_sonorities = len(heard.onset)
    return {rule: RuleCounts(_count(rule, heard), num_sonorities - (rule in OF_A_CHANGE)) for rule in RULES}


def chorale_rates(notes: Notes) -> dict[str, float]:
    """How often each of ``RULES`` is broken, per 100 changes of sonority or per 100 sonorities.

    Read them as a distance to Bach's rates (``BACH``), and of many pieces together: add up ``chorale_counts``. A piece that is not
    four-part cannot be judged and has nan, and so has a change rule in a single sonority.

    >>> parallel = Notes([0, 1, 0, 0, 0, 1], [1, 1, 2, 2, 1, 1], [67, 69, 64, 55, 48, 50], track=[0, 0, 1, 2, 3, 3])
    >>> chorale_rates(parallel)["parallel_fifths"]
    100.0

    Source: the rules are those of every textbook of harmony; the counting is ours.
    """
    return {rule: counts.rate for rule, counts in chorale_counts(notes).items()}


def chorale_faults(notes: Notes) -> list[Fault]:
    """Every place where a rule is broken, in order of time, for people who want to look.

    A sonority in which two pairs of voices break a rule has two entries here; in the rates of crossing and spacing it counts once.

    Raises:
        ValueError: if the piece is not four-part.
    """
    heard, lines = sonorities(notes), bar_lines(notes)
    found = []
    for rule in RULES:
        for pair, broken in _broken(rule, heard).items():
            for row in np.flatnonzero(broken) + (rule in OF_A_CHANGE):
                beat = float(heard.onset[row])
                names, pitches = (VOICES[pair[0]], VOICES[pair[1]]), (int(heard.pitch[row, pair[0]]), int(heard.pitch[row, pair[1]]))
                found.append(Fault(rule, bar_at(lines, beat), beat, names, pitches))
    return sorted(found, key=lambda fault: fault.beat)


def check_rule(rule: str) -> None:
    """Refuse an unknown rule with a ValueError that names the nearest."""
    if rule not in RULES:
        raise ValueError(
            f"No chorale rule is called {rule!r}. {did_you_mean(rule, RULES)} There are: {', '.join(RULES)}.".replace("  ", " ")
        )


def _spans(notes: Notes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end of each note in ticks, the end no later than the start of the voice's next note, (notes,) each."""
    start, stop = (np.rint(times * TICKS_PER_BEAT).astype(np.int64) for times in (notes.onset, notes.onset + notes.duration))
    in_voices = np.lexsort((notes.pitch, start, notes.track))
    following, is_last = np.roll(start[in_voices], -1), np.diff(notes.track[in_voices], append=-1) != 0
    stop[in_voices] = np.where(is_last, stop[in_voices], np.minimum(stop[in_voices], following))
    return start, np.maximum(start, stop)


def _is_chord(notes: Notes) -> NDArray[np.bool_]:
    """Which notes start together with another one of their track, but for the last of them, (notes,); in the order of tracks."""
    order = np.lexsort((notes.onset, notes.track))
    same = (np.diff(notes.onset[order]) == 0) & (np.diff(notes.track[order]) == 0)
    return np.append(same, np.zeros(min(1, len(notes)), bool))


def _count(rule: str, heard: Sonorities) -> int:
    broken = np.array(list(_broken(rule, heard).values()))
    return int(broken.sum() if rule in OF_A_CHANGE else broken.any(axis=0).sum())


def _broken(rule: str, heard: Sonorities) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """For each pair of voices that the rule is about, at which changes or in which sonorities it is broken."""
    if rule == "voice_crossing":
        return {pair: _both(heard, pair) & (_interval(heard, pair) < 0) for pair in ADJACENT}
    if rule == "wide_spacing":
        return {pair: _both(heard, pair) & (_interval(heard, pair) > OCTAVE) for pair in ADJACENT[:2]}
    if rule == "direct_intervals":
        return {(0, 3): _direct(heard)}
    wanted = FIFTH if rule == "parallel_fifths" else 0
    return {pair: _together(heard, pair) & (_interval_class(heard, pair) == wanted)[:-1] & _stays(heard, pair) for pair in PAIRS}


def _direct(heard: Sonorities) -> NDArray[np.bool_]:
    outer = (0, 3)
    arrives = np.isin(_interval_class(heard, outer), (0, FIFTH))[1:]
    leaps = np.abs(np.diff(heard.pitch[:, 0])) > LARGEST_STEP
    return _together(heard, outer) & arrives & leaps & ~_stays(heard, outer)


def _both(heard: Sonorities, pair: tuple[int, int]) -> NDArray[np.bool_]:
    """In which sonorities both voices sound."""
    return (heard.pitch[:, pair] != REST).all(axis=1)


def _interval(heard: Sonorities, pair: tuple[int, int]) -> NDArray[np.int64]:
    """Semitones from the lower of two voices up to the higher; below 0 where they are crossed."""
    return heard.pitch[:, pair[0]] - heard.pitch[:, pair[1]]


def _interval_class(heard: Sonorities, pair: tuple[int, int]) -> NDArray[np.int64]:
    """Semitones between two voices without octaves: crossed voices that are a fourth apart are no fifth."""
    return np.abs(_interval(heard, pair)) % OCTAVE


def _stays(heard: Sonorities, pair: tuple[int, int]) -> NDArray[np.bool_]:
    """At which changes two voices keep their interval, whatever the octave."""
    interval = _interval_class(heard, pair)
    return interval[1:] == interval[:-1]


def _together(heard: Sonorities, pair: tuple[int, int]) -> NDArray[np.bool_]:
    """At which changes two sounding voices both move, in one direction."""
    both, moves = _both(heard, pair), np.diff(heard.pitch[:, pair], axis=0)
    return both[1:] & both[:-1] & (moves.prod(axis=1) > 0)
