"""What the token names of an event vocabulary say: types, values and times, as arrays over the token ids."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Kind(IntEnum):
    """The kinds of event tokens; START is the kind of the token before the first one."""

    START = 0
    PAD = 1
    BOS = 2
    EOS = 3
    BAR = 4
    POSITION = 5
    TIME_SIGNATURE = 6
    TEMPO = 7
    PROGRAM = 8
    DRUMS = 9
    PITCH = 10
    DRUM = 11
    VELOCITY = 12
    DURATION = 13
    REST = 14
    TIME_SHIFT = 15


KIND_OF_NAME = {
    "PAD": Kind.PAD,
    "BOS": Kind.BOS,
    "EOS": Kind.EOS,
    "Bar": Kind.BAR,
    "Position": Kind.POSITION,
    "TimeSig": Kind.TIME_SIGNATURE,
    "Tempo": Kind.TEMPO,
    "Program": Kind.PROGRAM,
    "Pitch": Kind.PITCH,
    "PitchDrum": Kind.DRUM,
    "Velocity": Kind.VELOCITY,
    "Duration": Kind.DURATION,
    "Rest": Kind.REST,
    "TimeShift": Kind.TIME_SHIFT,
}


class EventVocabulary:
    """Token names in MidiTok's form, ``Type_Value``, read into arrays.

    Times are in ticks, of which a beat holds ``steps_per_beat`` times the finest denominator over the beat's own, as in MidiTok:
    with signatures over 4 and over 8, a quarter has twice the ticks of an eighth.

    Args:
        names: the names, in the order of the token ids.
        steps_per_beat: positions in the beat of any signature.

    Attributes:
        kinds: Kind of every token, (vocab,).
        signatures: numerator and denominator of every signature the vocabulary knows, (signatures, 2); the first is 4/4.
        bar_ticks, step_ticks: length of a bar and of a position in each signature, (signatures,).
        signature_of: index into ``signatures`` for TimeSig tokens, else 0, (vocab,).
        positions: ids of the Position tokens in order of value, (positions,).
        position_of: value of Position tokens, else 0, (vocab,).
        time_ticks: ticks of every Duration, Rest and TimeShift in each signature, else 0, (signatures, vocab).
    """

    def __init__(self, names: Sequence[str], steps_per_beat: int) -> None:
        split = [name.split("_", 1) for name in names]
        self.kinds = np.array([_kind(*parts) for parts in split], np.int64)
        meters = [tuple(map(int, v.split("/"))) for t, v in split if t == "TimeSig"]
        self.signatures = np.array([(4, 4), *meters], np.int64)
        numerator, denominator = self.signatures.T
        beat_ticks = steps_per_beat * (denominator.max() // denominator)
        self.bar_ticks, self.step_ticks = numerator * beat_ticks, beat_ticks // steps_per_beat
        self.signature_of = np.zeros(len(names), np.int64)
        self.signature_of[self.kinds == Kind.TIME_SIGNATURE] = np.arange(1, len(meters) + 1)
        self.position_of = np.array([int(v) if t == "Position" else 0 for t, v in split], np.int64)
        positions = np.nonzero(self.kinds == Kind.POSITION)[0]
        self.positions = positions[np.argsort(self.position_of[positions])]
        beats, steps, resolution = np.array([_time(*parts) for parts in split], np.int64).T
        self.time_ticks: NDArray[np.int64] = (beats * resolution + steps) * beat_ticks[:, None] // resolution


def _kind(name: str, value: str) -> Kind:
    return Kind.DRUMS if (name, value) == ("Program", "-1") else KIND_OF_NAME[name]


def _time(name: str, value: str) -> tuple[int, int, int]:
    """Whole beats, steps of the last beat, and steps a beat; "0.0.1" is no time at all."""
    if name not in ("Duration", "Rest", "TimeShift"):
        return 0, 0, 1
    beats, steps, resolution = map(int, value.split("."))
    return beats, steps, resolution
