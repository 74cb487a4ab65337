"""Adaptive gradient clipping: a gradient is long or short only in comparison with the weights it is to change.

Exact however the parameters are spread: each rank squares its own share, and the squares of a unit that lies on several ranks are summed
over them, so that one, two or four ranks clip alike up to the order of that sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

SMALLEST_WEIGHT_NORM = 1e-3

FLATTENING = {"FSDPStrategy", "DeepSpeedStrategy"}
"""Lightning's strategies that lay all parameters end to end, by name: nothing here knows Lightning."""


@torch.no_grad()
def clip_adaptively(parameters: Iterable[Tensor], ratio: float, eps: float = SMALLEST_WEIGHT_NORM) -> None:
    """Scale the gradient of every unit down to ``ratio`` times the norm of the unit's weights at most, in place.

    A unit is what feeds one output: a row of a matrix, all of a tensor but its first axis; a vector or a scalar is one unit. A norm of
    weights counts as ``eps`` at least, so that weights of zero can move. Gradients that are not finite stay as they are.

    Args:
        parameters: those without a gradient are passed over. Collective if they lie in shares: the same on every rank.
        ratio: longest gradient as a share of the weights; the paper's 0.01 for large batches, more for small ones.
        eps: least norm of a unit's weights.

    Raises:
        ValueError: if ``ratio`` or ``eps`` is not positive, or a gradient is a sum that its ranks have not exchanged yet.

    Source: Brock et al., High-Performance Large-Scale Image Recognition Without Normalization (ICML 2021), equation 3. Differs: the paper
    leaves the last linear layer alone; here every parameter is clipped, since the head is often the embedding too.
    """
    check_ratio(ratio, "ratio")
    check_ratio(eps, "eps")
    for parameter in parameters:
        if parameter.grad is None:
            continue
        longest = unit_norms(parameter).clamp_(min=eps).mul_(ratio)
        norms = unit_norms(parameter.grad)
        # Of units that need no clipping, and of those that are not finite, not a bit changes.
        factor = torch.where(norms > longest, longest / norms, 1.0).where(norms.isfinite(), 1.0)
        gradient = _share(parameter.grad)
        gradient.mul_(factor.to(gradient.dtype))


def unit_norms(tensor: Tensor) -> Tensor:
    """L2 norm of every unit of a tensor, whole ones where it lies in shares: (rows of this rank, 1, ...), or a scalar for a vector.

    Raises:
        ValueError: if it is a sum that its ranks have not exchanged yet.
    """
    share = _share(tensor)
    squares = share.to(torch.promote_types(share.dtype, torch.float32)).square()
    sums = squares.sum() if tensor.ndim < 2 else squares.sum(tuple(range(1, tensor.ndim)), keepdim=True)
    for group in _groups_that_share_units(tensor):
        dist.all_reduce(sums, group=group)
    return sums.sqrt_()


def _groups_that_share_units(tensor: Any) -> list[Any]:
    """Groups of ranks that hold parts of the same units."""
    if not hasattr(tensor, "placements"):
        return []
    if any(placement.is_partial() for placement in tensor.placements):
        raise ValueError(f"Adaptive clipping got a gradient placed as {tensor.placements}: its ranks must exchange their sums first.")
    axes = [getattr(placement, "dim", None) for placement in tensor.placements]
    return [tensor.device_mesh.get_group(at) for at, axis in enumerate(axes) if axis is not None and (axis > 0 or tensor.ndim < 2)]


def _share(tensor: Any) -> Tensor:
    share: Tensor = getattr(tensor, "to_local", lambda: tensor)()
    return share.detach()


def check_ratio(value: float, name: str) -> None:
    """Refuse what is no positive, finite number.

    Raises:
        ValueError: naming it.
    """
    if not 0.0 < value < float("inf"):
        raise ValueError(f"{name} is {value}, but must be a positive number, such as 0.01.")


def check_weights_keep_their_rows(strategy: Any) -> None:
    """Refuse a strategy under which no rows are left to compare.

    Raises:
        ValueError: naming it.
    """
    if FLATTENING & {each.__name__ for each in type(strategy).__mro__}:
        raise ValueError(
            f"adaptive_clip compares each row of a weight with its gradient, but {type(strategy).__name__} flattens parameters, so that no "
            "rows are left. Use ddp, or musictrain's fsdp, tp or fsdp+tp, or gradient_clip_val instead."
        )
