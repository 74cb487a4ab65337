"""Steps that went wrong, that were turned back from, or that several processes did, are replayed too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.runs import RunFolder, list_runs, read_records
from tests.cli.test_replay import config_of, replayed, trained
from tests.cli.tiny import type_command, write_config


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> RunFolder:
    return trained(tmp_path_factory.mktemp("healthy"), config_of(corpus))


def with_callback(run: RunFolder, folder: Path, kind: str, **arguments: Any) -> RunFolder:
    """A copy of a run that was configured with one of somebody's own callbacks."""
    copy = RunFolder(Path(shutil.copytree(run.path, folder / run.name)))
    config = yaml.safe_load(copy.config.read_text())
    config["trainer"]["callbacks"].append({"class_path": f"tests.cli.replay_faults.{kind}", "init_args": arguments})
    copy.config.write_text(yaml.safe_dump(config))
    return copy


def test_the_first_tensor_that_is_no_number_is_named(healthy: RunFolder, tmp_path: Path, capsys: Any) -> None:
    name = "network.blocks.0.attention.out.weight"
    names = [layer["name"] for layer in replayed(capsys, healthy, 4, "--rows", 1)["layers"]]
    name = name if name in names else next(each for each in names if "blocks" in each and each.endswith("weight"))
    run = with_callback(healthy, tmp_path, "Spoil", step=5, name=name)
    found = replayed(capsys, run, 5, "--keep", "Spoil")
    assert (found["not_finite"]["stage"], found["not_finite"]["name"], found["not_finite"]["values"]) == ("weight", name, 1)
    assert found["loss"] == "NaN"
    report = (Path(found["folder"]) / "report.md").read_text()
    assert "First not finite: the weight" in report
    status, printed, _ = type_command(capsys, "replay", run.path, "--step", 5, "--keep", "Spoil", "--rows", 1)
    assert status == 0
    assert f"First not finite: the weight {name}, before anything was computed with it, in 1 of" in printed


def test_a_callback_that_is_not_known_sleeps_and_is_named(healthy: RunFolder, tmp_path: Path, capsys: Any) -> None:
    found = replayed(capsys, with_callback(healthy, tmp_path, "Spoil", step=5, name="nothing"), 5, "--rows", 1)
    assert found["not_finite"] is None
    assert found["equal"]
    assert any("Left out, since it is not known whether they change training: Spoil." in line for line in found["said"])


@pytest.mark.slow
def test_a_run_that_went_back_is_replayed_on_both_branches(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    back = {"class_path": "tests.cli.replay_faults.GoBack", "init_args": {"step": 5}}
    run = trained(tmp_path, config_of(corpus, callbacks=(back,), network={"dropout": 0.3}, trainer={"log_every_n_steps": 1}))
    assert (run.path / "rollbacks.jsonl").is_file()
    for step, batch in ((4, 3), (5, 5), (8, 8)):  # batch 4 is passed over
        found = replayed(capsys, run, step, "--rows", 1)
        assert found["equal"], (step, found["compared"])
        assert {row["batch"] for row in found["rows"]} == {batch}
        assert {row["batch"] for row in replayed(capsys, run, step, "--no-run", "--rows", 1)["rows"]} == {batch}
    before = replayed(capsys, run, 5, "--attempt", 1, "--rows", 1)
    assert {row["batch"] for row in before["rows"]} == {4}
    assert before["folder"].endswith("step_000005_attempt_1")
    assert replayed(capsys, run, 4, "--attempt", 1, "--rows", 1)["equal"]


EVERY_STEP: dict[str, Any] = {"network": {"dropout": 0.3}, "trainer": {"log_every_n_steps": 1}}


def fault(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"tests.cli.replay_faults.{kind}", "init_args": arguments}


# By action the batches of steps 4, 5 and 7, of which batch 3 is spoiled.
ANSWERED = {"skip": (3, 4, 6), "reduce_lr": (3, 4, 6), "roll_back": (4, 5, 7)}


@pytest.mark.parametrize("action", [pytest.param(name, marks=() if name == "skip" else pytest.mark.slow) for name in ANSWERED])
def test_steps_after_an_answer_to_a_fault_are_replayed_to_the_bit(action: str, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    off = {name: {"action": "off"} for name in ("throughput", "data_wait", "memory", "data")}
    watch = {"class_path": "musictrain.callbacks.AnomalyAlerts", "init_args": {"non_finite": {"action": action}, "lr_steps": 3, **off}}
    run = trained(tmp_path, config_of(corpus, callbacks=(fault("NanInBatch", number=3), watch), **EVERY_STEP))
    told = [event["event"] for event in read_records(run.events) if event["event"] in ("skipped", "lr_reduced", "rolled_back")]
    assert told == {"skip": ["skipped"], "reduce_lr": ["lr_reduced", "skipped"], "roll_back": ["skipped", "rolled_back"]}[action]
    for step, batch in zip((4, 5, 7), ANSWERED[action], strict=True):
        found = replayed(capsys, run, step, "--keep", "NanInBatch", "--rows", 1)
        assert found["equal"], (step, found["compared"], found["said"])
        assert {row["batch"] for row in found["rows"]} == {batch}


def test_steps_of_a_batch_that_was_split_are_replayed_to_the_bit(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    run = trained(tmp_path, config_of(corpus, callbacks=(fault("LittleRoom", rows=1),), **EVERY_STEP))
    assert [event["parts"] for event in read_records(run.events) if event.get("kind") == "memory_full"] == [2]
    # The version before step 5 remembers the parts; before step 2 there was none.
    for step, words in ((5, ()), (2, ("--keep", "LittleRoom"))):
        found = replayed(capsys, run, step, "--rows", 1, *words)
        assert found["equal"], (step, found["compared"], found["said"])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_two_processes_did_one_does_again_within_rounding(
    strategy: str, corpus: Path, repository: Path, tmp_path: Path, capsys: Any
) -> None:
    config = config_of(corpus, trainer={"devices": 2, "strategy": strategy}, network={"dropout": 0.0})
    file = write_config(tmp_path / "config.yaml", config)
    words = [sys.executable, "-m", "musictrain", "fit", "--config", str(file), "--runs", str(tmp_path / "runs"), "--name", "heard"]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(repository)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = list_runs(tmp_path / "runs")[-1]
    found = replayed(capsys, run, 5)
    compared = {each["key"]: each for each in found["compared"]}
    assert compared["train/loss"]["replayed"] == pytest.approx(compared["train/loss"]["recorded"], rel=1e-6)
    assert len(found["rows"]) == 2  # of both processes
    assert any("The run used 2 processes." in line for line in found["said"])
    assert any("processes: 2 then, 1 now" in line for line in found["said"])
