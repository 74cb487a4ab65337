"""Fits that are killed again and again end in the bits of an uninterrupted one, and leave nothing behind that is not whole."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from musictrain.checkpoints.catalog import last_good, list_versions
from musictrain.checkpoints.resume_report import CIRCUMSTANCES
from musictrain.checkpoints.storing import load
from musictrain.checkpoints.verification import verify
from musictrain.runs import RunFolder, read_rows
from musictrain.runs.rows import values_of as values_in
from tests.checkpoints.exact_runs import apart
from tests.checkpoints.storm import (
    STEPPING,
    Life,
    Start,
    run_in,
    start_by_command_line,
    uninterrupted,
    until_done,
    warmed_up,
    whereabouts,
)
from tests.cli.tiny import tiny_config, write_config, write_corpus

pytestmark = pytest.mark.slow

CLOCKS = ("['callbacks']['RunRecorder']", "['callbacks']['PlainProgress']", "['callbacks']['ProgressLine']")
"""How long everything took, which no two runs have in common."""
OF_THE_MACHINE = ("health/data_wait", "health/memory_mib", "health/slowest_rank")

NO_SAMPLES = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}
CALLBACKS = [
    {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}},
    {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"every_n_train_steps": 3}},
    {"class_path": "tests.checkpoints.storm.Whereabouts"},
    NO_SAMPLES,
]


@pytest.fixture(scope="module")
def start(repository: Path) -> Iterator[Start]:
    """Fits forked from a process that has imported everything."""
    with warmed_up(repository) as forked:
        yield forked


def tiny(folder: Path, **trainer: Any) -> list[str]:
    """The options of a fit that takes seconds, with dropout."""
    config = tiny_config(write_corpus(folder / "frames.json"))
    network = config["model"]["init_args"]["network"]["init_args"]
    network["dropout"] = 0.2
    config["data"]["init_args"]["num_workers"] = trainer.pop("num_workers", 0)
    config["trainer"] |= {"max_steps": 80, "val_check_interval": 7, "log_every_n_steps": 1, "callbacks": CALLBACKS, **trainer}
    return ["--config", str(write_config(folder / "tiny.yaml", config))]


def check_same(whole: Path, storm: Path) -> None:
    """The end to the bit, every version whole, nothing else left, and no line of the metrics that says otherwise."""
    expected, found = run_in(whole), run_in(storm)
    ends = [last_good(run.checkpoints) for run in (expected, found)]
    assert apart(*(load(end.path) for end in ends if end is not None), ignore=[f"[{CIRCUMSTANCES!r}]", *CLOCKS]) == []
    versions = list_versions(found.checkpoints)
    for version in versions:
        verify(version.path)
    assert {path.name for path in found.checkpoints.iterdir()} == {".lock", *(version.path.name for version in versions)}
    assert values_of(found) == values_of(expected)


def values_of(run: RunFolder) -> list[tuple[Any, ...]]:
    """Every value that was logged, but for how fast it was: epoch, step, name and value, each as often as it counts."""
    rows = read_rows(run.metrics)
    return [
        (row["epoch"], row["step"], key, row[key])
        for row in rows
        for key in sorted(values_in(row))
        if not key.startswith("speed/") and "per_second" not in key and key not in OF_THE_MACHINE
    ]


VARIANTS: dict[str, dict[str, Any]] = {
    "windows of 4": {"accumulate_grad_batches": 4, "max_steps": 50, "val_check_interval": 11},
    "two workers": {"num_workers": 2},
    "bf16-mixed": {"precision": "bf16-mixed"},
}


def test_a_fit_killed_six_times_on_the_command_line_ends_in_the_same_bits(tmp_path: Path) -> None:
    words = tiny(tmp_path)
    uninterrupted(start_by_command_line, words, tmp_path / "whole")
    storm = until_done(start_by_command_line, words, tmp_path / "storm", kills=6)
    assert storm.killed.total() == 6
    check_same(tmp_path / "whole", tmp_path / "storm")


@pytest.mark.parametrize("variant", VARIANTS)
def test_so_does_one_with(variant: str, start: Start, tmp_path: Path) -> None:
    words = tiny(tmp_path, **VARIANTS[variant])
    uninterrupted(start, words, tmp_path / "whole")
    storm = until_done(start, words, tmp_path / "storm", kills=8)
    assert storm.killed.total() == 8
    check_same(tmp_path / "whole", tmp_path / "storm")


@pytest.mark.corpus
def test_the_chorales_recipe_killed_24_times_ends_in_the_same_bits(start: Start, tmp_path: Path) -> None:
    # The recipe as it is (bf16-mixed, dropout, averaged weights), but for how long it trains, on how much at once and how often it saves.
    trainer = {"max_steps": 80, "val_check_interval": 10, "limit_val_batches": 2, "log_every_n_steps": 1, "callbacks": CALLBACKS}
    changes = {"trainer": trainer, "data": {"init_args": {"batch_size": 4, "valid_batch_size": 4}}}
    words = ["--config", "chorales", "--config", str(write_config(tmp_path / "shorter.yaml", changes))]
    uninterrupted(start, words, tmp_path / "whole")
    storm = until_done(start, words, tmp_path / "storm", kills=24, pace=2.0)
    print(storm)
    assert storm.killed.total() == 24
    assert len(storm.killed) >= 3, storm
    check_same(tmp_path / "whole", tmp_path / "storm")


# Two processes


def test_two_processes_of_which_one_is_killed_end_and_go_on_to_the_same_bits(tmp_path: Path) -> None:
    words = tiny(tmp_path, devices=2, strategy="ddp", max_steps=400)
    uninterrupted(start_by_command_line, words, tmp_path / "whole")
    chance, folder = random.Random(0), tmp_path / "storm"
    folder.mkdir()
    for victims in ([1], [0], [0, 1], [1], []):
        (folder / "where").write_text("starting  ")
        life = start_by_command_line(["fit", *words, "--runs", str(folder / "runs"), "--ckpt_path", "auto"], folder)
        try:
            if victims:
                kill_some(life, victims, folder, chance.random())
            else:
                assert life.ended(900) == 0, (folder / "log").read_text()[-3000:]
        finally:
            life.sweep()
    assert (folder / "log").read_text().count("exact: as if there had been no interruption") == 4
    check_same(tmp_path / "whole", folder)


def kill_some(life: Life, victims: list[int], folder: Path, moment: float) -> None:
    """Kill one of two ranks in mid-training, or both, and see that none is left some minutes later."""
    wait_until(lambda: whereabouts(folder) == STEPPING, 600, "it has not begun to train")
    time.sleep(moment)
    ranks = [life.pid, *children_of(life.pid)]
    assert len(ranks) == 2, ranks
    for victim in victims:
        life.kill(ranks[victim])
    wait_until(lambda: life.ended(0.1) is not None, 300, "the first process hangs")
    assert life.ended(0) != 0
    wait_until(lambda: not lives(ranks[1]), 300, "the second process hangs")


def children_of(pid: int) -> list[int]:
    """The ranks that a process has started."""
    pids = [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid for pid in pids if b"LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_bytes()]


def lives(pid: int) -> bool:
    """Whether a process is still there, and no mere zombie."""
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Any, seconds: float, complaint: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.01)


def test_the_comparison_finds_a_run_of_another_seed(start: Start, tmp_path: Path) -> None:
    words = tiny(tmp_path)
    uninterrupted(start, words, tmp_path / "whole")
    uninterrupted(start, [*words, "--seed_everything", "8"], tmp_path / "other")
    with pytest.raises(AssertionError, match="state_dict"):
        check_same(tmp_path / "whole", tmp_path / "other")
