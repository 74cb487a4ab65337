"""Real chorales under every way to spread a run x precision x accumulation: the same losses, exact resumes, one decision on all ranks."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints.catalog import list_versions
from tests.strategies.matrix import ACCUMULATIONS, KILLED_IN, PRECISIONS, WAYS
from tests.strategies.two_nodes import can_make_nodes

pytestmark = pytest.mark.slow

# Of losses of about 5 nats a token, after eight steps of AdamW at 0.003.
LOSS_TOLERANCE = {"32-true": 2e-5, "bf16-mixed": 0.02}
CELLS = list(itertools.product(WAYS, PRECISIONS, ACCUMULATIONS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """What all cells left."""
    folder = tmp_path_factory.mktemp("matrix")
    words = [sys.executable, "-m", "tests.strategies.matrix", str(folder)]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(params=CELLS, ids=lambda cell: "-".join(map(str, cell)))
def cell(request: pytest.FixtureRequest) -> tuple[str, str, int]:
    if WAYS[request.param[0]].nodes == 2 and not can_make_nodes():
        pytest.skip("Two nodes need root and the program ip.")
    return request.param


def file_of(folder: Path, cell: tuple[str, str, int], what: str) -> Path:
    return folder / f"{cell[0]}_{cell[1]}_{cell[2]}_{what}.pt"


def witnesses(folder: Path, cell: tuple[str, str, int], what: str) -> list[dict[str, Any]]:
    """What each rank wrote down."""
    file = file_of(folder, cell, what)
    return [json.loads(file.with_suffix(f".rank{rank}.json").read_text()) for rank in range(WAYS[cell[0]].ranks)]


def test_losses_are_those_of_one_process_without_accumulation(folder: Path, cell: tuple[str, str, int]) -> None:
    ours, theirs = (witnesses(folder, each, "whole")[0] for each in (cell, ("one", cell[1], 1)))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=LOSS_TOLERANCE[cell[1]])
    for (step, loss), (same_step, expected) in zip(ours["validated"], theirs["validated"], strict=True):
        assert step == same_step
        assert float.fromhex(loss) == pytest.approx(float.fromhex(expected), abs=LOSS_TOLERANCE[cell[1]])


def test_a_run_that_was_killed_and_resumed_ends_in_the_same_bits(folder: Path, cell: tuple[str, str, int]) -> None:
    whole, resumed = (torch.load(file_of(folder, cell, what), weights_only=True) for what in ("whole", "resumed"))
    assert list(whole) == list(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    whole_seen, resumed_seen = (witnesses(folder, cell, what) for what in ("whole", "resumed"))
    for before, after in zip(whole_seen, resumed_seen, strict=True):
        assert 0 < len(after["rows"]) < len(before["rows"])
        assert before["rows"][-len(after["rows"]) :] == after["rows"]
        assert before["stopped"] == after["stopped"]
        assert before["validated"][-len(after["validated"]) :] == after["validated"]
        assert after["rows"][0][0] <= KILLED_IN


def test_all_ranks_saw_and_decided_alike(folder: Path, cell: tuple[str, str, int]) -> None:
    seen = witnesses(folder, cell, "whole")
    assert len({json.dumps([each["validated"], each["stopped"]]) for each in seen}) == 1
    # Patience 2 over validations every second step: the first one counts as the best, the third ends it.
    assert seen[0]["stopped"][0] == 6
    assert [[step, number] for step, number, _ in seen[0]["rows"]] == [[step, number] for step, number, _ in seen[-1]["rows"]]


def test_every_step_reads_the_rows_of_the_same_global_batch(folder: Path, cell: tuple[str, str, int]) -> None:
    def rows_by_step(which: tuple[str, str, int]) -> dict[int, list[str]]:
        shares = witnesses(folder, which, "whole")
        if which[0] in ("tp", "fsdp+tp"):  # neighbours read the same
            assert shares[0]["rows"] == shares[1]["rows"]
            shares = shares[::2]
        steps: dict[int, list[str]] = {}
        for share in shares:
            for step, _, rows in share["rows"]:
                steps.setdefault(step, []).extend(rows)
        return {step: sorted(rows) for step, rows in steps.items()}

    assert rows_by_step(cell) == rows_by_step(("one", cell[1], 1))


def test_versions_and_samples_are_there(folder: Path, cell: tuple[str, str, int]) -> None:
    run = file_of(folder, cell, "resumed").with_suffix("")
    versions = list_versions(run / "checkpoints")
    assert versions[-1].step == 6
    kinds = {version.seal.kind for version in versions if version.seal}
    assert kinds == ({"full"} if cell[0] in ("one", "ddp", "two nodes") else {"sharded"})
    assert sorted(path.suffix for path in (run / "samples" / "step_000006").iterdir()) == [".js", ".json", ".mid", ".png", ".wav"]
    assert any("speed/tokens_per_second" in line for line in (run / "metrics.jsonl").read_text().splitlines())
