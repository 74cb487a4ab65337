"""Frames become notes and the notes give the frames back; what is no such file is refused with the place."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from musictrain.data.jsb16 import notes_from_frames, read_jsb16
from musictrain.notes import Notes


def frames_from_notes(notes: Notes, num_frames: int) -> np.ndarray:
    """The definition, note by note."""
    frames = np.full((num_frames, 4), -1)
    for onset, duration, pitch, track in zip(notes.onset, notes.duration, notes.pitch, notes.track, strict=True):
        frames[round(onset * 4) : round((onset + duration) * 4), track] = pitch
    return frames


@settings(max_examples=60, deadline=None)
@given(arrays(np.int64, (12, 4), elements={"min_value": -1, "max_value": 3}))
def test_the_notes_give_the_same_frames(frames: np.ndarray) -> None:
    notes = notes_from_frames(frames)
    assert np.array_equal(frames_from_notes(notes, len(frames)), frames)
    # One note for each run of a pitch, no more.
    for voice, line in enumerate(frames.T):
        runs = [pitch for pitch, before in zip(line, [None, *line[:-1]], strict=True) if pitch != before and pitch != -1]
        assert notes.pitch[notes.track == voice].tolist() == runs


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


CHORD = [72, 67, 64, 48]


def test_pieces_keep_their_split_and_are_named_by_it(tmp_path: Path) -> None:
    pieces = read_jsb16(write(tmp_path / "x.json", {"valid": [[CHORD]], "train": [[CHORD, CHORD], [CHORD]]}))
    assert [(name, split, notes.duration.tolist()) for name, split, notes in pieces] == [
        ("train-000", "train", [0.5] * 4),
        ("train-001", "train", [0.25] * 4),
        ("valid-000", "valid", [0.25] * 4),
    ]


BAD = {
    "no JSON": ("{", "not JSON"),
    "a list": ([[CHORD]], r"a list, expected some of \['train', 'valid', 'test'\]"),
    "other keys": ({"trian": []}, r"the keys \['trian'\], expected some of"),
    "a key too many": ({"train": [[CHORD]], "dev": []}, r"unknown keys \['dev'\]"),
    "a split that is no list": ({"train": {"a": 1}}, "train is a dict, expected a list of pieces"),
    "three voices": ({"train": [[CHORD], [[60, 62, 64]]]}, "piece train-001 is no list of frames of 4 numbers"),
    "frames of unequal length": ({"train": [[CHORD, [60]]]}, "piece train-000 is no list of frames"),
    "words": ({"train": [[["c", "e", "g", "c"]]]}, "piece train-000 is no list of frames"),
    "a pitch too high": ({"train": [[[128, 67, 64, 48]]]}, "values from 48 to 128, expected MIDI numbers"),
    "half a tone": ({"train": [[[60.5, 67, 64, 48]]]}, "expected MIDI numbers"),
    "an empty piece": ({"train": [[]]}, "piece train-000 is no list of frames"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_of_another_format_is_refused_with_the_place(case: str, tmp_path: Path) -> None:
    data, reason = BAD[case]
    with pytest.raises(ValueError, match=reason):
        read_jsb16(write(tmp_path / "x.json", data))


def test_the_jsb_chorales_give_the_same_frames(repository: Path) -> None:
    path = Path(os.environ.get("MUSICTRAIN_TEST_DATA", repository.parent / "shared" / "data"), "jsb16_train_valid.json")
    if not path.exists():
        pytest.skip(f"needs jsb16_train_valid.json in the folder $MUSICTRAIN_TEST_DATA or {path.parent}")
    data = json.loads(path.read_text())
    pieces = read_jsb16(path)
    assert [sum(split == name for _, split, _ in pieces) for name in ("train", "valid")] == [229, 76]
    for (_, _, notes), frames in zip(pieces, [*data["train"], *data["valid"]], strict=True):
        assert np.array_equal(frames_from_notes(notes, len(frames)), frames)
