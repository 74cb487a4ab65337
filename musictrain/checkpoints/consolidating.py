"""From a directory of shards to the checkpoint that one process would have written: by the same keys, in the same order.

Conventions: of a Lightning directory ``state_dict`` and ``optimizer_0``... are sharded, with optimizer states under the parameters' names,
and ``meta.pt`` holds the rest. A plain checkpoint has ``optimizer_states``, a list, with states under numbers: the parameters counted
over all groups in their order, which the directory keeps. Raw weights beside a moving average lie in ``state_dict`` under ``RAW`` names:
strategies shard nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from musictrain.checkpoints.shards import Shards, nested
from musictrain.checkpoints.verification import BrokenCheckpointError

META_FILE = "meta.pt"
RAW = "current_model_state."
TIED = "musictrain_tied"
OPTIMIZERS = "musictrain_optimizers"
FRESH = "fresh"


def consolidated(folder: Path, rest: Mapping[str, Any], device: Any = "cpu") -> dict[str, Any]:
    """The plain checkpoint of a directory.

    Args:
        folder: the directory.
        rest: what its ``meta.pt`` holds.
        device: of the tensors; on ``meta`` they are shapes alone, and the shards are not read.

    Raises:
        BrokenCheckpointError: see ``Shards``; or if its parts do not fit together.
    """
    shards = Shards(folder)
    try:
        return _as_one(nested(shards.items(device=device)), rest)
    except (BrokenCheckpointError, MemoryError):
        raise
    except Exception as error:
        # A crafted directory may hold anything in the place of anything.
        raise BrokenCheckpointError(folder, f"its parts do not make a checkpoint ({type(error).__name__}: {error})") from error


def _as_one(tree: dict[str, Any], rest: Mapping[str, Any]) -> dict[str, Any]:
    if both := set(tree) & set(rest):
        raise ValueError(f"{sorted(both)[0]} is there twice")
    optimizers = [tree.pop(key) for key in optimizer_keys(tree)]
    weights = tree.get("state_dict")
    if isinstance(weights, dict):
        _tie(weights, rest.get(TIED) or {})
        if raw := {name: weights.pop(name) for name in list(weights) if name.startswith(RAW)}:
            tree["current_model_state"] = {name.removeprefix(RAW): value for name, value in raw.items()}
    if optimizers:
        facts = list(rest.get(OPTIMIZERS) or [])
        fresh = [bool(each.get(FRESH)) for each in facts] if len(facts) == len(optimizers) else [False] * len(optimizers)
        tree["optimizer_states"] = [by_number(state, new) for state, new in zip(optimizers, fresh, strict=True)]
    return {**rest, **tree}


def optimizer_keys(tree: Mapping[str, Any]) -> list[str]:
    """``optimizer_0``, ``optimizer_1``... in order."""
    numbers = [key.removeprefix("optimizer_") for key in map(str, tree) if key.startswith("optimizer_")]
    return [f"optimizer_{number}" for number in sorted(int(each) for each in numbers if each.isdigit())]


def tied_names(module: nn.Module) -> dict[str, str]:
    """Every further name of a parameter that has several, and its first one: pieces on disk do not tell."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(each), name) for name, each in module.named_parameters(remove_duplicate=False)}
    return {name: original for name, original in names.items() if name != original}


def _tie(weights: dict[str, Any], ties: Mapping[str, str]) -> None:
    for name, first in ties.items():
        if name in weights and first in weights:
            weights[name] = weights[first]


def by_number(state: Mapping[str, Any], fresh: bool = False) -> dict[str, Any]:
    """The state of an optimizer with its parameters counted over all groups, whatever they were called by.

    Args:
        state: as ``state_dict`` gives it, or with names for numbers.
        fresh: whether it had made no step; what torch makes up to save it is left out then.
    """
    by_name: Mapping[Any, Any] = {} if fresh else state.get("state", {})
    numbered: dict[int, Any] = {}
    groups: list[dict[str, Any]] = []
    for group in state.get("param_groups", []):
        first = sum(len(each["params"]) for each in groups)
        names = list(group["params"])
        numbered |= {first + position: by_name[name] for position, name in enumerate(names) if name in by_name}
        groups.append({**group, "params": [first + position for position in range(len(names))]})
    return {"state": numbered, "param_groups": groups}
