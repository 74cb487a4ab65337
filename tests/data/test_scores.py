"""Score files become notes, bad ones become a ScoreError with a plain reason, and MIDI gives back what was written."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musictrain.data.scores import Gates, ScoreError, notes_from_score, read_notes, read_pieces, score_from_notes, write_midi
from musictrain.notes import Notes, Tempo, TimeSignature


def variable_length(number: int) -> bytes:
    digits = [number & 127]
    while number := number >> 7:
        digits.insert(0, (number & 127) | 128)
    return bytes(digits)


def on(pitch: int) -> bytes:
    return bytes([0x90, pitch, 80])


def off(pitch: int) -> bytes:
    return bytes([0x80, pitch, 0])


def midi_bytes(*events: tuple[int, bytes], ticks_per_quarter: int = 480) -> bytes:
    """A MIDI file of one track from (delta in ticks, message) pairs."""
    track = b"".join(variable_length(delta) + message for delta, message in events) + b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHh", 6, 0, 1, ticks_per_quarter) + b"MTrk" + struct.pack(">I", len(track)) + track


ONE_NOTE = midi_bytes((0, on(60)), (480, off(60)))
BROKEN = {
    "zero length": (b"", "empty"),
    "text": (b"this is no music", "does not begin with MThd"),
    "random bytes": (bytes(range(256)) * 4, "does not begin with MThd"),
    "truncated in the track": (ONE_NOTE[:-9], "ends too early"),
    "truncated in the header": (ONE_NOTE[:16], "ends too early"),
    "no ticks per quarter": (midi_bytes((0, on(60)), (480, off(60)), ticks_per_quarter=0), "0 ticks per quarter note"),
    "film frames": (midi_bytes((0, on(60)), (480, off(60)), ticks_per_quarter=-25 * 256 + 40), "SMPTE"),
    "no notes": (midi_bytes((0, b"\xff\x51\x03\x07\xa1\x20")), "no notes"),
    "notes of no duration": (midi_bytes((0, on(60)), (0, off(60))), "no notes"),
    "twenty deltas of 2^28 ticks": (midi_bytes(*[(2**28 - 1, on(60)), (2**28 - 1, off(60))] * 20), "overflow"),
    "a million bars": (midi_bytes((2**28 - 1, on(60)), (480, off(60)), (2**28 - 1, on(60)), (480, off(60))), "beats, more than the"),
    "a data byte over 127": (midi_bytes((0, bytes([0x90, 60, 200])), (480, off(60))), "velocity of 200"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_midi_file_is_a_score_error_with_its_reason(case: str, tmp_path: Path) -> None:
    data, reason = BROKEN[case]
    path = tmp_path / "x.mid"
    path.write_bytes(data)
    with pytest.raises(ScoreError, match=reason) as caught:
        read_notes(path)
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason


def test_a_folder_a_missing_file_and_another_suffix_are_score_errors(tmp_path: Path) -> None:
    (tmp_path / "folder.mid").mkdir()
    for name, reason in {"folder.mid": "a folder, expected a file", "none.mid": "no such file", "song.mp3": "expected one of .mid"}.items():
        with pytest.raises(ScoreError, match=reason):
            read_notes(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_score_error(tmp_path: Path) -> None:
    path = tmp_path / "x.mid"
    path.write_bytes(ONE_NOTE)
    path.chmod(0)
    with pytest.raises(ScoreError, match="permission denied"):
        read_notes(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mid")
    with pytest.raises(ScoreError, match="not an ordinary file"):
        read_notes(tmp_path / "x.mid")


def test_gates_say_which_limit_was_passed(tmp_path: Path) -> None:
    path = tmp_path / "x.mid"
    path.write_bytes(midi_bytes(*[(0, on(pitch)) for pitch in range(40, 50)], *[(480, off(pitch)) for pitch in range(40, 50)]))
    assert len(read_notes(path)) == 10
    limits = [
        (Gates(most_bytes=20), "MB allowed"),
        (Gates(fewest_notes=11), "10 notes, expected at least 11"),
        (Gates(most_notes=9), "10 notes, more than the 9 allowed"),
        (Gates(most_beats=1.0), "lasts 10 beats, more than the 1 allowed"),
        (Gates(most_at_once=9), "10 notes start at one moment, more than the 9 allowed"),
    ]
    for gates, reason in limits:
        with pytest.raises(ScoreError, match=reason):
            read_notes(path, gates=gates)


def test_impossible_tempos_and_meters_are_dropped_and_a_lost_note_off_is_shortened(tmp_path: Path) -> None:
    tempo_of_zero, no_beats = b"\xff\x51\x03\x00\x00\x00", b"\xff\x58\x04\x00\x02\x18\x08"
    path = tmp_path / "x.mid"
    path.write_bytes(midi_bytes((0, tempo_of_zero), (0, no_beats), (0, on(60)), (480 * 1000, off(60))))
    notes = read_notes(path)
    assert (notes.tempos, notes.time_signatures) == ((), ())
    assert notes.duration.tolist() == [256.0]


def test_a_score_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ScoreError("x.mid", "no notes in it")))
    assert (error.path, error.reason, str(error)) == ("x.mid", "no notes in it", "x.mid: no notes in it")


ON_THE_TICKS = st.lists(
    st.tuples(st.integers(0, 4000), st.integers(1, 2000), st.integers(0, 127), st.integers(1, 127), st.integers(0, 2)),
    min_size=1,
    max_size=30,
)


def without_overlaps(rows: list[tuple[int, int, int, int, int]]) -> list[tuple[int, int, int, int, int]]:
    """MIDI cannot tell two notes of one pitch and track that sound together: keep one for each (pitch, track)."""
    return list({(pitch, track): (onset, length, pitch, velocity, track) for onset, length, pitch, velocity, track in rows}.values())


@settings(max_examples=60, deadline=None)
@given(rows=ON_THE_TICKS)
def test_what_is_written_as_midi_is_read_back_note_for_note(
    rows: list[tuple[int, int, int, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    onset, duration, pitch, velocity, track = (np.array(column) for column in zip(*without_overlaps(rows), strict=True))
    # Track numbers are those of the file: from 0 on, without gaps.
    track = np.unique(track, return_inverse=True)[1]
    drum = track == 2
    written = Notes(
        onset / 480,
        duration / 480,
        pitch,
        velocity,
        program=np.where(drum, 0, track * 7),
        track=track,
        drum=drum,
        time_signatures=(TimeSignature(0.0, 3, 4), TimeSignature(3.0, 6, 8)),
        tempos=(Tempo(0.0, 112.0), Tempo(4.5, 90.25)),
    )
    path = tmp_path_factory.mktemp("midi") / "folder" / "x.mid"
    write_midi(written, path)
    assert read_notes(path).same_notes(written)
    assert notes_from_score(score_from_notes(written)).same_notes(written)


def test_no_note_becomes_shorter_than_a_tick_and_times_go_to_the_nearest_one() -> None:
    notes = Notes.from_rows([(0.0, 1e-6, 60), (1 / 3, 1 / 3, 62)])
    back = notes_from_score(score_from_notes(notes))
    assert back.onset.tolist() == [0.0, 1 / 3]
    assert back.duration.tolist() == [1 / 480, 1 / 3]


def test_a_pitch_outside_midi_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Pitches from 60 to 130"):
        write_midi(Notes.from_rows([(0, 1, 60), (1, 1, 130)]), tmp_path / "x.mid")
    assert not (tmp_path / "x.mid").exists()


def test_read_notes_wants_one_tune_and_read_pieces_takes_all(tmp_path: Path) -> None:
    path = tmp_path / "two.abc"
    path.write_text("X:1\nT:One\nL:1/4\nK:C\nCDEF|\n\nX:2\nT:Two\nL:1/4\nK:C\nGABc|\n")
    with pytest.raises(ScoreError, match="2 tunes in it, expected one"):
        read_notes(path)
    pieces, rejected = read_pieces(path)
    assert [title for title, _ in pieces] == ["One", "Two"]
    assert rejected == []


def test_one_bad_tune_costs_one_tune(tmp_path: Path) -> None:
    path = tmp_path / "two.abc"
    path.write_text("X:1\nT:One\nL:1/4\nK:C\nCDEF|\n\nX:2\nT:Silent\nK:C\n")
    pieces, rejected = read_pieces(path)
    assert [title for title, _ in pieces] == ["One"]
    assert rejected == [(f"{path}, X:2 Silent", "no notes in it")]
