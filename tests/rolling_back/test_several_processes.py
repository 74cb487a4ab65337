"""Several processes go back together: to the same version, past the same batches, in the same program, to the same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.runs import RunFolder, read_records
from musictrain.runs.rollbacks import FILE_NAME, read_rollbacks
from tests.rolling_back.spread_runs import BAD, STRATEGIES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Where the runs of all strategies are."""
    folder = tmp_path_factory.mktemp("spread")
    words = [sys.executable, "-m", "tests.rolling_back.spread_runs", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=repository)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_ranks_go_back_alike_and_end_in_the_bits_of_a_run_that_never_met_the_batch(strategy: str, folder: Path) -> None:
    for rank in range(STRATEGIES[strategy][0]):
        spoiled, straight = (load(folder / strategy / name / f"rank{rank}.pt") for name in ("spoiled", "straight"))
        assert spoiled["step"] == straight["step"] == 8
        assert spoiled["seen"] == [0, 1, 2, 3, BAD, BAD + 1, 5, 6, 7, 8]
        assert straight["seen"] == [0, 1, 2, 3, 5, 6, 7, 8]
        assert spoiled["state"].keys() == straight["state"].keys()
        assert all(torch.equal(value, straight["state"][name]) for name, value in spoiled["state"].items())
    run = RunFolder(folder / strategy / "spoiled")
    assert [(each.first, each.to, each.settled) for each in read_rollbacks(run.path / FILE_NAME)] == [(BAD, 4, True)]
    assert [event["event"] for event in read_records(run.events)].count("rolled_back") == 1


def load(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, weights_only=True))
