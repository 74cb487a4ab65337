"""What wandb says on the terminal stands in train.log instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from musictrain.loggers.wandb_logger import _speak_to_the_log
from musictrain.runs.train_log import TrainLog


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb = pytest.importorskip("wandb")
    yield wandb
    wandb.termsetup(wandb.Settings(), None)
    wandb.teardown()


def test_its_warnings_are_lines_of_the_log(wandb: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = TrainLog()
    log.listen()
    log.open(tmp_path / "train.log")
    _speak_to_the_log(wandb)
    wandb.termwarn("steps go backwards")
    wandb.termlog("chatter")
    log.stop()
    (line,) = (tmp_path / "train.log").read_text().splitlines()
    assert line.endswith("wandb: wandb: WARNING steps go backwards")
    assert "steps go backwards" not in capsys.readouterr().err


def test_a_wandb_of_another_kind_is_left_alone() -> None:
    _speak_to_the_log(object())
