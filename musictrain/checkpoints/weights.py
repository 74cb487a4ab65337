"""What of a checkpoint is weights, and what only serves to go on training.

Conventions: a checkpoint is a tree as Lightning makes it. Its weights are ``state_dict``; under an ``EMAWeightAveraging`` callback that is
the moving average already, and ``current_model_state`` the raw weights. What is in no list here stays: hyper-parameters, the data module's
state (fingerprints of tokenizer and corpus), what a module adds in ``on_save_checkpoint``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musictrain.checkpoints.catalog import NAME, version_name
from musictrain.checkpoints.resume_report import GRADIENTS
from musictrain.checkpoints.storing import load

ONLY_FOR_TRAINING = frozenset(
    {
        *("optimizer_states", "lr_schedulers", "loops", "callbacks", GRADIENTS),
        *("current_model_state", "averaging_state"),
        *("MixedPrecision", "FSDPPrecision", "native_amp_scaling_state", "amp_scaling_state"),
    }
)
HELPERS = ("hidden_matching.",)
"""How the names of weights begin that only training needs: no part of the network."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def read_tree(path: str | Path) -> dict[str, Any]:
    """A whole checkpoint from its file or its directory of shards, verified and unpacked.

    Raises:
        FileNotFoundError: if there is none.
        BrokenCheckpointError: if it is damaged.
        ValueError: if it holds no ``state_dict``.
    """
    tree = load(path)
    if not isinstance(tree, Mapping) or not isinstance(tree.get("state_dict"), Mapping):
        raise ValueError(f"{path} is not a Lightning checkpoint: it holds no state_dict.")
    return dict(tree)


def name_of(path: str | Path) -> str:
    """What to call a checkpoint: the name of the version without tags and ending, or the name of another file.

    >>> name_of("checkpoints/v000012_step000450.pinned.ckpt"), name_of("best.ckpt")
    ('v000012_step000450', 'best.ckpt')
    """
    found = NAME.fullmatch(Path(path).name)
    return version_name(int(found["number"]), int(found["step"])) if found else Path(path).name


def weights_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint without what only serves to go on training. ``load_from_checkpoint`` and ``sample`` need no more."""
    return {key: without_helpers(value) if key == "state_dict" else value for key, value in tree.items() if key not in ONLY_FOR_TRAINING}


def without_helpers(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """A module's state without weights that only training needs; the same one if it has none."""
    if not any(name.startswith(HELPERS) for name in state_dict):
        return state_dict
    return {name: value for name, value in state_dict.items() if not name.startswith(HELPERS)}


def converted(state_dict: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Weights with their floating-point tensors in ``bf16`` or ``fp16``; what is smaller already, and integers, stay as they are.

    Raises:
        ValueError: for another dtype, or naming a weight that is too large for it.
    """
    if dtype not in DTYPES:
        raise ValueError(f"Weights can be converted to {' or '.join(DTYPES)}, not to {dtype!r}.")
    done: dict[Any, Tensor] = {}
    result: Any = copy.copy(state_dict)  # keeps what torch hangs on an OrderedDict
    for name, value in state_dict.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() >= 2:
            # Tied weights stay tied: they are one tensor under two names.
            result[name] = done.setdefault(same_memory(value), _converted(name, value, DTYPES[dtype]))
    return result  # type: ignore[no-any-return]


def _converted(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    small = tensor.detach().to(dtype)
    lost = torch.isfinite(tensor) & ~torch.isfinite(small)
    if bool(lost.any()):
        raise ValueError(
            f"{name} has values up to {tensor[lost].abs().max().item():.4g}, and {dtype} ends at {torch.finfo(dtype).max:.4g}. "
            "Choose bf16, or leave the dtype as it is."
        )
    return small


def same_memory(tensor: Tensor) -> Any:
    """Equal for two tensors that are the same numbers in the same memory; never for two that hold none."""
    if not tensor.numel() or tensor.layout != torch.strided:
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
