"""Distillation by configuration alone: a run learns from another, says so, is replayed to the bit, and teaches by its music too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from musictrain.data.tokenizers import load_tokenizer
from musictrain.runs import list_runs, read_rows
from musictrain.runs.lineage import Parent, parents_of
from tests.cli.tiny import tiny_config, type_command, write_config

NO_SAMPLES = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}


def student_config(corpus: Path, folder: Path, **distillation: Any) -> Path:
    config = tiny_config(corpus)
    config["trainer"]["callbacks"] = [NO_SAMPLES]
    config["model"]["init_args"]["network"]["init_args"]["d_model"] = 4
    config["model"]["init_args"]["distillation"] = {"teacher": "done", **distillation}
    config["data"]["init_args"] |= {"packing": False, "transpose": [0, 0]}
    return write_config(folder / "student.yaml", config)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"hidden": {"blocks.0": "blocks.0"}}, {"top_k": 4}], ids=["asked", "kept"])
def test_a_student_names_its_teacher_and_is_replayed_to_the_bit(
    settings: dict[str, Any], corpus: Path, runs_dir: Path, tmp_path: Path, capsys: Any, recwarn: Any
) -> None:
    (teacher,) = list_runs(runs_dir)
    config = student_config(corpus, tmp_path, **settings)
    status, printed, err = type_command(capsys, "fit", "--config", config, "--runs", runs_dir, "--name", "student")
    assert (status, "error" in err) == (0, False)
    assert f"teacher  {teacher.name}, v000003_step000006 (Decoder" in printed
    assert not [each for each in recwarn if "on_before_batch_transfer" in str(each.message)]
    (run,) = [each for each in list_runs(runs_dir) if each.name != teacher.name]
    assert parents_of(run) == [Parent("distilled from", teacher.name, "v000003_step000006", 6)]
    rows = [row for row in read_rows(run.metrics) if "train/soft_loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(("train/hidden_loss" in row) == ("hidden" in settings) for row in rows)
    assert f"distilled from {teacher.name}" in type_command(capsys, "runs", "show", "student", "--runs", runs_dir)[1]
    assert "equal to the bit" in type_command(capsys, "replay", "student", "--step", 5, "--runs", runs_dir)[1]


def test_a_teacher_of_another_tokenizer_is_refused_with_another_way(corpus: Path, runs_dir: Path, tmp_path: Path, capsys: Any) -> None:
    (teacher,) = list_runs(runs_dir)
    words = ["fit", "--config", student_config(corpus, tmp_path), "--runs", runs_dir]
    status, _, err = type_command(capsys, *words, "--data.tokenizer", "musictrain.VoiceGrid", "--data.tokenizer.lowest", "30")
    assert status != 0
    assert f"was trained with the tokenizer VoiceGrid ({load_tokenizer(teacher.tokenizer).fingerprint})" in err
    assert f"musictrain distill-corpus {teacher.name} --to FOLDER" in err


@pytest.mark.slow
def test_a_corpus_of_a_runs_music_is_made_once_and_trained_on(corpus: Path, runs_dir: Path, tmp_path: Path, capsys: Any) -> None:
    (teacher,) = list_runs(runs_dir)
    words = ["distill-corpus", "done", "--runs", runs_dir, "--to", tmp_path / "taught", "--beats", 8, "--num"]
    assert "3 pieces by" in type_command(capsys, *words, 3)[1]
    first = {path.name: path.read_bytes() for path in (tmp_path / "taught" / "train").iterdir()}
    (tmp_path / "taught" / "train" / "piece_00002.mid").unlink()
    assert "5 pieces by" in type_command(capsys, *words, 5)[1]
    again = {path.name: path.read_bytes() for path in (tmp_path / "taught" / "train").iterdir()}
    assert first == {name: again[name] for name in first}
    assert len(again) == 5
    assert [len(list((tmp_path / "taught" / split).iterdir())) for split in ("valid", "test")] == [2, 1]
    status, _, err = type_command(capsys, *words, 5, "--temperature", 2)
    assert (status, "temperature=1.0 (you ask for 2.0)" in err) == (2, True)
    config = tiny_config(tmp_path / "taught")
    config["trainer"]["callbacks"] = [NO_SAMPLES]
    status, printed, _ = type_command(capsys, "fit", "--config", write_config(tmp_path / "c.yaml", config), "--runs", runs_dir)
    assert status == 0
    assert "train 5 /" in printed
    (run,) = [each for each in list_runs(runs_dir) if each.name != teacher.name]
    assert parents_of(run) == [Parent("distilled from", teacher.name, "v000003_step000006", 6)]


def test_a_folder_of_something_else_is_left_alone(runs_dir: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "song.mid").write_bytes(b"")
    status, _, err = type_command(capsys, "distill-corpus", "done", "--runs", runs_dir, "--to", tmp_path / "mine", "--no-held-out")
    assert status == 2
    assert "is not empty, and no corpus of a teacher's music" in err
