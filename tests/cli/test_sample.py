"""sample makes the same music from the same seed, and only from weights and tokens that belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints import list_versions
from musictrain.data.scores import read_notes, write_midi
from musictrain.data.tokenizers import VoiceGrid, save_tokenizer
from musictrain.notes import Notes
from musictrain.runs import list_runs
from tests.cli.tiny import type_command


def sample(capsys: Any, runs_dir: Path, out: Path, *words: Any) -> str:
    status, printed, err = type_command(capsys, "sample", "latest", "--runs", runs_dir, "--beats", 4, "--out", out, *words)
    assert (status, err) == (0, "")
    return printed


def test_every_piece_is_four_files_and_one_line(finished_runs: Path, tmp_path: Path, capsys: Any) -> None:
    printed = sample(capsys, finished_runs, tmp_path, "--n", 3)
    endings = {path.suffix for path in tmp_path.glob("sample_3.*")}
    assert endings == {".mid", ".wav", ".png", ".js", ".json"}
    assert [line.split()[0] for line in printed.splitlines()[1:-1]] == ["piece", "sample_1", "sample_2", "sample_3"]
    info = json.loads((tmp_path / "sample_1.json").read_text())
    assert (info["checkpoint"], info["seed"], info["prompt"]) == ("v000003_step000006.ckpt", 0, None)


def test_the_same_seed_makes_the_same_music(finished_runs: Path, tmp_path: Path, capsys: Any) -> None:
    for folder, seed, count in (("a", 5, 2), ("b", 5, 1), ("c", 6, 1)):
        sample(capsys, finished_runs, tmp_path / folder, "--n", count, "--seed", seed)
    first, again, other = ((tmp_path / folder / "sample_1.mid").read_bytes() for folder in "abc")
    assert first == again != other


def test_a_prompt_opens_every_piece(finished_runs: Path, tmp_path: Path, capsys: Any) -> None:
    rows = [(beat, 1, pitch) for beat in range(8) for pitch in (72, 67, 60, 48)]
    prompt = Notes.from_rows(rows, track=[track for _ in range(8) for track in range(4)])
    write_midi(prompt, tmp_path / "prompt.mid")
    sample(capsys, finished_runs, tmp_path / "out", "--n", 1, "--prompt", tmp_path / "prompt.mid", "--prompt-beats", 4)
    info = json.loads((tmp_path / "out" / "sample_1.json").read_text())
    assert (info["prompt"], info["prompt_beats"]) == ("prompt.mid", 4.0)
    opening = read_notes(tmp_path / "out" / "sample_1.mid").between(0, 1)
    assert sorted(opening.pitch.tolist()) == [48, 60, 67, 72]


def test_without_an_out_folder_the_run_keeps_them(runs_dir: Path, capsys: Any) -> None:
    status, printed, _ = type_command(capsys, "sample", "latest", "--runs", runs_dir, "--n", 1, "--beats", 2)
    (run,) = list_runs(runs_dir)
    (folder,) = run.samples.glob("asked_*")
    assert status == 0
    assert str(folder) in printed


def test_a_checkpoint_of_another_tokenizer_is_refused(runs_dir: Path, capsys: Any) -> None:
    (run,) = list_runs(runs_dir)
    save_tokenizer(VoiceGrid(lowest=22, highest=109), run.tokenizer)
    status, _, err = type_command(capsys, "sample", "latest", "--runs", runs_dir)
    assert status == 2
    assert f"was trained with the tokenizer VoiceGrid ({VoiceGrid().fingerprint})" in err


def test_a_network_of_another_vocabulary_is_refused(runs_dir: Path, capsys: Any) -> None:
    (run,) = list_runs(runs_dir)
    run.config.write_text(run.config.read_text().replace("vocab_size: 359", "vocab_size: 300"))
    status, _, err = type_command(capsys, "sample", "latest", "--runs", runs_dir)
    assert status == 2
    assert "has 300 tokens, its tokenizer VoiceGrid has 359" in err


def test_weights_of_another_network_are_refused(runs_dir: Path, capsys: Any) -> None:
    (run,) = list_runs(runs_dir)
    run.config.write_text(run.config.read_text().replace("d_model: 8", "d_model: 16"))
    status, _, err = type_command(capsys, "sample", "latest", "--runs", runs_dir)
    assert status == 2
    assert "does not fit the network" in err
    assert len(err.splitlines()) == 1


class Payload:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("stolen"),)


@pytest.mark.parametrize("content", ["torn", "payload", "text"])
def test_a_damaged_or_dangerous_checkpoint_is_only_named(
    content: str, runs_dir: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (run,) = list_runs(runs_dir)
    best = run.checkpoints / "mine.ckpt"
    if content == "torn":
        shutil.copy(list_versions(run.checkpoints)[-1].path, best)
        best.write_bytes(best.read_bytes()[:-2000])
    elif content == "payload":
        torch.save({"state_dict": {}, "more": Payload()}, best)
    else:
        best.write_text("not a checkpoint")
    status, _, err = type_command(capsys, "sample", "latest", "--runs", runs_dir, "--ckpt", best)
    assert status == 1
    assert f"{best} cannot be used: it" in err
    assert not Path("stolen").exists()
