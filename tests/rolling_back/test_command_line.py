"""What a person sees and types: a fit that goes back, what is said of it, and `resume` and `--ckpt_path auto` after a kill."""

from __future__ import annotations

import copy
import json
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.seal import read_seal
from musictrain.checkpoints.storing import load, store
from musictrain.cli.commands import main
from musictrain.dashboard.page_data import PageData
from musictrain.rolling_back import roll_back
from musictrain.runs import RunFolder, find_run, read_records
from musictrain.runs.rollbacks import FILE_NAME, Rollback, ask, read_rollbacks
from musictrain.runs.status import read_status
from tests.checkpoints.exact_runs import apart
from tests.cli.tiny import tiny_config, type_command, write_config, write_corpus
from tests.rolling_back.going_back import Spoiler
from tests.strategies.launched import run_to_end

ABOUT_THE_RUN = ("['callbacks']", "['musictrain_circumstances']")


class BadBatch(Spoiler):
    """A batch that spoils the weights, noticed a step later; by the command line."""

    def __init__(self, number: int = 4) -> None:
        super().__init__(number, later=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "frames.json")


def config_of(corpus: Path, *callbacks: dict[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(tiny_config(corpus))
    saving = {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"every_n_train_steps": 2, "every_n_minutes": 0}}
    config["trainer"] |= {"max_steps": 8, "val_check_interval": 4, "log_every_n_steps": 1}
    config["trainer"]["callbacks"] = [*config["trainer"]["callbacks"], saving, *callbacks]
    return config


BAD: dict[str, Any] = {"class_path": "tests.rolling_back.test_command_line.BadBatch"}


def fit(tmp_path: Path, config: dict[str, Any], capsys: Any, *words: str) -> tuple[int, str, RunFolder]:
    file = write_config(tmp_path / "going_back.yaml", config)
    status, out, error = type_command(capsys, "fit", "--config", file, "--runs", tmp_path / "runs", "--name", "short", *words)
    assert "error" not in error
    assert "warning" not in error
    return status, out, find_run("latest", tmp_path / "runs")


class Says(Spoiler):
    """As BadBatch, and asks `runs show` and the page while the run goes on."""

    shown: str = ""
    page: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(4, later=1)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        run = RunFolder(Path(str(trainer.log_dir)))
        recorder = next(each for each in trainer.callbacks if type(each).__name__ == "RunRecorder")  # type: ignore[attr-defined]
        recorder._status._heartbeat.beat()
        run.status.write_text(recorder._status.now().as_json())
        main(["runs", "show", str(run.path), "--runs", str(run.path.parent)])
        Says.page = PageData(run).read()


def test_a_fit_goes_back_says_so_and_finishes(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    status, out, run = fit(tmp_path, config_of(corpus, {**BAD, "class_path": "tests.rolling_back.test_command_line.Says"}), capsys)
    assert status == 0
    sentence = "Rolled back from step 6 to step 4, passing over batch 4. Batch 4 is bad."
    assert sentence in out
    assert out.count("network  Decoder") == 1
    assert "resumed  v" in out
    assert "exact: as if there had been no interruption" in out
    assert "Finished after 8 steps." in out
    assert re.search(rf"^  why +{re.escape(sentence)}$", out, re.MULTILINE)
    assert Says.page["status"]["reason"] == sentence
    assert [event["event"] for event in Says.page["events"]].count("rolled_back") == 1
    ended = read_status(run.status)
    assert ended is not None
    assert (ended.state, ended.step, ended.attempt) == ("finished", 8, 2)
    assert [(each.first, each.to, each.settled) for each in read_rollbacks(run.path / FILE_NAME)] == [(4, 4, True)]
    assert not list(run.path.glob("samples/step_000006"))
    _, told, _ = type_command(capsys, "runs", "show", run.path, "--runs", run.path.parent)
    assert re.search(r"^  went back +once from step 6 to step 4; passes over batch 4$", told, re.MULTILINE)
    _, told, _ = type_command(capsys, "runs", "show", run.path, "--runs", run.path.parent, "--json")
    assert [(each["to"], each["first"], each["settled"]) for each in json.loads(told)["rollbacks"]] == [(4, 4, True)]


def last_of(run: RunFolder) -> Path:
    return max(list_versions(run.checkpoints), key=lambda version: (version.step, version.number)).path


def asked_and_killed(run: RunFolder) -> Rollback:
    """What a run has left that was killed just after it had written down that it goes back to step 4."""
    (back,) = [version for version in list_versions(run.checkpoints) if version.step == 4][:1]
    rollback = Rollback(1, 6, 4, back.name, 4, "Batch 4 is bad.", 4, 4, 2)
    ask(run.path / FILE_NAME, rollback)
    for version in [version for version in list_versions(run.checkpoints) if version.step > 4]:
        # What lies beyond is spoiled.
        tree = load(version.path)
        tree["state_dict"] = {name: torch.full_like(value, 7.0) for name, value in tree["state_dict"].items()}
        seal = read_seal(version.path)
        version.path.unlink()
        store(tree, version.path, replace(seal, files={}))
    return rollback


@pytest.mark.parametrize("how", ["resume", "auto"])
def test_after_a_kill_in_the_middle_it_is_carried_out_first(how: str, tmp_path: Path, corpus: Path, capsys: Any) -> None:
    (tmp_path / "whole").mkdir()
    _, _, whole = fit(tmp_path / "whole", config_of(corpus, BAD), capsys)
    config = config_of(corpus, {**BAD, "init_args": {"number": 10_000}})
    stopping = {"class_path": "tests.rolling_back.test_command_line.StopsAt", "init_args": {"step": 6}}
    (tmp_path / "killed").mkdir()
    config["trainer"]["callbacks"].append(stopping)
    status, _, run = fit(tmp_path / "killed", config, capsys)
    assert status == 143
    asked_and_killed(run)
    StopsAt.armed = False
    try:
        if how == "resume":
            status, out, _ = type_command(capsys, "resume", run.path)
        else:
            status, out, _ = fit(tmp_path / "killed", config, capsys, "--ckpt_path", "auto")
    finally:
        StopsAt.armed = True
    assert status == 0
    assert out.index("Rolled back from step 6 to step 4, passing over batch 4.") < out.index("after step 4: weights")
    assert [path.name[7:18] for path in run.checkpoints.glob("*.abandoned")] == ["_step000006"]
    assert apart(load(last_of(run)), load(last_of(whole)), ignore=ABOUT_THE_RUN) == []
    assert [event["event"] for event in read_records(run.events)].count("rolled_back") == 1


class StopsAt(Callback):
    """SIGTERM after a step, as a machine that shuts down sends it."""

    armed = True

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if StopsAt.armed and trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def test_a_version_that_is_gone_since_is_an_error_that_says_what_to_do(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    _, _, run = fit(tmp_path, config_of(corpus), capsys)
    rollback = asked_and_killed(run)
    for version in list_versions(run.checkpoints):
        if version.step <= 4:
            version.path.unlink()
    status, _, error = type_command(capsys, "resume", run.path, "--trainer.max_steps", "20")
    assert status == 1
    assert f"The run was to go back to {rollback.version}, which cannot be used any more" in error
    assert "musictrain checkpoints restore" in error
    assert not read_rollbacks(run.path / FILE_NAME)[0].settled
    assert json.loads((run.path / FILE_NAME).read_text().splitlines()[0])["version"] == rollback.version


class AsksAtOnce(Callback):
    """Asks for a going back that was never possible."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        refusal = roll_back(trainer, reason="Too early.", step=1, batches=(0, 0))
        raise ValueError(f"refused: {refusal}")


def test_no_checkpointing_is_no_going_back(tmp_path: Path, corpus: Path, capsys: Any) -> None:
    config = config_of(corpus, {"class_path": "tests.rolling_back.test_command_line.AsksAtOnce"})
    config["trainer"]["enable_checkpointing"] = False
    config["trainer"]["callbacks"] = config["trainer"]["callbacks"][-1:]
    file = write_config(tmp_path / "none.yaml", config)
    status, _, error = type_command(capsys, "fit", "--config", file, "--runs", tmp_path / "runs", "--name", "short")
    assert status == 1
    assert "refused: There are no versions to go back to: add musictrain.callbacks.VersionedCheckpoint()" in error


@pytest.mark.slow
def test_two_processes_that_lightning_starts_go_back_together(tmp_path: Path, corpus: Path) -> None:
    config = config_of(corpus, BAD)
    config["trainer"] |= {"devices": 2, "strategy": "ddp", "enable_progress_bar": False}
    words = ["fit", "--config", str(write_config(tmp_path / "two.yaml", config)), "--runs", str(tmp_path / "runs"), "--name", "two"]
    status, said = run_to_end([sys.executable, "-m", "musictrain", *words], tmp_path / "log", timeout_seconds=240)
    assert status == 0, said[-3000:]
    assert said.count("Rolled back from step 6 to step 4, passing over batch 4.") == 1
    run = find_run("latest", tmp_path / "runs")
    assert [event["event"] for event in read_records(run.events) if event["event"] in ("rolled_back", "finished", "failed")] == [
        "rolled_back",
        "finished",
    ]
