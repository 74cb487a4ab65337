"""What is written of a step can be read by people, programs and browsers, whatever is in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musictrain.data.tokenizers import VoiceGrid
from musictrain.notes import Notes
from musictrain.replay.chosen import Attempt, Recorded
from musictrain.replay.found import Layer, NotFinite, Replayed, StepTrace
from musictrain.replay.pictures import bars_of, draw_layers, draw_row, nats_of_notes
from musictrain.replay.row_music import Part, RowMusic, soundings
from musictrain.replay.scores import RowScore, changes_since, compare, jump_of, score_pieces, worst_tokens
from musictrain.replay.writing import Told, as_record, clear, lines_for_terminal, markdown, write_reports, write_rows

GRID = VoiceGrid()


def a_row(row: int = 0, beats: int = 8, name: str = "tune", nats: float = 0.5) -> RowScore:
    """A chorale of one chord, whose bars are of 4/4; all tokens cost alike but one, in the second beat."""
    voices = np.tile(np.array([72, 67, 60, 48]), (4 * beats, 1))
    tokens = np.concatenate([GRID.begin, GRID.encode_frames(voices), GRID.end])
    sounding, notes = soundings(GRID, tokens, 0, tokens)
    lines = np.arange(0.0, beats + 1, 4.0)
    part = Part(0, name, 0, 0, len(tokens), (1, beats // 4), (0.0, float(beats)), 0.0, lines, notes)
    music = RowMusic(7, row, -2, tokens, (part,), sounding.beats, sounding.spans, sounding.pitches, notes)
    nll = np.full(len(tokens) - 1, nats)
    nll[4 + 4 * 4 + 1 - 1] = 9.0  # the alto of the fifth sixteenth
    nothing = np.zeros(len(nll), np.int64)
    return RowScore(music, nll, np.ones(len(nll), bool), nothing + tokens[5], nothing + 0.25, misread=3)


def told_of(*rows: RowScore, result: Replayed | None = None) -> Told:
    return Told("a-run", 12, rows, intro=["first line"], advice=["last line"], result=result, pieces=score_pieces(rows),
                tokens=worst_tokens(rows, GRID), line=20, since=11)  # fmt: skip


def a_result() -> Replayed:
    layers = [Layer("network.a", 0.5, 2.0, 0.1), Layer("network.b", None, 1.0, 0.0), Layer("network.c", float("nan"), 0.0, 0.0)]
    return Replayed(12, 10, traces=[StepTrace(12, (7,), 0.75, 0.5, 1e-3)], logged={20: {"train/loss": 0.7}}, layers=layers)


def test_the_worst_token_is_said_with_its_bar_and_beat_and_what_was_expected() -> None:
    worst = worst_tokens([a_row()], GRID)[0]
    assert worst.sentence() == "tune, bar 1, beat 2: Alto G4, 9.00 nats; expected Alto G4 (78 %)"


def test_a_token_that_is_no_number_is_the_worst() -> None:
    row = a_row()
    row.nll[40] = np.nan
    assert np.isnan(worst_tokens([row], GRID)[0].nats)
    assert row.badness == np.inf
    assert "NaN" in json.dumps(as_record(told_of(row, result=a_result())))


def test_shares_of_pieces_add_up_and_the_worst_is_first() -> None:
    pieces = score_pieces([a_row(name="good", nats=0.1), a_row(name="bad", nats=2.0)])
    assert [piece.name for piece in pieces] == ["bad", "good"]
    assert sum(piece.share for piece in pieces) == pytest.approx(1.0)


def test_a_hostile_name_stays_a_name(tmp_path: Path) -> None:
    told = told_of(a_row(name="<script>alert(1)</script> | `x` [y](z)"), result=a_result())
    write_rows(told, tmp_path)
    write_reports(told, tmp_path)
    page, report = (tmp_path / "index.html").read_text(), (tmp_path / "report.md").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert report.count("<script") == report.count("\\<script") > 0
    assert "\\[y\\](z)" in report


def test_every_row_has_its_files_and_the_reports_name_them(tmp_path: Path) -> None:
    told = told_of(a_row(3), a_row(1), result=a_result())
    write_rows(told, tmp_path, 1)
    write_reports(told, tmp_path)
    stem = "01_batch7_row03"
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{stem}.{ending}" for ending in ("mid", "wav", "png", "loss.png", "js", "json")),
        *("report.md", "index.html", "replay.json", "layers.png"),
    }
    record = json.loads((tmp_path / "replay.json").read_text())
    assert record["rows"][0]["files"]["loss.png"] == f"{stem}.loss.png"
    assert record["rows"][1]["files"] == {}
    assert f"[wav]({stem}.wav)" in (tmp_path / "report.md").read_text()
    assert f'src="{stem}.wav"' in (tmp_path / "index.html").read_text()


def test_the_picture_is_darkest_where_the_loss_is_highest(tmp_path: Path) -> None:
    row = a_row()
    draw_row(row, tmp_path / "row.png", title="a row", highest_nats=9.0)
    cheap = replace(row, nll=np.full_like(row.nll, 0.5))
    draw_row(cheap, tmp_path / "cheap.png", title="a row", highest_nats=9.0)
    one, other = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int) for name in ("row", "cheap"))
    assert one.shape == other.shape
    dark_red = np.array([128, 0, 38])
    assert (np.abs(one - dark_red).sum(-1) < 12).sum() > (np.abs(other - dark_red).sum(-1) < 12).sum() + 20


def test_an_event_s_note_has_the_mean_of_all_its_tokens() -> None:
    row = a_row()
    music = replace(row.music, beats=np.zeros(4), spans=np.array([0.0, 1, 1, 1]), pitches=np.array([-1, 60, 60, 60]))
    nats = nats_of_notes(replace(row, music=music, nll=np.array([1.0, 2.0, 4.0]), counted=np.ones(3, bool)))
    assert nats.tolist() == [0.0, 0.0, pytest.approx(7 / 3)]


def test_bars_bear_the_numbers_of_their_piece() -> None:
    row = a_row(beats=12)
    part = replace(row.music.parts[0], bars=(5, 7))
    assert bars_of(replace(row, music=replace(row.music, parts=(part,)))) == [(0.0, "5"), (4.0, "6"), (8.0, "7")]


def test_layers_without_a_gradient_or_with_one_that_is_no_number_are_drawn(tmp_path: Path) -> None:
    draw_layers(a_result().layers, tmp_path / "layers.png", title="layers")
    draw_layers([Layer("alone", None, 0.0, 0.0)], tmp_path / "none.png", title="layers")
    assert Image.open(tmp_path / "layers.png").size[0] == Image.open(tmp_path / "none.png").size[0]


def test_a_row_of_padding_has_no_files(tmp_path: Path) -> None:
    full = a_row()
    empty = replace(full, music=replace(full.music, parts=(), notes=Notes.empty()), counted=np.zeros(len(full.nll), bool))
    told = told_of(full, empty, result=a_result())
    write_rows(told, tmp_path)
    write_reports(told, tmp_path)
    assert told.files[1] == {}
    assert "nothing but padding" in "\n".join(markdown(told))


def test_what_is_not_finite_is_said_everywhere(tmp_path: Path) -> None:
    result = a_result()
    result.not_finite = NotFinite("activation", "network.blocks.3", 5, 640, 12)
    told = told_of(a_row(), result=result)
    sentence = "First not finite: the output of network.blocks.3, on the way forward, in 5 of 640 values."
    write_reports(told, tmp_path)
    assert sentence in "\n".join(lines_for_terminal(told))
    assert sentence in (tmp_path / "index.html").read_text()
    assert "the output of network.blocks.3" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "replay.json").read_text())["not_finite"]["name"] == "network.blocks.3"


def test_values_are_equal_to_the_bit_or_not() -> None:
    attempt = Attempt(1, 0, 0.0, 20)
    recorded = Recorded(20, 11, {"train/loss": 0.7, "val/loss": 1.0}, attempt)
    assert [(each.key, each.equal) for each in compare(recorded, a_result())] == [("train/loss", True)]
    near = Recorded(20, 11, {"train/loss": np.nextafter(0.7, 1.0)}, attempt)
    assert not compare(near, a_result())[0].equal
    assert compare(Recorded(None, 11, {}, attempt), a_result()) == []
    nan = Recorded(20, 11, {"train/loss": "NaN"}, attempt)
    result = a_result()
    result.logged[20]["train/loss"] = float("nan")
    assert compare(nan, result)[0].equal


def traces_of(*losses: float) -> list[StepTrace]:
    return [StepTrace(step, (), loss, 1.0, 1e-3) for step, loss in enumerate(losses, start=11)]


def test_the_step_is_told_at_which_the_loss_jumped() -> None:
    assert jump_of(traces_of(1.3, 1.1, 1.2, 9.0, 19.0, 18.9, 18.7)) == (14, 1.2, 9.0)
    assert jump_of(traces_of(1.3, 1.1, 1.2, 1.4, 1.25)) is None
    assert jump_of(traces_of(1.3, 9.0)) is None  # of two steps nothing is usual
    broken = jump_of(traces_of(1.3, 9.0, float("nan"), 1.0))
    assert broken is not None
    assert broken.step == 13
    assert jump_of([]) is None


def test_what_bits_depend_on_is_said_when_it_has_changed() -> None:
    then = {"threads": 1, "world_size": 2, "precision": "32-true", "packages": {"torch": "2.13.0", "rich": "1"}, "commit": "a"}
    now = {"threads": 2, "world_size": 1, "precision": "32-true", "packages": {"torch": "2.14.0", "rich": "2"}, "commit": "b"}
    assert changes_since(then, now) == ["processes: 2 then, 1 now", "threads: 1 then, 2 now", "torch: 2.13.0 then, 2.14.0 now"]
    assert changes_since(then, then) == []


def test_only_what_a_replay_has_written_is_cleared(tmp_path: Path) -> None:
    ours = ("replay.json", "report.md", "index.html", "layers.png", "01_batch1_row00.wav", "112_batch1234_row00.loss.png")
    theirs = ("mine.txt", "01_batch.wav", "report.html")
    for name in (*ours, *theirs):
        (tmp_path / name).write_text("a diary")
    clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(theirs)
    clear(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
