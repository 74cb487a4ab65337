"""Optimizers go by their short names, and another one begins with its own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import _typehints
from torch.optim import Optimizer

from musictrain import optim
from musictrain.cli.own_settings import HANDING_ON, NAMING
from musictrain.optim import OPTIMIZERS
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


@pytest.mark.parametrize(
    ("in_file", "words", "path"),
    [
        (None, ["--model.optimizer", "Lion"], "musictrain.optim.Lion"),
        ("SOAP", [], "musictrain.optim.SOAP"),
        ({"class_path": "AdamW", "init_args": {"weight_decay": 0.05}}, ["--model.optimizer.lr", "0.5"], "musictrain.optim.AdamW"),
        (ADAMW, ["--model.optimizer", "AdamW"], "musictrain.optim.AdamW"),
        (None, ["--model.optimizer", "Muon"], "musictrain.optim.Muon"),
        (None, ["--model.optimizer", "NAdam"], "torch.optim.NAdam"),
    ],
)
def test_a_name_alone_is_musictrains_optimizer_before_anybody_elses(capsys, tmp_path, in_file, words, path):
    found = optimizer_of(capsys, tmp_path, in_file, *words)
    assert found["class_path"] == path
    if in_file is not None and "AdamW" in path:
        assert found["init_args"]["weight_decay"] == 0.05, "and what was set for it stays"


def test_an_optimizer_inside_another_goes_by_its_name_too(capsys, tmp_path):
    found = optimizer_of(capsys, tmp_path, None, "--model.optimizer", "SAM", "--model.optimizer.base", "Lion")
    assert found["init_args"]["base"]["class_path"] == "musictrain.optim.Lion"


def test_the_names_are_those_of_all_optimizers():
    found = {name for name in optim.__all__ if isinstance(kind := getattr(optim, name), type) and issubclass(kind, Optimizer)}
    assert set(OPTIMIZERS) == found


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Lino", "there is no optimizer 'Lino'. Did you mean 'Lion'? By their names alone go ADOPT, "),
        ("musictrain.optim.Lino", "there is no musictrain.optim.Lino. Did you mean 'Lion'?"),
    ],
)
def test_a_misspelled_optimizer_is_answered_with_the_nearest(capsys, tmp_path, name, hint):
    config = write_config(tmp_path / "tiny.yaml", tiny_config(write_corpus(tmp_path / "frames.json")))
    status, _, complaint = type_command(capsys, "fit", "--config", config, "--model.optimizer", name)
    assert status == 2
    assert hint in complaint


def test_the_parser_is_left_as_it_was(capsys, tmp_path):
    before = [getattr(_typehints, name) for name in (HANDING_ON, NAMING)]
    optimizer_of(capsys, tmp_path, ADAMW)
    assert [getattr(_typehints, name) for name in (HANDING_ON, NAMING)] == before
