"""A corpus, a configuration and a way to type commands, all tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from musictrain.cli.commands import main


def write_corpus(path: Path, pieces: int = 4, frames: int = 32) -> Path:
    """A JSON of four-part pieces that move by steps, as many in each split as there is need for."""
    chance = np.random.default_rng(0)
    home = np.array([72, 67, 60, 48])

    def piece() -> list[list[int]]:
        steps = chance.integers(-1, 2, (frames, 4)).cumsum(0).clip(-6, 6)
        return (home + steps).tolist()

    path.write_text(json.dumps({"train": [piece() for _ in range(pieces)], "valid": [piece(), piece()], "test": [piece()]}))
    return path


def tiny_config(corpus: Path | str) -> dict[str, Any]:
    """Six steps of a network that can hardly learn anything."""
    network = {"class_path": "musictrain.Decoder", "init_args": {"d_model": 8, "num_layers": 1, "num_heads": 2, "max_context": 128}}
    return {
        "seed_everything": 7,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 6,
            "max_epochs": -1,
            "val_check_interval": 3,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 2,
            "callbacks": [
                {
                    "class_path": "musictrain.callbacks.WriteSamples",
                    "init_args": {"num": 1, "continuations": 1, "beats": 2, "prompt_beats": 2},
                }
            ],
        },
        "model": {"class_path": "musictrain.MusicModule", "init_args": {"network": network}},
        "data": {"class_path": "musictrain.MusicDataModule", "init_args": {"corpus": str(corpus), "window": 32, "batch_size": 2}},
    }


def write_config(path: Path, config: dict[str, Any]) -> Path:
    """The configuration as a YAML file."""
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def type_command(capsys: Any, *words: Any) -> tuple[int, str, str]:
    """Run a command in this process: exit status, what it printed, what it complained."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    printed = capsys.readouterr()
    return status, printed.out, printed.err
