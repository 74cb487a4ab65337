"""Norm and clipping of gradients that may lie in shares on several ranks.

Under tensor parallelism some parameters are DTensors over one mesh, some over another, some plain: torch's own functions take lists of one
kind alone. Of one kind they are what is called here, so that a run without shares computes what it would compute with torch's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def mesh_of(tensor: Tensor) -> Any:
    """The mesh a tensor is spread over; None for a plain one."""
    return getattr(tensor, "device_mesh", None)


def alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """The tensors in lists of one kind each, which torch's list functions take: plain ones, and those over each mesh."""
    kinds: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(mesh_of(tensor), []).append(tensor)
    return list(kinds.values())


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that there are."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """L2 norm of all gradients together, of their whole where they lie in shares: a scalar, the same on every rank that holds them."""
    norms = [whole(torch.nn.utils.get_total_norm(kind)) for kind in alike(gradients)]
    if not norms:
        return torch.tensor(0.0)
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def whole(tensor: Tensor) -> Tensor:
    """A plain tensor of all shares; collective for one that lies in shares."""
    full_tensor = getattr(tensor, "full_tensor", None)
    return tensor if full_tensor is None else full_tensor()


def clip_to_norm(parameters: Sequence[Tensor], longest: float) -> Tensor:
    """Scale all gradients so that their norm is ``longest`` at most; gives back the norm they had."""
    norm = gradient_norm(gradients_of(parameters))
    for kind in alike(parameter for parameter in parameters if parameter.grad is not None):
        torch.nn.utils.clip_grads_with_norm_(kind, longest, norm)
    return norm


def clip_values(parameters: Sequence[Tensor], largest: float) -> None:
    """Cut every value of every gradient to [-largest, largest]."""
    for gradient in gradients_of(parameters):
        local: Tensor = getattr(gradient, "to_local", lambda whole=gradient: whole)()
        local.clamp_(-largest, largest)


@torch.no_grad()
def multiply(gradients: list[Tensor], factor: Tensor) -> None:
    """Multiply all gradients by a scalar, each rank its own share of them."""
    if factor.device.type == "cpu" and factor.item() == 1.0:
        return
    # For DTensors the share is a plain tensor: a list of both kinds is refused.
    shares = [getattr(gradient, "to_local", lambda whole=gradient: whole)() for gradient in gradients]
    if shares:
        torch._foreach_mul_(shares, factor)
