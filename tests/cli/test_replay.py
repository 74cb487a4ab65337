"""A replayed step is the step: the same line of the records to the bit, the same music, and nothing of the run is touched."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musictrain.cli.commands import main
from musictrain.data import load_corpus
from musictrain.data.scores import read_notes
from musictrain.runs import RunFolder, list_runs
from tests.cli.test_light_commands import PROBE
from tests.cli.tiny import tiny_config, type_command, write_config

EMA = {"class_path": "musictrain.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
SCHEDULE = {"class_path": "musictrain.callbacks.AccumulationSchedule", "init_args": {"batches": {0: 1, 3: 3}}}
QUIET = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}
PLATEAU = {"monitor": "val/loss", "patience": 0, "factor": 0.5, "min_delta": 10.0}


def config_of(corpus: Path, *, trainer: dict[str, Any] | None = None, callbacks: tuple[Any, ...] = (), **parts: Any) -> dict[str, Any]:
    """The tiny configuration, on eight steps, with changes."""
    config = copy.deepcopy(tiny_config(corpus))
    config["trainer"] |= {
        "max_steps": 8,
        "log_every_n_steps": 3,
        "precision": "32-true",
        "callbacks": [*callbacks, QUIET],
        **(trainer or {}),
    }
    config["model"]["init_args"]["network"]["init_args"] |= parts.pop("network", {})
    config["model"]["init_args"] |= parts.pop("model", {})
    config["data"]["init_args"] |= parts.pop("data", {})
    return config


def trained(folder: Path, config: dict[str, Any], *words: Any) -> RunFolder:
    file = write_config(folder / "config.yaml", config)
    assert main(["fit", "--config", str(file), "--runs", str(folder / "runs"), "--name", "heard", *map(str, words)]) == 0
    return list_runs(folder / "runs")[-1]


def replayed(capsys: Any, run: RunFolder, step: int, *words: Any) -> dict[str, Any]:
    status, printed, complaint = type_command(capsys, "replay", run.path, "--step", step, "--json", *words)
    assert status == 0, complaint
    return json.loads(printed)


def content_of(run: RunFolder) -> dict[str, str]:
    """A digest of every file of a run but its replays."""
    files = (path for path in sorted(run.path.rglob("*")) if path.is_file() and "replay" not in path.relative_to(run.path).parts[:1])
    return {str(path.relative_to(run.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> RunFolder:
    """Eight steps with dropout, versions after steps 0, 3, 6 and 8."""
    return trained(tmp_path_factory.mktemp("plain"), config_of(corpus, network={"dropout": 0.3}))


@pytest.mark.parametrize("step", [2, 4, 6])
def test_the_replayed_line_is_the_recorded_one_to_the_bit(plain: RunFolder, step: int, capsys: Any) -> None:
    found = replayed(capsys, plain, step, "--rows", 1)
    assert {each["key"] for each in found["compared"]} == {"train/loss", "train/gradient_norm", "train/lr"}
    assert found["equal"], found["compared"]
    assert found["line"] == 3 * -(-step // 3)
    assert [each["step"] for each in found["steps"]][-3:] == [found["line"] - 2, found["line"] - 1, found["line"]]


VARIANTS = {
    "accumulation": {"trainer": {"accumulate_grad_batches": 2}, "network": {"dropout": 0.3}},
    "unlike padding": {"trainer": {"accumulate_grad_batches": 3}, "data": {"packing": False}},
    "a schedule of accumulation": {"callbacks": (SCHEDULE,)},
    "moving average": {"callbacks": (EMA,), "network": {"dropout": 0.3}},
    "token dropout, smoothing and clipping": {
        "model": {"token_dropout": 0.3, "label_smoothing": 0.1, "adaptive_clip": 0.01},
        "trainer": {"gradient_clip_val": 0.1},
    },
    "a plateau that reduces": {"model": {"plateau": PLATEAU}},
    "validations inside a window": {"trainer": {"accumulate_grad_batches": 2, "val_check_interval": 5}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_whatever_training_depends_on_is_there_again(name: str, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    run = trained(tmp_path, config_of(corpus, **VARIANTS[name]))
    for step in (2, 5):
        found = replayed(capsys, run, step, "--rows", 1)
        assert found["equal"], (step, found["compared"], found["said"])


@pytest.mark.slow
def test_a_run_whose_versions_are_gone_is_done_again_from_its_seed(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    run = trained(tmp_path, config_of(corpus, network={"dropout": 0.3}))
    for version in run.checkpoints.glob("v*_step00000[0-5].ckpt"):
        version.unlink()
    status, printed, _ = type_command(capsys, "replay", run.path, "--step", 4, "--rows", 1)
    assert status == 0
    assert "from the beginning, since no version before it is left: 6 steps, to the end of the line of step 6" in printed
    assert "equal to the bit" in printed


@pytest.mark.slow
def test_steps_before_and_after_a_resume_are_both_replayed(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    run = trained(tmp_path, config_of(corpus, network={"dropout": 0.3}, trainer={"max_steps": 5}))
    assert main(["resume", str(run.path), "--trainer.max_steps", "9"]) == 0
    # The schedule ends elsewhere since; what came before the resume is replayed with the learning rates it had.
    for step in (2, 3, 6, 8):
        found = replayed(capsys, run, step, "--rows", 1)
        assert found["equal"], (step, found["compared"])
    # The line of step 6 is about steps of both.
    assert replayed(capsys, run, 5, "--rows", 1)["compared"] == []


@pytest.mark.slow
def test_a_run_that_was_killed_and_resumed_is_replayed_on_both_sides(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    saves = {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"newest": 99}}
    config = config_of(corpus, network={"dropout": 0.3}, callbacks=(saves,), trainer={"max_steps": 9_000, "val_check_interval": 5})
    file = write_config(tmp_path / "config.yaml", config)
    words = [sys.executable, "-m", "musictrain", "fit", "--config", str(file), "--runs", str(tmp_path / "runs"), "--name", "heard"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    try:
        while not any(run.last_step() >= 12 for run in list_runs(tmp_path / "runs")):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait(timeout=30)
    run = list_runs(tmp_path / "runs")[-1]
    killed_at = run.last_step()
    assert main(["resume", str(run.path), "--trainer.max_steps", str(killed_at + 12)]) == 0
    for step in (8, killed_at, killed_at + 7):
        found = replayed(capsys, run, step, "--rows", 1)
        assert found["equal"], (step, found["compared"])


def test_nothing_of_the_run_is_touched(plain: RunFolder, tmp_path: Path, capsys: Any) -> None:
    before = content_of(plain)
    replayed(capsys, plain, 5, "--output", tmp_path / "there")
    assert content_of(plain) == before
    assert not (plain.path / "replay" / "step_000005").exists()
    assert {path.name for path in (tmp_path / "there").glob("*.*")} >= {"report.md", "replay.json", "index.html", "layers.png"}


def test_the_page_of_the_run_links_to_it(plain: RunFolder, capsys: Any) -> None:
    before = content_of(plain)
    replayed(capsys, plain, 2, "--no-run", "--rows", 1)
    after = content_of(plain)
    assert {name for name in after if after[name] != before.get(name)} == {"dashboard_data.js"}
    assert "step_000002" in plain.dashboard_data.read_text()


def test_the_midi_files_are_the_corpus_bars_in_the_row_s_key(plain: RunFolder, corpus: Path, capsys: Any) -> None:
    found = replayed(capsys, plain, 7)
    pieces = {piece.name: piece.notes for piece in load_corpus(str(corpus)).pieces}
    heard = 0
    for row in found["rows"]:
        notes = read_notes(Path(found["folder"]) / row["files"]["mid"])
        expected = []
        at = 0.0
        for part in row["parts"]:
            begin, end = part["beats"]
            bar = begin // 4 * 4
            piece = pieces[part["piece"]]
            inside = piece.select((piece.onset < end) & (piece.onset + piece.duration > begin))
            for onset, duration, pitch in zip(inside.onset, inside.duration, inside.pitch, strict=True):
                start, stop = max(onset, begin), min(onset + duration, end)
                expected.append((round(start - bar + at, 4), round(stop - start, 4), int(pitch) + row["transpose"]))
            at += -(-end // 4) * 4 - bar
        written = {
            (round(float(o), 4), round(float(d), 4), int(p)) for o, d, p in zip(notes.onset, notes.duration, notes.pitch, strict=True)
        }
        # A row may end inside a step, whose voices are not all there: its last sixteenth is not written.
        last = max((onset for onset, _, _ in expected), default=0.0)
        assert {note for note in written if note[0] + note[1] < last} <= set(expected)
        assert {note for note in expected if note[0] + note[1] < last} <= written
        heard += len(written)
    assert heard > 20


def test_rows_come_worst_first_and_their_losses_make_the_step_s(plain: RunFolder, capsys: Any) -> None:
    found = replayed(capsys, plain, 6)
    losses = [row["loss"] for row in found["rows"]]
    assert losses == sorted(losses, reverse=True)
    assert np.mean(losses) == pytest.approx(found["loss"], rel=1e-6)  # rows of one length
    tokens = sum(piece["tokens"] for piece in found["pieces"])
    assert sum(piece["loss"] * piece["tokens"] for piece in found["pieces"]) / tokens == pytest.approx(found["loss"], rel=1e-6)
    assert sum(piece["share"] for piece in found["pieces"]) == pytest.approx(1.0)
    worst = [token["nats"] for token in found["worst_tokens"]]
    assert worst == sorted(worst, reverse=True)


def test_without_a_run_the_same_music_is_listed_and_written(plain: RunFolder, tmp_path: Path, capsys: Any) -> None:
    for step in (2, 5, 8):
        run_again = replayed(capsys, plain, step, "--output", tmp_path / "ran")
        listed = replayed(capsys, plain, step, "--no-run", "--output", tmp_path / "listed")
        assert "loss" not in listed
        where = [sorted((row["batch"], row["row"], json.dumps(row["parts"])) for row in each["rows"]) for each in (run_again, listed)]
        assert where[0] == where[1]
        assert len(list((tmp_path / "listed").glob("*.mid"))) == 2


@pytest.mark.slow
def test_the_batches_of_gathered_steps_are_listed_as_they_were_read(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    run = trained(tmp_path, config_of(corpus, callbacks=(SCHEDULE,)))
    for step, batches in ((3, {2}), (4, {3, 4, 5}), (8, {15, 16, 17})):
        for words in (("--no-run",), ()):
            assert {row["batch"] for row in replayed(capsys, run, step, *words)["rows"]} == batches


def test_help_and_mistakes_import_nothing_heavy(repository: Path, tmp_path: Path) -> None:
    for words, status in ((["--help"], 0), (["nowhere", "--step", "3"], 2), (["latest"], 2), (["latest", "--stp", "3"], 2)):
        environment = {**os.environ, "PYTHONPATH": str(repository)}
        command = [sys.executable, "-c", PROBE, "replay", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.stderr.splitlines()[-1] == "heavy: []"
        assert done.returncode == status, done.stderr


# What cannot be done.


def test_a_step_beyond_the_run_is_a_short_error(plain: RunFolder, capsys: Any) -> None:
    status, _, complaint = type_command(capsys, "replay", plain.path, "--step", 9)
    assert status == 2
    assert complaint.strip().endswith("has come to step 8, and step 9 is beyond that. Give a --step from 1 to 8.")


def test_an_attempt_that_never_was_is_a_short_error(plain: RunFolder, capsys: Any) -> None:
    status, _, complaint = type_command(capsys, "replay", plain.path, "--step", 2, "--attempt", 4)
    assert status == 2
    assert "has no attempt 4; its attempts: 1." in complaint


def test_a_corpus_that_has_changed_is_refused(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    own = tmp_path / "frames.json"
    own.write_text(corpus.read_text())
    run = trained(tmp_path, config_of(own, trainer={"max_steps": 1, "limit_val_batches": 0}))
    pieces = json.loads(own.read_text())
    pieces["train"][0][0][0] += 1
    own.write_text(json.dumps(pieces))
    status, _, complaint = type_command(capsys, "replay", run.path, "--step", 1)
    assert status == 1
    assert "The corpus is not what it was when run" in complaint
    assert "Bring the corpus back as it was." in complaint


def test_a_class_that_is_gone_is_a_short_error(plain: RunFolder, tmp_path: Path, capsys: Any) -> None:
    run = RunFolder(Path(shutil.copytree(plain.path, tmp_path / plain.name)))
    run.config.write_text(run.config.read_text().replace("musictrain.Decoder", "my_package.MyNetwork"))
    status, _, complaint = type_command(capsys, "replay", run.path, "--step", 2)
    assert status == 2
    assert "my_package" in complaint
    assert len(complaint.splitlines()) <= 6
