"""A storm over a real search, trials and drivers killed at drawn places: in the end the trials and values of one that nobody touched."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from musictrain.checkpoints.catalog import list_versions
from musictrain.runs import RunFolder, list_runs
from musictrain.runs.lineage import parents_of
from musictrain.search.ledger import FINISHED, PRUNED, read_ledger
from tests.cli.tiny import tiny_config, write_config, write_corpus
from tests.search.forked import BEFORE, Drive, warmed_up

pytestmark = pytest.mark.slow

RUNGS = (2, 4, 8)
VICTIMS = ("trial", "driver", "both", "asked")
NAME = "storm"
RATES = "model.init_args.optimizer.init_args.lr"


def words_of(folder: Path, points: int) -> list[str]:
    """A search of so many points with two seeds each, on two slots."""
    config = tiny_config(write_corpus(folder / "frames.json"))
    config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.1
    config["trainer"] |= {"max_steps": RUNGS[-1], "val_check_interval": 2, "limit_val_batches": 1, "enable_progress_bar": False}
    silent = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}
    config["trainer"]["callbacks"] = [silent, {"class_path": "tests.search.forked.Killer"}]
    file = write_config(folder / "tiny.yaml", config)
    grid = ",".join(f"{0.001 * (place + 1):g}" for place in range(points // 2))
    space = ["--grid", f"{RATES}={grid}", "model.init_args.network.init_args.d_model=8,16"]
    judged = ["--halving", "2", "--rungs", ",".join(map(str, RUNGS)), "--seeds", "0,1"]
    return ["--config", str(file), *space, *judged, "--name", NAME, "--slots", "2"]


def drawn_kills(trials: dict[str, Any], seed: int) -> list[list[Any]]:
    """A place of each kind of victim, in different trials, one before the first step of another, and two on the way to the last rung."""
    chance = random.Random(seed)
    chosen = chance.sample(sorted(run for _, run, _ in trials.values()), len(VICTIMS) + 1)
    places = [[run, chance.randrange(1, RUNGS[0] + 1), victim] for run, victim in zip(chosen, VICTIMS, strict=False)]
    last = chance.sample(sorted(run for state, run, _ in trials.values() if state == FINISHED), 2)
    late = [[run, chance.randrange(RUNGS[1] + 1, RUNGS[2] + 1), victim] for run, victim in zip(last, ("trial", "both"), strict=True)]
    return [*places, [chosen[-1], BEFORE, "trial"], *late]


def told(runs: Path) -> dict[str, Any]:
    """State, steps and values of every trial."""
    trials = read_ledger(runs / NAME / "trials.jsonl").trials
    return {key: (trial.last.state, trial.last.run, {step: dict(at) for step, at in trial.at.items()}) for key, trial in trials.items()}


def storm(drive: Drive, words: list[str], folder: Path, kills: Path) -> list[int]:
    """The same command until it has nothing left to do; gives back how each ended."""
    statuses: list[int] = []
    while len(statuses) < 12 and 0 not in statuses:
        statuses.append(drive([*words, "--runs", str(folder)], folder.with_suffix(".log"), kills))
    return statuses


@pytest.mark.parametrize("points", [4, 12])
def test_a_storm_ends_with_the_trials_and_values_of_an_undisturbed_search(tmp_path: Path, points: int) -> None:
    words, kills = words_of(tmp_path, points), tmp_path / "kills.json"
    with warmed_up(Path.cwd()) as drive:
        status = drive([*words, "--runs", str(tmp_path / "whole")], tmp_path / "whole.log")
        assert status == 0, (tmp_path / "whole.log").read_text()[-3000:]
        whole = told(tmp_path / "whole")
        places = drawn_kills(whole, seed=points)
        kills.write_text(json.dumps(places))
        statuses = storm(drive, words, tmp_path / "killed", kills)
    said = (tmp_path / "killed.log").read_text()
    assert statuses[-1] == 0, said[-3000:]
    assert len(list(tmp_path.glob("kills-*"))) == len(places), "every place was reached"
    assert {-9, 143} <= set(statuses), "a driver was killed, and one was asked to end"
    assert told(tmp_path / "killed") == whole
    assert len(whole) == 2 * points
    assert {state for state, _, _ in whole.values()} == {FINISHED, PRUNED}
    check_runs(tmp_path / "killed", whole)


def check_runs(runs: Path, trials: dict[str, Any]) -> None:
    """One run for each trial, each a trial of the search; every step stands in its rows once, and a pruned one has rested where it was."""
    found = list_runs(runs)
    assert sorted(run.name for run in found) == sorted(run for _, run, _ in trials.values())
    for run in found:
        assert [(parent.relation, parent.run) for parent in parents_of(run)] == [("trial of", NAME)]
    for _, name, at in trials.values():
        versions = [version.step for version in list_versions(RunFolder(runs / name).checkpoints)]
        assert max(versions) == max(at)
