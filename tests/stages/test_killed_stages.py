"""Three real stages, killed at drawn places (a stage, its driver, both), end in the very bits of those that nobody touched."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.storing import load
from musictrain.runs import RunFolder, list_runs
from musictrain.runs.lineage import parents_of
from tests.cli.tiny import tiny_config, write_config, write_corpus
from tests.stages.forked import BEFORE, warmed_up

STEPS = {"first": 9, "second": 8, "third": 7}
VICTIMS = ("stage", "driver", "both", "asked")


def write_stages(folder: Path, *, taught: bool = False) -> Path:
    """Weights with the optimizer from the last version, then an average; or a student of the first stage, then more tokens by name and a
    rule that ends the stage."""
    config = tiny_config(write_corpus(folder / "frames.json"))
    network = config["model"]["init_args"]["network"]["init_args"]
    network["dropout"] = 0.2
    config["trainer"] |= {"precision": "32-true", "val_check_interval": 4, "limit_val_batches": 1, "enable_progress_bar": False}
    saving = {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"every_n_train_steps": 2, "every_n_minutes": 0}}
    silent = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}

    def stage(name: str, **more: Any) -> dict[str, Any]:
        killer = {"class_path": "tests.stages.forked.Killer", "init_args": {"stage": name}}
        own = {"trainer": {"callbacks": [silent, saving, killer]}, "seed_everything": STEPS[name]}
        return {"name": name, "extends": "tiny.yaml", "budget": {"steps": STEPS[name]}, "config": own, **more}

    write_config(folder / "tiny.yaml", config)
    second = stage("second", hand_over={"version": "last", "optimizer": True})
    third = stage("third", hand_over={"from": "second", "version": "average", "of": 2})
    if taught:
        second = stage("second", hand_over="nothing")
        second["config"] |= {"model": {"init_args": {"distillation": {"teacher": "stage:first@best", "hidden": {"blocks.0": "blocks.0"}}}}}
        third = stage("third", hand_over={"from": "first", "vocabulary": "extend"})
        third["config"] |= {"data": {"init_args": {"tokenizer": {"class_path": "musictrain.VoiceGrid", "init_args": {"highest": 120}}}}}
        third["budget"] |= {"steps": 99, "stop": {"watch": [{"metric": "val/loss", "min_delta": 9.0}], "patience": 1, "guards": []}}
        third["config"]["model"] = {"init_args": {"schedule": "musictrain.optim.Constant"}}
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump({"name": "three", "stages": [stage("first"), second, third]}))
    return path


def drawn_kills(seed: int) -> list[list[Any]]:
    """A place before the first version, and one at a drawn step of each stage for every kind of victim."""
    chance = random.Random(seed)
    places = [["second", BEFORE, "stage"], ["third", BEFORE, "both"]]
    for number, victim in enumerate(VICTIMS):
        stage = list(STEPS)[number % len(STEPS)]
        places.append([stage, chance.randrange(1, STEPS[stage]), victim])
    return places


def ends(runs: Path) -> dict[str, Any]:
    """The last version of each stage, and what it began with, without the names of runs."""
    state = json.loads((runs / "three" / "state.json").read_text())
    found = {}
    for record in state["records"]:
        run = RunFolder(runs / record["run"])
        last = max((each for each in list_versions(run.checkpoints) if each.resumable), key=lambda version: version.step)
        found[record["stage"]] = (last.step, record["started_from"].partition("_step")[2], load(last.path))
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.slow
def test_stages_that_are_killed_again_and_again_end_in_the_bits_of_those_that_were_not(tmp_path: Path) -> None:
    words = ["--config", str(write_stages(tmp_path))]
    kills = tmp_path / "kills.json"
    kills.write_text(json.dumps(drawn_kills(seed=8)))
    with warmed_up(Path.cwd()) as drive:
        whole = drive([*words, "--runs", str(tmp_path / "whole")], tmp_path / "whole.log")
        assert whole == 0, (tmp_path / "whole.log").read_text()[-3000:]
        statuses = []
        for _ in range(12):
            statuses.append(drive([*words, "--runs", str(tmp_path / "killed")], tmp_path / "killed.log", kills))
            if statuses[-1] == 0:
                break
    said = (tmp_path / "killed.log").read_text()
    assert statuses[-1] == 0, said[-3000:]
    assert json.loads(kills.read_text()) == [], "every place was reached"
    assert {-9, 1, 143} <= set(statuses), "a driver was killed, a stage was, and a driver was asked to end"
    assert "is still at work" in said, "a stage has outlived its driver, and was waited for"
    whole_ends, killed_ends = ends(tmp_path / "whole"), ends(tmp_path / "killed")
    assert {name: end[0] for name, end in whole_ends.items()} == STEPS
    for name, (step, started, tree) in whole_ends.items():
        assert (step, started) == killed_ends[name][:2]
        assert same(tree["state_dict"], killed_ends[name][2]["state_dict"]), name
        assert same(tree["optimizer_states"], killed_ends[name][2]["optimizer_states"]), name
    check_lineage(tmp_path / "killed")


@pytest.mark.slow
def test_a_student_of_a_stage_and_a_stage_with_more_tokens_go_on_to_the_same_bits(tmp_path: Path) -> None:
    words, kills = ["--config", str(write_stages(tmp_path, taught=True))], tmp_path / "kills.json"
    kills.write_text(json.dumps([["second", 5, "both"], ["third", 5, "both"]]))
    with warmed_up(Path.cwd()) as drive:
        statuses = [drive([*words, "--runs", str(tmp_path / "whole")], tmp_path / "whole.log")]
        statuses += [drive([*words, "--runs", str(tmp_path / "killed")], tmp_path / "killed.log", kills) for _ in range(3)]
    assert statuses == [0, -9, -9, 0], (tmp_path / "killed.log").read_text()[-3000:]
    whole_ends, killed_ends = ends(tmp_path / "whole"), ends(tmp_path / "killed")
    assert {name: end[0] for name, end in whole_ends.items()} == {**STEPS, "third": 8}, "the rule has ended the third"
    for name, (step, started, tree) in whole_ends.items():
        assert (step, started) == killed_ends[name][:2]
        assert same(tree["state_dict"], killed_ends[name][2]["state_dict"]), name
        assert same(tree["optimizer_states"], killed_ends[name][2]["optimizer_states"]), name
    first, *later = list_runs(tmp_path / "killed")
    relations = [[(parent.relation, parent.run) for parent in parents_of(run)][1:] for run in later]
    assert relations == [[("distilled from", first.name)], [("started from", first.name)]]


def check_lineage(runs: Path) -> None:
    """One run a stage, each of the protocol, each begun with the one before."""
    names = [run.name for run in list_runs(runs)]
    assert [name.split("-")[4] for name in names] == list(STEPS)
    relations = [[(parent.relation, parent.run) for parent in parents_of(run)] for run in list_runs(runs)]
    assert relations == [
        [("stage of", "three")],
        [("stage of", "three"), ("started from", names[0])],
        [("stage of", "three"), ("started from", names[1])],
    ]
