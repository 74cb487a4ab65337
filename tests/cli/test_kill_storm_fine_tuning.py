"""A fine-tuning that is killed again and again begins once with the other run's weights, and ends in the bits of an uninterrupted one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.storing import load
from musictrain.runs import RunFolder
from musictrain.runs.lineage import parents_of
from tests.checkpoints.storm import run_in, uninterrupted, until_done, warmed_up
from tests.checkpoints.test_kill_storm import CALLBACKS, check_same
from tests.cli.tiny import tiny_config, write_config, write_corpus

pytestmark = pytest.mark.slow

UNFREEZING = {
    "class_path": "musictrain.callbacks.GradualUnfreezing",
    "init_args": {"schedule": {"blocks.0.attention": 9, "blocks.0": 23, "blocks.0.feed_forward_norm": 0}, "warmup_steps": 6},
}
NARROW = {"class_path": "musictrain.data.tokenizers.VoiceGrid", "init_args": {"lowest": 36, "highest": 90}}


def test_a_fine_tuning_killed_eight_times_ends_in_the_same_bits(tmp_path: Path, repository: Path) -> None:
    config = tiny_config(write_corpus(tmp_path / "frames.json"))
    config["trainer"] |= {"max_steps": 4, "val_check_interval": 2, "callbacks": CALLBACKS}
    first = write_config(tmp_path / "first.yaml", config)
    config["model"]["init_args"] |= {"layer_decay": 0.8, "frozen": ["embedding"]}
    config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.2
    config["data"]["init_args"]["tokenizer"] = NARROW
    trainer = {"max_steps": 50, "val_check_interval": 11, "log_every_n_steps": 1, "accumulate_grad_batches": 2}
    config["trainer"] |= {**trainer, "callbacks": [UNFREEZING, *CALLBACKS]}
    file = write_config(tmp_path / "second.yaml", config)
    with warmed_up(repository) as start:
        uninterrupted(start, ["--config", str(first)], tmp_path / "first")
        source = run_in(tmp_path / "first")
        words = ["--config", str(file), "--init_from", f"{source.path}@last"]
        uninterrupted(start, words, tmp_path / "whole")
        storm = until_done(start, words, tmp_path / "storm", kills=8)
    assert storm.killed.total() == 8
    check_same(tmp_path / "whole", tmp_path / "storm")
    whole, killed = run_in(tmp_path / "whole"), run_in(tmp_path / "storm")
    assert parents_of(killed) == parents_of(whole)
    assert [each.relation for each in parents_of(killed)] == ["started from"]
    assert unfrozen(killed) == unfrozen(whole) == [9, 23]
    told = json.loads((killed.path / "status.json").read_text())
    assert told["step"] == 50
    frozen = [load(list_versions(run.checkpoints)[-1].path)["state_dict"]["network.embedding.weight"] for run in (whole, killed)]
    assert torch.equal(*frozen)
    shutil.rmtree(source.path)


def unfrozen(run: RunFolder) -> list[int]:
    """The steps at which more began to train, each as often as it was told."""
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    return [each["step"] for each in events if each["event"] == "unfrozen"]
