"""Another optimizer begins with its own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import _typehints

from musictrain.cli.own_settings import HANDING_ON
from tests.cli.tiny import tiny_config, type_command, write_config, write_corpus

pytest.importorskip("pytorch_optimizer")


def optimizer_of(capsys: Any, folder: Path, in_file: Any, *words: str) -> dict[str, Any]:
    config = tiny_config(write_corpus(folder / "frames.json"))
    config["model"]["init_args"] |= {} if in_file is None else {"optimizer": in_file}
    status, printed, _ = type_command(capsys, "fit", "--config", write_config(folder / "tiny.yaml", config), *words, "--print_config")
    assert status == 0
    return yaml.safe_load(printed)["model"]["init_args"]["optimizer"]


ADAMW = {"class_path": "musictrain.optim.AdamW", "init_args": {"lr": 0.002, "weight_decay": 0.05}}


@pytest.mark.parametrize(
    ("in_file", "words", "lr", "weight_decay"),
    [
        ({"class_path": "musictrain.optim.SOAP"}, [], 0.003, 0.01),
        (ADAMW, ["--model.optimizer", "musictrain.optim.SOAP"], 0.003, 0.01),
        (ADAMW, ["--model.optimizer", "musictrain.optim.SOAP", "--model.optimizer.lr", "0.5"], 0.5, 0.01),
        (ADAMW, ["--model.optimizer.lr", "0.5"], 0.5, 0.05),
        (None, ["--model.optimizer.lr", "0.5"], 0.5, 0.1),
    ],
)
def test_what_was_set_for_another_is_not_its(capsys, tmp_path, in_file, words, lr, weight_decay):
    settings = optimizer_of(capsys, tmp_path, in_file, *words)["init_args"]
    assert (settings["lr"], settings["weight_decay"]) == (lr, weight_decay)


def test_the_parser_is_left_as_it_was(capsys, tmp_path):
    before = getattr(_typehints, HANDING_ON)
    optimizer_of(capsys, tmp_path, ADAMW)
    assert getattr(_typehints, HANDING_ON) is before
