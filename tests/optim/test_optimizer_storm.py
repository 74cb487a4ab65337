"""Fits with averages of their own, matrices apart or two passes a step, killed again and again, end in the bits of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.storm import Start, uninterrupted, until_done, warmed_up
from tests.checkpoints.test_kill_storm import NO_SAMPLES, check_same
from tests.cli.tiny import tiny_config, write_config, write_corpus

pytest.importorskip("pytorch_optimizer")
pytestmark = pytest.mark.slow
CALLBACKS = [
    {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"every_n_train_steps": 3}},
    {"class_path": "tests.checkpoints.storm.Whereabouts"},
    NO_SAMPLES,
]
CONSTANT = {"class_path": "musictrain.optim.Constant", "init_args": {"warmup_steps": 5}}


@pytest.fixture(scope="module")
def start(repository: Path) -> Iterator[Start]:
    """Fits forked from a process that has imported everything."""
    with warmed_up(repository) as forked:
        yield forked


def tiny(folder: Path, optimizer: str, **changes: Any) -> list[str]:
    config = tiny_config(write_corpus(folder / "frames.json"))
    config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.2
    config["model"]["init_args"] |= {"optimizer": {"class_path": f"musictrain.optim.{optimizer}"}, **changes}
    config["trainer"] |= {
        "max_steps": 60,
        "val_check_interval": 7,
        "log_every_n_steps": 1,
        "callbacks": CALLBACKS,
        "gradient_clip_val": 1.0,
    }
    return ["--config", str(write_config(folder / "tiny.yaml", config))]


@pytest.mark.parametrize(("optimizer", "changes"), [("ScheduleFreeAdamW", {"schedule": CONSTANT}), ("Muon", {}), ("SAM", {})])
def test_a_fit_killed_six_times_ends_in_the_same_bits(optimizer: str, changes: Any, start: Start, tmp_path: Path) -> None:
    words = tiny(tmp_path, optimizer, **changes)
    uninterrupted(start, words, tmp_path / "whole")
    storm = until_done(start, words, tmp_path / "storm", kills=6)
    assert storm.killed.total() == 6
    check_same(tmp_path / "whole", tmp_path / "storm")
