"""Notes <-> MIDI, through symusic's Score.

Conventions: a MIDI track with notes becomes one ``track`` number, in file order, counted from 0; tracks without notes are not counted.
Grace is given to what files get wrong: a note of no duration is dropped, one of more than ``LONGEST_NOTE_BEATS`` is shortened to that
(a lost note-off), a time signature of 0 beats or a tempo that is not positive and finite is dropped. Nothing else is changed.
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import numpy as np
from symusic.core import NoteTickList, ScoreTick, TempoTick, TimeSignatureTick, TrackTick

from musictrain.notes import Notes, Tempo, TimeSignature

TICKS_PER_BEAT = 480
LONGEST_NOTE_BEATS = 256.0
MICROSECONDS_PER_MINUTE = 60_000_000


def notes_from_score(score: ScoreTick) -> Notes:
    """The notes of a symusic Score in ticks, times in beats.

    Tempos are rounded to 0.01 quarter notes a minute: MIDI stores microseconds, which turns 112 into 112.0001.

    Raises:
        ValueError: if the score's ticks per quarter note are not positive, so that its times mean nothing.
    """
    if score.ticks_per_quarter <= 0:
        raise ValueError(f"{score.ticks_per_quarter} ticks per quarter note, expected at least 1")
    parts = [part for part in score.tracks if len(part.notes)]
    columns = [part.notes.numpy() for part in parts]
    sizes = [len(part.notes) for part in parts]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([column[name] for column in columns]) if columns else np.zeros(0)

    notes = Notes(
        onset=joined("time") / score.ticks_per_quarter,
        duration=np.minimum(joined("duration") / score.ticks_per_quarter, LONGEST_NOTE_BEATS),
        pitch=joined("pitch"),
        velocity=joined("velocity"),
        program=np.repeat([part.program for part in parts], sizes),
        track=np.repeat(np.arange(len(parts)), sizes),
        drum=np.repeat([part.is_drum for part in parts], sizes),
        time_signatures=_time_signatures(score),
        tempos=_tempos(score),
    )
    return notes.select(notes.duration > 0)


def _time_signatures(score: ScoreTick) -> tuple[TimeSignature, ...]:
    found = ((t.time / score.ticks_per_quarter, t.numerator, t.denominator) for t in score.time_signatures)
    return tuple(TimeSignature(*t) for t in sorted(found) if t[1] > 0 and t[2] > 0)


def _tempos(score: ScoreTick) -> tuple[Tempo, ...]:
    found = ((t.time / score.ticks_per_quarter, round(t.qpm, 2)) for t in score.tempos)
    return tuple(Tempo(*t) for t in sorted(found) if isfinite(t[1]) and t[1] > 0)


def score_from_notes(notes: Notes) -> ScoreTick:
    """A symusic Score of 480 ticks a beat, one track for each (track, program, drum) in that order.

    Onsets and ends are rounded to the nearest tick; no note is shorter than one tick. Reading it back with ``notes_from_score``
    gives the same notes if they lie on the ticks and every track number from 0 on has one program.

    Raises:
        ValueError: if a pitch is not a MIDI number.
    """
    if len(notes) and not 0 <= notes.pitch.min() <= notes.pitch.max() <= 127:
        raise ValueError(
            f"Pitches from {notes.pitch.min()} to {notes.pitch.max()} do not fit into MIDI, whose numbers are 0 to 127: transpose first."
        )
    pitch, velocity = notes.pitch.astype(np.int8), np.clip(notes.velocity, 1, 127).astype(np.int8)
    score = ScoreTick(TICKS_PER_BEAT)
    onset = _ticks(notes.onset)
    duration = np.maximum(_ticks(notes.onset + notes.duration) - onset, 1)
    keys = np.stack([notes.track, notes.program, notes.drum.astype(np.int64)], axis=1)
    for key in np.unique(keys, axis=0):
        chosen = (keys == key).all(axis=1)
        part = TrackTick("", int(key[1]), bool(key[2]))
        part.notes = NoteTickList.from_numpy(onset[chosen], duration[chosen], pitch[chosen], velocity[chosen])
        score.tracks.append(part)
    for time, numerator, denominator in notes.time_signatures:
        score.time_signatures.append(TimeSignatureTick(int(_ticks(time)), numerator, denominator))
    for time, bpm in notes.tempos:
        score.tempos.append(TempoTick(int(_ticks(time)), mspq=round(MICROSECONDS_PER_MINUTE / bpm)))
    return score


def _ticks(beats: np.ndarray | float) -> np.ndarray:
    return np.rint(np.asarray(beats) * TICKS_PER_BEAT).astype(np.int32)


def write_midi(notes: Notes, path: str | Path) -> None:
    """Write the notes as a standard MIDI file, as ``score_from_notes`` lays them out; missing folders are made.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(score_from_notes(notes).dumps_midi())
