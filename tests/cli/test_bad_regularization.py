"""A remedy that is misspelled or impossible is a short error on the command line, before anything is computed; a good one trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.runs import list_runs
from tests.cli.test_bad_input import fit_error
from tests.cli.tiny import tiny_config, type_command, write_config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token_dropot": 0.1}, "Did you mean 'token_dropout'?"),
        ({"plateau": {"pateince": 3}}, "Plateau has no 'pateince'. Did you mean 'patience'?"),
        ({"plateau": {"factor": 2.0}}, "Plateau got factor=2.0, expected a number between 0 and 1"),
        ({"token_dropout": 1.5}, "token_dropout is 1.5, but must be at least 0 and below 1"),
        ({"adaptive_clip": -1.0}, "adaptive_clip is -1.0, but must be a positive number"),
    ],
)
def test_a_remedy_that_cannot_work(arguments: dict[str, Any], message: str, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(corpus)
    config["model"]["init_args"].update(arguments)
    assert message in fit_error(capsys, tmp_path, config)


def test_all_of_them_train_and_their_settings_are_kept_as_plain_values(corpus: Path, tmp_path: Path, capsys: Any) -> None:
    config = tiny_config(corpus)
    config["model"]["init_args"] |= {"token_dropout": 0.1, "adaptive_clip": 0.1, "plateau": {"patience": 1}}
    path = write_config(tmp_path / "config.yaml", config)
    status, _, err = type_command(capsys, "fit", "--config", path, "--runs", tmp_path / "runs")
    assert status == 0, err
    (run,) = list_runs(tmp_path / "runs")
    version = sorted(run.checkpoints.glob("v*.ckpt"))[-1]
    checkpoint = torch.load(version, weights_only=True)
    assert checkpoint["hyper_parameters"]["plateau"]["patience"] == 1
    assert checkpoint["musictrain_plateau"]["monitor"] == "val/loss"
