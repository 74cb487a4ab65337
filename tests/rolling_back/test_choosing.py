"""The last good version is whole, healthy, resumable, and from before anything went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints.catalog import Version, version_path
from musictrain.checkpoints.resume_report import GRADIENTS
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.storing import store
from musictrain.rolling_back import last_trusted


def put(folder: Path, number: int, step: int, tree: dict[str, Any] | None = None, *tags: str, **facts: Any) -> Path:
    """A version with a weight and what its seal is to say."""
    path = version_path(folder, number, step, *tags)
    content = {"state_dict": {"weight": torch.full((50,), float(step))}, **(tree or {})}
    store(content, path, Seal("", 0, number=number, step=step, **facts))
    return path


def name_of(version: Version | None) -> str:
    return "" if version is None else version.name


def test_it_is_the_highest_step_that_is_not_beyond_what_is_trusted(tmp_path: Path) -> None:
    for number, step in enumerate((0, 10, 20, 30), start=1):
        put(tmp_path, number, step)
    found = [name_of(last_trusted(tmp_path, trusted)) for trusted in (0, 9, 10, 25, 1000)]
    assert found == [f"v{n:06d}_step{s:06d}" for n, s in ((1, 0), (1, 0), (2, 10), (3, 20), (4, 30))]


UNFIT: dict[str, dict[str, Any]] = {
    "with weights that are not finite": {"ill": "state_dict.weight is not finite"},
    "inside a loss spike": {"ill": "inside a loss spike: 9.2 against a median of 1.1"},
    "with a validation that is nan": {"vetoed": "val/loss is nan"},
    "with a validation that is infinite": {"vetoed": "looping above 0.4; val/loss is -inf"},
    "of weights alone": {"kind": "weights"},
    "that is an average": {"kind": "average", "sources": ("v000001_step000000",)},
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_version_is_passed_by(kind: str, tmp_path: Path) -> None:
    put(tmp_path, 1, 0)
    put(tmp_path, 2, 10, **UNFIT[kind])
    assert name_of(last_trusted(tmp_path, 20)) == "v000001_step000000"


def test_one_that_a_guard_of_music_has_vetoed_can_be_gone_back_to(tmp_path: Path) -> None:
    put(tmp_path, 1, 0)
    put(tmp_path, 2, 10, vetoed="val/copy_rate is 0.4, above 0.3: it copies")
    assert name_of(last_trusted(tmp_path, 20)) == "v000002_step000010"


def test_one_that_was_thinned_cannot(tmp_path: Path) -> None:
    put(tmp_path, 1, 0)
    put(tmp_path, 2, 10, None, "thin", kind="weights")
    assert name_of(last_trusted(tmp_path, 20)) == "v000001_step000000"


def test_of_a_broken_one_the_one_before_it(tmp_path: Path) -> None:
    put(tmp_path, 1, 0)
    path = put(tmp_path, 2, 10)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    assert name_of(last_trusted(tmp_path, 20)) == "v000001_step000000"
    assert path.exists()


def test_of_one_saved_inside_the_offending_window_the_one_before_it(tmp_path: Path) -> None:
    put(tmp_path, 1, 4)
    put(tmp_path, 2, 5)
    put(tmp_path, 3, 5, {GRADIENTS: {"weight": torch.ones(50)}})
    assert name_of(last_trusted(tmp_path, 5)) == "v000003_step000005"
    assert name_of(last_trusted(tmp_path, 5, windows=True)) == "v000002_step000005"
    # What was gathered long before the offending window is as good as any.
    assert name_of(last_trusted(tmp_path, 6, windows=True)) == "v000003_step000005"


def test_there_need_not_be_any(tmp_path: Path) -> None:
    assert last_trusted(tmp_path / "nowhere", 10) is None
    put(tmp_path, 1, 11)
    assert last_trusted(tmp_path, 10) is None
