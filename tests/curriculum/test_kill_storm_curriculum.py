"""Fits with a curriculum that are killed again and again end in the bits of an uninterrupted one, and their steps can be done again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musictrain.cli.commands import main
from musictrain.runs import read_records, read_rows
from tests.checkpoints.storm import ENDING, WHERE, Start, run_in, uninterrupted, until_done, warmed_up, whereabouts
from tests.checkpoints.test_kill_storm import CALLBACKS, check_same
from tests.cli.tiny import tiny_config, write_config, write_corpus
from tests.ports import free_port
from tests.strategies.ranks import fork, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:lightning")]

MIXTURE = {"start": {"near": 3, "far": 1}, "end": {"far": 1}}
CURRICULA: dict[str, dict[str, Any]] = {
    "steps": {
        "by": "steps",
        "difficulty": {"until": 40, "shape": "root", "start": 0.15},
        "orderings": {"surprisal": 1.0, "polyphony": 0.5},
        "length": {"until": 30, "shape": "step", "start": 0.25},
    },
    "tokens": {
        "by": "tokens",
        "difficulty": {"until": 2000, "start": 0.2},
        "orderings": {"pitch_class_entropy": 1.0},
        "length": {"until": 1500, "start": 0.25},
        "mixture": {**MIXTURE, "until": 2500},
    },
    "value": {
        "by": "value",
        "goal": 5.78,
        "delay": 9,
        "difficulty": {"start": 0.1, "shape": "geometric"},
        "orderings": {"note_density": 1.0, "length": 1.0},
        "length": {"start": 0.3},
        "mixture": MIXTURE,
    },
}
STEPS = 50


def corpora(folder: Path) -> str:
    """Two corpora joined: one whose voices move by steps, and one of leaps."""
    chance, home = np.random.default_rng(5), np.array([72, 67, 60, 48])

    def piece() -> list[list[int]]:
        leaps: list[list[int]] = (home + chance.integers(-3, 4, (32, 4)).cumsum(0).clip(-6, 6)).tolist()
        return leaps

    (folder / "far.json").write_text(json.dumps({"train": [piece() for _ in range(4)], "valid": [piece()], "test": [piece()]}))
    return f"{write_corpus(folder / 'near.json')}+{folder / 'far.json'}"


def tiny(folder: Path, by: str, num_workers: int, **trainer: Any) -> list[str]:
    """The options of a fit that takes seconds, with dropout and a curriculum."""
    config = tiny_config(corpora(folder))
    config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.2
    config["model"]["init_args"]["optimizer"] = {"class_path": "musictrain.optim.AdamW", "init_args": {"lr": 0.01}}
    config["data"]["init_args"] |= {"num_workers": num_workers, "cache_dir": str(folder / "cache")}
    curriculum = {"class_path": "musictrain.callbacks.CurriculumSchedule", "init_args": CURRICULA[by]}
    length = {"max_steps": STEPS, "val_check_interval": 7, "log_every_n_steps": 1, "callbacks": [curriculum, *CALLBACKS]}
    config["trainer"] |= {**length, **trainer}
    return ["--config", str(write_config(folder / "tiny.yaml", config))]


@pytest.fixture(scope="module")
def start(repository: Path) -> Iterator[Start]:
    """Fits forked from a process that has imported everything."""
    with warmed_up(repository) as forked:
        yield forked


def check_turned(folder: Path, by: str) -> None:
    """The dial has moved, and all the way."""
    values = [row["curriculum/difficulty"] for row in read_rows(run_in(folder).metrics) if "curriculum/difficulty" in row]
    assert values == sorted(values)
    assert len(set(values)) >= 4
    assert values[-1] > 0.9 or by == "value"


@pytest.mark.parametrize(("by", "num_workers", "gathers"), [("steps", 0, 2), ("tokens", 2, 1), ("value", 2, 1)])
def test_a_fit_killed_three_times_ends_in_the_same_bits_and_its_steps_can_be_done_again(
    by: str, num_workers: int, gathers: int, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tiny(tmp_path, by, num_workers, accumulate_grad_batches=gathers)
    uninterrupted(start, words, tmp_path / "whole")
    storm = until_done(start, words, tmp_path / "storm", kills=3)
    assert storm.killed.total() == 3
    check_same(tmp_path / "whole", tmp_path / "storm")
    check_turned(tmp_path / "storm", by)
    for run in (run_in(tmp_path / "whole"), run_in(tmp_path / "storm")):
        capsys.readouterr()
        assert main(["replay", str(run.path), "--step", "38", "--json", "--output", str(tmp_path / "again")]) == 0
        told = json.loads(capsys.readouterr().out)
        loss = next(each for each in told["compared"] if each["key"] == "train/loss")
        assert loss["replayed"] == loss["recorded"], told
        assert main(["replay", str(run.path), "--step", "38", "--json", "--no-run", "--output", str(tmp_path / "listed")]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert rows_of(listed) == rows_of(told)
    if by == "value":
        assert [event for event in read_records(run_in(tmp_path / "storm").events) if event["event"] == "curriculum"]


def rows_of(told: dict[str, Any]) -> list[Any]:
    """Which music a step was made of."""
    return sorted((row["batch"], row["row"], str(row["parts"])) for row in told["rows"])


# Two processes


def live(words: list[str], folder: Path) -> None:
    """One rank of a fit."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.environ[WHERE] = str(folder / "where")
    status = main(["fit", *words, "--runs", str(folder / "runs"), "--name", "storm", "--ckpt_path", "auto"])
    assert status == 0


def storm_of_ranks(words: list[str], folder: Path, kills: int) -> None:
    """Two forked ranks that are killed together so many times, while they train, and then end by themselves."""
    folder.mkdir()
    chance = random.Random(kills)
    for life in range(kills + 1):
        (folder / "where").write_text(f"{'starting':<10}")
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        ranks = [fork(live, (words, folder), {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
        if life < kills:
            end = time.monotonic() + 300
            while whereabouts(folder) == "starting" and time.monotonic() < end:
                time.sleep(0.002)
            time.sleep(0.4 * chance.random())
            assert whereabouts(folder) != ENDING
            for rank in ranks:
                os.kill(rank, signal.SIGKILL)
        failed = wait_for(ranks, time.monotonic() + 400)
        assert bool(failed) == (life < kills), (folder / "log").read_text()[-3000:]


def both_storms(folder: Path) -> None:
    """In a program of its own: it forks before torch has started threads."""
    words = tiny(folder, "value", 2, devices=2, strategy="ddp", max_steps=STEPS)
    storm_of_ranks(words, folder / "whole", 0)
    storm_of_ranks(words, folder / "storm", 3)


def test_two_processes_killed_three_times_end_in_the_same_bits(tmp_path: Path, repository: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.curriculum.test_kill_storm_curriculum import both_storms; "
        "both_storms(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=repository, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    check_same(tmp_path / "whole", tmp_path / "storm")
    check_turned(tmp_path / "storm", "value")
