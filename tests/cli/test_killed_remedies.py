"""The recipe against learning by heart, all remedies at once: killed without a word, a run comes to the same bits, on two ranks too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.storing import load
from musictrain.cli.recipes import recipes
from musictrain.data.scores import write_midi
from musictrain.notes import Notes
from musictrain.runs import list_runs, read_rows
from tests.cli.tiny import write_config
from tests.strategies.launched import fit_words, run_to_end, same, steps_saved

STEPS, KILLED_AT = 14, 9
PROGRAM = [sys.executable, "-m", "musictrain"]
RESTARTS = {"class_path": "musictrain.optim.WarmRestarts", "init_args": {"warmup_steps": 1, "cycle_steps": 4, "cycle_growth": 1}}


def tune(seed: int) -> Notes:
    """Sixteen bars, now loud, now soft."""
    random = np.random.default_rng(seed)
    pitch, velocity = random.integers(55, 76, 64), random.choice([40, 64, 88, 112], 64)
    return Notes(np.arange(64.0), np.ones(64), pitch, velocity=velocity, tempos=[(0.0, 90.0 + seed)])  # type: ignore[arg-type]


def config_of(folder: Path, name: str, devices: int, *, killed: bool) -> Path:
    """The recipe, made tiny, with everything on that it names."""
    config = yaml.safe_load(recipes()["few-pieces"].read_text(encoding="utf-8"))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert all(model[key] for key in ("token_dropout", "adaptive_clip", "label_smoothing", "plateau"))
    assert all(data[key] for key in ("velocity_jitter", "tempo_jitter", "mask_notes", "mask_bars", "transpose"))
    small = {"d_model": 16, "num_layers": 2, "num_heads": 2, "max_context": 128, "attention_dropout": 0.2, "stochastic_depth": 0.4}
    model["network"]["init_args"] |= small
    model |= {"schedule": RESTARTS, "token_dropout": 0.3, "adaptive_clip": 0.01}
    model["plateau"] |= {"patience": 0, "cooldown": 0, "min_delta": 0.5}  # every validation but the first reduces
    data |= {"corpus": str(folder / "scores"), "window": 64, "batch_size": 4, "mask_notes": 0.3, "mask_bars": 0.2}
    deadly = {"mark": str(folder / f"{name} killed"), "rank": devices - 1, "step": KILLED_AT if killed else -1}
    config["trainer"] |= {
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": STEPS,
        "val_check_interval": 4,
        "limit_val_batches": 1,
        "enable_progress_bar": False,
        "log_every_n_steps": 1,
        "callbacks": [
            {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}},
            {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"every_n_train_steps": 3, "every_n_minutes": 0}},
            {"class_path": "tests.strategies.launched.Deadly", "init_args": deadly},
        ],
        **({"devices": devices, "strategy": "ddp"} if devices > 1 else {"devices": 1}),
    }
    return write_config(folder / f"{name}.yaml", config)


def rates(runs: Path) -> dict[int, float]:
    (run,) = list_runs(runs)
    return {int(row["step"]): row["train/lr"] for row in read_rows(run.metrics) if "train/lr" in row}


def last_version(runs: Path) -> dict[str, Any]:
    (run,) = list_runs(runs)
    return load(max(list_versions(run.checkpoints), key=lambda version: version.step).path)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_all_remedies_survive_a_kill_to_the_bit(devices: int, tmp_path: Path) -> None:
    for number in range(12):
        split = ("train", "valid", "test")[max(0, number - 9)]
        write_midi(tune(number), tmp_path / "scores" / split / f"{number:02d}.mid")
    options: dict[str, Any] = {"timeout_seconds": 240, "MUSICTRAIN_CACHE": str(tmp_path / "cache")}
    configs = {name: config_of(tmp_path, name, devices, killed=name == "killed") for name in ("whole", "killed")}
    words = {name: [*PROGRAM, *fit_words(config, tmp_path / name)] for name, config in configs.items()}
    status, said = run_to_end(words["whole"], tmp_path / "whole.log", **options)
    assert status == 0, said[-3000:]
    status, said = run_to_end(words["killed"], tmp_path / "killed.log", **options)
    assert status != 0, said[-3000:]
    assert 0 < max(steps_saved(tmp_path / "killed")) <= KILLED_AT
    status, said = run_to_end([*words["killed"], "--ckpt_path", "auto"], tmp_path / "resumed.log", **options)
    assert status == 0, said[-3000:]
    whole, resumed = (last_version(tmp_path / name) for name in ("whole", "killed"))
    assert whole["global_step"] == resumed["global_step"] == STEPS
    assert same(whole["state_dict"], resumed["state_dict"])
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (whole, resumed)]
    assert all(same(moments[0][number], moments[1][number]) for number in moments[0])
    assert whole["musictrain_plateau"] == resumed["musictrain_plateau"]
    assert whole["musictrain_plateau"]["factor"] == 0.25  # validations after 4, 8 and 12 steps; the first sets the best
    assert rates(tmp_path / "killed") == rates(tmp_path / "whole")
