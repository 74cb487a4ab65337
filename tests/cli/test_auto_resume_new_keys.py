"""``--ckpt_path auto`` and a run from before a class had an argument."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.cli.auto_resume import has_configuration
from musictrain.runs import RunFolder


def config(**network: Any) -> dict[str, Any]:
    decoder = {"class_path": "musictrain.models.Decoder", "init_args": {"d_model": 32, **network}}
    return {"model": {"class_path": "musictrain.MusicModule", "init_args": {"network": decoder}}}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config()), encoding="utf-8")
    return RunFolder(tmp_path)


def test_a_new_argument_at_its_default_is_the_same_configuration(run: RunFolder) -> None:
    assert has_configuration(run, config())
    assert has_configuration(run, config(stochastic_depth=0.0))
    assert has_configuration(run, {**config(), "a_group_of_later": {"on": False}})


def test_a_new_argument_at_another_value_is_another_configuration(run: RunFolder) -> None:
    assert not has_configuration(run, config(stochastic_depth=0.1))
    assert not has_configuration(run, config(d_model=64))


def test_what_changes_nothing_that_is_trained_may_be_new(run: RunFolder) -> None:
    data = {"data": {"class_path": "musictrain.MusicDataModule", "init_args": {}}}
    (run.config).write_text(yaml.safe_dump({**config(), **data}), encoding="utf-8")
    waiting = {"data": {"class_path": "musictrain.MusicDataModule", "init_args": {"wait_minutes": 5.0}}}
    assert has_configuration(run, {**config(), **waiting})
