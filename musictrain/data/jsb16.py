"""Chorales as frames on a 16th-note grid: the JSON in which the JSB Chorales are passed around.

The file is ``{"train": pieces, "valid": pieces, "test": pieces}``, any of them may be missing. A piece is a list of frames, a frame the
MIDI numbers of soprano, alto, tenor and bass, -1 for a rest. A frame lasts a quarter of a beat.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from musictrain.data.sources import CHORALE_VOICES
from musictrain.data.splits import SPLITS
from musictrain.notes import Notes

BEATS_PER_FRAME = 0.25
REST = -1


def read_jsb16(path: Path) -> list[tuple[str, str, Notes]]:
    """Every piece as (name, split, notes), such as ("train-007", "train", notes).

    Equal neighbouring pitches of a voice are one note, track 0 is the soprano. The notes give the same frames back, but for frames of
    rests at the very end.

    Raises:
        ValueError: if the file is not of this format; the message says where.
        OSError: if it cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(data, dict) or not set(data) & set(SPLITS):
        found = f"the keys {sorted(data)[:5]}" if isinstance(data, dict) else f"a {type(data).__name__}"
        raise ValueError(f"{found}, expected some of {list(SPLITS)} with lists of pieces")
    if unknown := sorted(set(data) - set(SPLITS)):
        raise ValueError(f"unknown keys {unknown[:5]}, expected only {list(SPLITS)}")
    splits = {split: data[split] for split in SPLITS if split in data}
    for split, pieces in splits.items():
        if not isinstance(pieces, list):
            raise ValueError(f"{split} is a {type(pieces).__name__}, expected a list of pieces")
    named = [(f"{split}-{number:03d}", split, piece) for split, pieces in splits.items() for number, piece in enumerate(pieces)]
    return [(name, split, notes_from_frames(_frames(name, piece))) for name, split, piece in named]


def _frames(name: str, piece: Any) -> np.ndarray:
    try:
        frames = np.array(piece)
    except ValueError:  # Rows of unequal length.
        frames = np.zeros(0, object)
    if frames.dtype.kind not in "if" or frames.ndim != 2 or frames.shape[1] != CHORALE_VOICES:
        raise ValueError(f"piece {name} is no list of frames of {CHORALE_VOICES} numbers")
    if (frames != np.rint(frames)).any() or frames.min() < REST or frames.max() > 127:
        raise ValueError(f"piece {name} has values from {frames.min()} to {frames.max()}, expected MIDI numbers 0 to 127, or -1 for a rest")
    return frames.astype(np.int64)


def notes_from_frames(frames: np.ndarray) -> Notes:
    """Notes of frames (time, voices) of MIDI numbers, -1 for a rest.

    >>> notes_from_frames(np.array([[72, 60], [72, -1]])).duration.tolist()
    [0.5, 0.25]
    """
    onset, duration, pitch, track = [], [], [], []
    for voice, line in enumerate(frames.T):
        starts = np.flatnonzero(np.diff(line, prepend=line[:1] + 1))
        lengths = np.diff(starts, append=len(line))
        sounding = line[starts] != REST
        onset.append(starts[sounding] * BEATS_PER_FRAME)
        duration.append(lengths[sounding] * BEATS_PER_FRAME)
        pitch.append(line[starts][sounding])
        track.append(np.full(sounding.sum(), voice))
    return Notes(np.concatenate(onset), np.concatenate(duration), np.concatenate(pitch), track=np.concatenate(track))
