"""Students that are killed again and again end in the bits of an uninterrupted one, whether the teacher is asked or has been asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.storm import Start, uninterrupted, until_done, warmed_up
from tests.checkpoints.test_kill_storm import CALLBACKS, NO_SAMPLES, check_same, run_in
from tests.cli.tiny import tiny_config, write_config, write_corpus

pytestmark = pytest.mark.slow

STEPS = {"asked": 120, "kept": 400}  # kept opinions are quick, and a fit that is done can be killed no more
FADING = {"class_path": "musictrain.optim.WarmupCosine", "init_args": {"warmup_steps": 3, "final_fraction": 0.0}}
VARIANTS: dict[str, dict[str, Any]] = {
    "asked": {"weight": 0.8, "weight_schedule": FADING, "hidden": {"blocks.0": "blocks.0"}},
    "kept": {"weight": 0.8, "top_k": 4},
}


@pytest.fixture(scope="module")
def start(repository: Path) -> Iterator[Start]:
    """Fits forked from a process that has imported everything."""
    with warmed_up(repository) as forked:
        yield forked


def config_of(folder: Path, **trainer: Any) -> dict[str, Any]:
    """Rows of whole pieces, in six keys."""
    config = tiny_config(write_corpus(folder / "frames.json", frames=16))
    config["data"]["init_args"] |= {"packing": False, "window": 72, "batch_size": 2, "transpose": [-2, 3]}
    config["trainer"] |= trainer
    return config


@pytest.fixture(scope="module")
def teacher(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("teacher")
    config = config_of(folder, max_steps=5, val_check_interval=5, callbacks=[NO_SAMPLES])
    uninterrupted(start, ["--config", str(write_config(folder / "teacher.yaml", config))], folder)
    return Path(run_in(folder).path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_student_killed_again_and_again_ends_in_the_same_bits(variant: str, teacher: Path, start: Start, tmp_path: Path) -> None:
    config = config_of(tmp_path, max_steps=STEPS[variant], val_check_interval=7, log_every_n_steps=1, callbacks=CALLBACKS)
    config["model"]["init_args"]["network"]["init_args"] |= {"d_model": 4, "dropout": 0.2}
    config["model"]["init_args"]["distillation"] = {"teacher": f"{teacher}@best", **VARIANTS[variant]}
    words = ["--config", str(write_config(tmp_path / "student.yaml", config))]
    for name in ("whole", "storm"):
        # A cache of its own: the opinions are being made when the first life is killed.
        words_of_its_own = [*words, "--data.cache_dir", str(tmp_path / f"cache-{name}")]
        if name == "whole":
            uninterrupted(start, words_of_its_own, tmp_path / name)
        else:
            assert until_done(start, words_of_its_own, tmp_path / name, kills=6).killed.total() >= 4
    check_same(tmp_path / "whole", tmp_path / "storm")
