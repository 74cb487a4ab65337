"""What a curriculum hands out is the same under every strategy, and over a resume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.curriculum.curricula_in_ranks import CURRICULA, RESUMED_AT, STEPS, WAYS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.curriculum.curricula_in_ranks", str(folder)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def told(folder: Path, way: str, by: str, what: str) -> list[dict[str, Any]]:
    """What each rank wrote down."""
    return [json.loads((folder / f"{way}-{by}-{what}.rank{rank}.json").read_text()) for rank in range(WAYS[way][0])]


def batches(folder: Path, way: str, by: str, what: str = "whole") -> list[Any]:
    """Number and rows of each batch, put together from all ranks; neighbours in tensor parallelism read the same."""
    shares = [each["seen"] for each in told(folder, way, by, what)]
    if way == "tp":
        assert shares[0] == shares[1]
        shares = shares[:1]
    assert len({json.dumps([[step, number] for step, number, _ in share]) for share in shares}) == 1
    dealt = zip(*([rows for _, _, rows in share] for share in shares), strict=True)
    rows = [[row for turn in zip(*each, strict=True) for row in turn] for each in dealt]
    return [[number, *each] for (_, number, _), each in zip(shares[0], rows, strict=True)]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "one"])
def test_batches_and_weights_are_those_of_one_process(way: str, trained: Path) -> None:
    one = batches(trained, "one", "steps")
    assert batches(trained, way, "steps") == one
    assert [number for number, *_ in one] == list(range(STEPS))
    widths = {len(tokens) for _, *rows in one for *_, tokens in rows}
    assert (min(widths), max(widths)) == (17, 65)
    expected, found = (torch.load(trained / f"{each}-steps-whole.pt", weights_only=True) for each in ("one", way))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=0, msg=lambda said, at=name: f"{at}: {said}")


@pytest.mark.parametrize("by", CURRICULA)
@pytest.mark.parametrize("way", WAYS)
def test_a_resume_hands_out_the_same_batches_and_ends_in_the_same_bits(way: str, by: str, trained: Path) -> None:
    whole, resumed = (batches(trained, way, by, what) for what in ("whole", "resumed"))
    assert resumed == whole[RESUMED_AT:]
    before, after = (torch.load(trained / f"{way}-{by}-{what}.pt", weights_only=True) for what in ("whole", "resumed"))
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    tables = [each["table"] for what in ("whole", "resumed") for each in told(trained, way, by, what)]
    assert all(table == tables[0] for table in tables)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "one"])
def test_all_ranks_decide_by_value_what_one_process_decides(way: str, trained: Path) -> None:
    one, found = (told(trained, each, "value", "whole")[0]["table"] for each in ("one", way))
    assert len(one) >= 2
    assert [first for first, _ in found] == [first for first, _ in one]
    assert [share for _, share in found] == pytest.approx([share for _, share in one], abs=1e-3)
