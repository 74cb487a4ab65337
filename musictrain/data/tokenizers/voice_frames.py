"""Frames: four voices sampled on a regular grid, and the notes they stand for.

A frame matrix is (frames, 4) integers: soprano, alto, tenor, bass; a MIDI pitch, or -1 for a rest. This is the form of the
JSB Chorales on a 16th grid (Boulanger-Lewandowski et al., ICML 2012, in the quantisation of Huang et al., Coconet, ISMIR 2017).
It does not say where a note is struck again: a pitch repeated without a gap is one longer note.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musictrain.notes import Notes

REST = -1
NUM_VOICES = 4
MAX_FRAMES = 1 << 20
MAX_OVERLAP = 0.1

Frames = NDArray[np.int64]


def notes_from_frames(frames: ArrayLike, steps_per_beat: int = 4) -> Notes:
    """The notes of a (frames, 4) matrix: track = voice, a run of equal pitches is one note, -1 is a rest. Tempo is left empty.

    >>> notes_from_frames([[60, -1, -1, 48], [60, -1, -1, 50]]).duration.tolist()
    [0.5, 0.25, 0.25]
    """
    voices = np.asarray(frames, np.int64).reshape(-1, NUM_VOICES).T
    num_frames = voices.shape[1]
    changes = np.ones_like(voices, bool)
    changes[:, 1:] = voices[:, 1:] != voices[:, :-1]
    voice, start = np.nonzero(changes)
    last_of_voice = np.append(voice[1:] != voice[:-1], True) if len(voice) else np.zeros(0, bool)
    stop = np.where(last_of_voice, num_frames, np.roll(start, -1))
    pitch = voices[voice, start]
    sounds = pitch != REST
    onset, duration = start / steps_per_beat, (stop - start) / steps_per_beat
    return Notes(onset[sounds], duration[sounds], pitch[sounds], track=voice[sounds])


def frames_from_notes(notes: Notes, steps_per_beat: int = 4) -> Frames:
    """The (frames, 4) matrix of a four-part piece; column = track 0 to 3, -1 where a voice rests.

    Onsets and ends are rounded to the nearest step, a half upwards; every note holds at least one step. Where notes of one
    voice overlap, the one with the latest onset is heard (of equal onsets the highest); a note with nothing left vanishes.
    The matrix ends with the last note's last step.

    Raises:
        ValueError: if the piece is not four-part: drums, tracks beyond 0 to 3, or a voice that sounds over itself for more
            than a tenth of its time; and if an onset or a duration is negative, infinite, or beyond 2**20 steps.
    """
    _refuse_other_than_four_voices(notes)
    start = _nearest(notes.onset * steps_per_beat)
    stop = np.maximum(_nearest((notes.onset + notes.duration) * steps_per_beat), start + 1)
    frames = np.full((int(stop.max(initial=0)), NUM_VOICES), REST, np.int64)
    held = stop - start
    note = np.repeat(np.arange(len(notes)), held)
    step = np.arange(len(note)) - np.repeat(np.cumsum(held) - held, held) + start[note]
    # Notes are sorted by onset, then pitch, and the last of several values assigned to one cell stays.
    frames[step, notes.track[note]] = notes.pitch[note]
    return frames


def _nearest(steps: NDArray[np.float64]) -> NDArray[np.int64]:
    if not (np.all(np.isfinite(steps)) and np.all(steps >= 0) and np.all(steps <= MAX_FRAMES)):
        worst = steps[~(np.isfinite(steps) & (steps >= 0) & (steps <= MAX_FRAMES))][0]
        raise ValueError(f"A note lies at step {worst:g} of the grid; steps go from 0 to {MAX_FRAMES}. Is the file's timing broken?")
    # The small term keeps thirds of a beat, which are not exact in binary, from falling either way by chance.
    return np.floor(steps + 0.5 + 1e-9).astype(np.int64)


def _refuse_other_than_four_voices(notes: Notes) -> None:
    advice = "For other music use MidiTokTokenizer(kind='REMI')."
    if notes.drum.any():
        raise ValueError(f"VoiceGrid holds four-part pieces; this one has drums. {advice}")
    tracks = np.unique(notes.track)
    if len(tracks) and not (tracks[0] >= 0 and tracks[-1] < NUM_VOICES):
        raise ValueError(f"VoiceGrid holds four-part pieces in tracks 0 to 3; this one has tracks {tracks.tolist()}. {advice}")
    for voice in tracks:
        overlap = _overlap(notes.select(notes.track == voice))
        if overlap > MAX_OVERLAP:
            raise ValueError(
                f"VoiceGrid holds four-part pieces of one note at a time; track {voice} of this one sounds over itself "
                f"for {overlap:.0%} of its time (at most {MAX_OVERLAP:.0%}). {advice}"
            )


def _overlap(voice: Notes) -> float:
    """Share of a voice's sounding time that lies over its own later notes."""
    if not len(voice) or not (total := voice.duration.sum()) > 0:
        return 0.0
    latest_end = np.maximum.accumulate(voice.onset + voice.duration)
    return float(np.maximum(np.minimum(latest_end[:-1], voice.onset[1:] + voice.duration[1:]) - voice.onset[1:], 0).sum() / total)
