"""A sample is four files that belong together, or none."""

from __future__ import annotations

import json
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from musictrain.data.scores import read_notes
from musictrain.listening import sample_files
from musictrain.listening.rolls import roll_of
from musictrain.listening.sample_files import write_sample
from musictrain.notes import Notes, Tempo, TimeSignature

HOSTILE = "</script><img src=x onerror=alert(1)>&amp;"
PIECE = Notes.from_rows([(0, 1, 60), (1, 1, 64), (2, 2, 67)])


def test_a_sample_is_heard_seen_and_read(tmp_path: Path) -> None:
    paths = write_sample(PIECE, tmp_path / "new" / "step_000500" / "prompt_0", info={"seed": 7}, prompt_beats=1.0, bpm=90)
    assert sorted(path.name for path in (tmp_path / "new" / "step_000500").iterdir()) == [
        f"prompt_0.{e}" for e in ("js", "json", "mid", "png", "wav")
    ]
    record = json.loads(paths["json"].read_text(encoding="utf-8"))
    files = [f"prompt_0.{ending}" for ending in ("mid", "wav", "png", "js", "json")]
    told = {"seed": 7, "notes": 3, "beats": 4.0, "prompt_beats": 1.0, "files": files}
    assert record == {**told, **roll_of(replace(PIECE, tempos=(Tempo(0, 90),)))}


def test_a_roll_holds_every_note_and_says_how_it_is_drawn() -> None:
    voices = Notes.from_rows([(0, 4, pitch) for pitch in (72, 67, 60, 48)], track=[0, 1, 2, 3], velocity=[80, 70, 60, 50])
    assert roll_of(voices) == {
        "roll": {
            "onset": [0.0] * 4,
            "duration": [4.0] * 4,
            "pitch": [72, 67, 60, 48],
            "velocity": [80, 70, 60, 50],
            "program": [0] * 4,
            "track": [0, 1, 2, 3],
            "drum": [0] * 4,
        },
        "tempos": [[0.0, 120.0]],
        "bars": [0.0, 4.0],
        "parts": [[0, 0, "Soprano", "#D55E00"], [1, 0, "Alto", "#E69F00"], [2, 0, "Tenor", "#009E73"], [3, 0, "Bass", "#0072B2"]],
    }


def test_a_roll_knows_where_tempos_and_bars_change() -> None:
    piece = replace(PIECE, tempos=(Tempo(2, 60),), time_signatures=(TimeSignature(0, 3, 4),))
    assert (roll_of(piece)["tempos"], roll_of(piece)["bars"]) == ([[0.0, 120.0], [2.0, 60.0]], [0.0, 3.0, 6.0])


def test_the_script_says_the_same_as_the_json_and_cannot_be_broken_out_of(tmp_path: Path) -> None:
    paths = write_sample(PIECE, tmp_path / "step_000500" / "a", info={"prompt": HOSTILE, "lines": "\u2028"})
    script = paths["js"].read_text(encoding="ascii")
    opening = 'musictrain.roll("step_000500/a", '
    assert script.startswith(opening)
    assert not set("<>&\u2028") & set(script)
    assert json.loads(script[len(opening) : -len(");\n")]) == json.loads(paths["json"].read_text(encoding="utf-8"))


def test_sound_and_midi_have_the_same_tempo(tmp_path: Path) -> None:
    paths = write_sample(PIECE, tmp_path / "a", info={}, bpm=60)
    back = read_notes(paths["mid"])
    assert back.pitch.tolist() == [60, 64, 67]
    assert back.tempos[0].bpm == pytest.approx(60, abs=0.01)
    with wave.open(str(paths["wav"])) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(4.7, abs=0.01)


def test_four_voices_without_a_tempo_go_at_a_choir_s_pace(tmp_path: Path) -> None:
    voices = Notes.from_rows([(0, 4, pitch) for pitch in (72, 67, 60, 48)], track=[0, 1, 2, 3])
    assert read_notes(write_sample(voices, tmp_path / "a", info={})["mid"]).tempos[0].bpm == pytest.approx(88, abs=0.01)
    with wave.open(str(write_sample(PIECE, tmp_path / "b", info={})["wav"])) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(2.7, abs=0.01)


def test_dots_in_a_name_stay(tmp_path: Path) -> None:
    assert write_sample(PIECE, tmp_path / "bwv1.6", info={})["wav"].name == "bwv1.6.wav"


def test_no_notes_are_a_sample_too(tmp_path: Path) -> None:
    assert all(path.stat().st_size > 0 for path in write_sample(Notes.empty(), tmp_path / "a", info={}).values())


def test_what_json_lacks_is_spelt_out(tmp_path: Path) -> None:
    info = {
        "loss": float("nan"),
        "prompt": Path("b.mid"),
        "scores": np.array([1.5, np.inf]),
        "n": np.int64(3),
        "ok": True,
        "by": {"k": (1,)},
    }
    record = json.loads(write_sample(PIECE, tmp_path / "a", info=info)["json"].read_text(encoding="utf-8"))
    assert {key: record[key] for key in info} == {
        "loss": None,
        "prompt": "b.mid",
        "scores": [1.5, None],
        "n": 3,
        "ok": True,
        "by": {"k": [1]},
    }


def test_a_failure_leaves_the_old_sample_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_sample(PIECE, tmp_path / "a", info={"version": 1})
    before = {path.name: path.read_bytes() for path in paths.values()}

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(sample_files, "draw_pianoroll", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_sample(PIECE.transposed(2), tmp_path / "a", info={"version": 2})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_impossible_tempo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="positive quarter notes a minute"):
        write_sample(PIECE, tmp_path / "a", info={}, bpm=-1)
