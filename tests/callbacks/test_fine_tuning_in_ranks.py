"""Frozen weights, weights held back and layer-wise decay are the same on several processes, and over a resume."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.callbacks.fine_tuning_in_ranks import WAYS
from tests.strategies.trainings import decoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.callbacks.fine_tuning_in_ranks", str(folder)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def state(folder: Path, way: str, what: str) -> dict[str, Tensor]:
    return dict(torch.load(folder / f"{way}-{what}.pt", weights_only=True))


def test_every_strategy_comes_to_what_one_process_comes_to(trained: Path) -> None:
    torch.manual_seed(0)
    start, one = decoder().state_dict(), state(trained, "one", "whole")
    assert torch.equal(one["network.embedding.weight"], start["embedding.weight"])
    assert all(not torch.equal(one[f"network.{name}"], start[name]) for name in start if name != "embedding.weight")
    for way in WAYS:
        for name, value in state(trained, way, "whole").items():
            torch.testing.assert_close(value, one[name], atol=1e-4, rtol=0, msg=lambda said, at=(way, name): f"{at}: {said}")


@pytest.mark.parametrize("way", WAYS)
def test_a_resume_between_two_unfreezings_ends_in_the_same_bits(way: str, trained: Path) -> None:
    whole, resumed = (state(trained, way, what) for what in ("whole", "resumed"))
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []


def test_a_run_that_begins_with_weights_and_optimizer_of_another_does_so_under_every_strategy(trained: Path) -> None:
    one = state(trained, "one", "begun")
    assert any(not torch.equal(value, state(trained, "one", "whole")[name]) for name, value in one.items())
    for way in WAYS:
        for name, value in state(trained, way, "begun").items():
            torch.testing.assert_close(value, one[name], atol=1e-4, rtol=0, msg=lambda said, at=(way, name): f"{at}: {said}")
