"""Directories of shards as Lightning writes them, made by one process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from musictrain.checkpoints.consolidating import META_FILE, OPTIMIZERS
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.sharded import seal_directory
from musictrain.checkpoints.shards import METADATA


def by_name(tree: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """What of a plain checkpoint is sharded, with optimizer states under the names of the parameters."""
    sharded = {"state_dict": dict(tree["state_dict"])}
    for number, state in enumerate(tree["optimizer_states"]):
        groups = [{**group, "params": [names[each] for each in group["params"]]} for group in state["param_groups"]]
        sharded[f"optimizer_{number}"] = {"state": {names[k]: each for k, each in state["state"].items()}, "param_groups": groups}
    return sharded


def write_shards(folder: Path, tree: Mapping[str, Any], names: list[str]) -> Path:
    """A plain checkpoint as a directory without a seal.

    Args:
        folder: to be made.
        tree: the checkpoint.
        names: of the parameters in the order of its optimizers.
    """
    dcp.save(by_name(tree, names), checkpoint_id=folder, no_dist=True)
    torch.save({key: value for key, value in tree.items() if key not in ("state_dict", "optimizer_states")}, folder / META_FILE)
    return folder


def sealed_shards(folder: Path, tree: Mapping[str, Any], names: list[str], facts: Seal) -> Path:
    """The same as a sealed version in a folder of versions."""
    hidden = write_shards(folder / "hidden", tree, names)
    final = folder / f"v{facts.number:06d}_step{facts.step:06d}.ckpt"
    seal_directory(hidden, final, facts)
    return final


def small_tree(scale: float = 1.0, step: int = 4) -> tuple[dict[str, Any], list[str]]:
    """A checkpoint of two layers whose optimizer has two groups, not in the order of the layers; and the names in its order."""
    weight, bias = scale * torch.arange(6.0).reshape(2, 3), scale * torch.ones(2)
    state = {0: _adam(bias, step), 1: _adam(weight, step), 2: _adam(weight.T.contiguous(), step)}
    groups = [{"lr": 0.1, "betas": (0.9, 0.95), "params": [0]}, {"lr": 0.2, "betas": (0.9, 0.95), "params": [1, 2]}]
    tree = {
        "state_dict": {"one.weight": weight, "one.bias": bias, "two.weight": weight.T.contiguous(), "counts": torch.tensor([3, 4])},
        "optimizer_states": [{"state": state, "param_groups": groups}],
        **{"global_step": step, "epoch": 1, "loops": {"a": [1, 2]}, OPTIMIZERS: [{"class": "AdamW", "groups": [1, 2]}]},
    }
    return tree, ["one.bias", "one.weight", "two.weight"]


def _adam(like: Tensor, step: int) -> dict[str, Tensor]:
    return {"step": torch.tensor(float(step)), "exp_avg": like / 2, "exp_avg_sq": like.square()}


def with_metadata(folder: Path, change: Callable[[Any], Any]) -> Path:
    """The directory with another ``.metadata``: what ``change`` gives back, or what it has done to the one that is there."""
    path = folder / METADATA
    metadata = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(metadata) or metadata))
    return folder
