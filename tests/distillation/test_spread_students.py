"""A student is the same on any number of devices, and its teacher is whole on each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distillation.spread_students import WAYS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """What all trainings left, made by one program of its own: torch forks ranks only where nothing was trained yet."""
    folder = tmp_path_factory.mktemp("students")
    words = [sys.executable, "-m", "tests.distillation.spread_students", str(folder)]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("way", WAYS[1:])
def test_weights_and_projections_end_where_those_of_one_process_end(folder: Path, way: str) -> None:
    one, spread = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("one", way))
    assert list(one["state"]) == list(spread["state"])
    assert "hidden_matching.projections.0.weight" in spread["state"]
    for name, tensor in one["state"].items():
        torch.testing.assert_close(spread["state"][name], tensor, atol=1e-5, rtol=0)
    for key in ("train/loss", "train/soft_loss", "train/hidden_loss", "train/soft_weight"):
        assert float(spread["metrics"][key]) == pytest.approx(float(one["metrics"][key]), rel=1e-5), key
    assert spread["teacher"] == ["Parameter"]
