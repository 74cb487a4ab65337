"""Tiny stored versions to look at, break and choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from musictrain.checkpoints.catalog import version_path
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.storing import store


def tiny_tree(step: int, size: int = 8) -> dict[str, Any]:
    """A checkpoint whose weights tell the step."""
    weights = {"weight": torch.full((size,), float(step)), "count": torch.tensor(step)}
    return {"state_dict": weights, "global_step": step, "epoch": 0, "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(size)}}}]}


def write_version(folder: Path, number: int, step: int, **facts: Any) -> Path:
    """Store one version and give back its path."""
    folder.mkdir(exist_ok=True, parents=True)
    path = version_path(folder, number, step)
    store(tiny_tree(step), path, Seal("", 0, number=number, step=step, created=float(number), **facts))
    return path


def spoil(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
