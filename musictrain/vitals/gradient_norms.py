"""The L2 norm of every parameter's gradient, or of its weights, in one pass: what is too long, too short, or not finite, and where.

A sum of squares is not finite where one of its terms is not, so that the norm says both. However a parameter is spread over ranks, the
norms are those of its whole, and the same on every rank: each squares its share, and the squares are added up in one small reduction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]
Which = Literal["gradients", "weights"]


@dataclass(frozen=True)
class GradientNorms:
    """What was measured.

    Args:
        names: of the parameters.
        norms: of each, 0.0 for one without a gradient.
        further: what else was summed over the ranks.
    """

    names: Sequence[str]
    norms: Sequence[float]
    further: Sequence[float] = ()

    @property
    def total(self) -> float:
        """Of all together.

        >>> GradientNorms(("a", "b"), (3.0, 4.0)).total
        5.0
        """
        return math.sqrt(math.fsum(norm * norm for norm in self.norms)) if self.finite else math.nan

    @property
    def finite(self) -> bool:
        """Whether every value is."""
        return all(map(math.isfinite, self.norms))

    @property
    def first_bad(self) -> str:
        """The first parameter, in the module's order, with a value that is not finite; empty if there is none."""
        return next((name for name, norm in zip(self.names, self.norms, strict=True) if not math.isfinite(norm)), "")


class ParameterNorms:
    """Measures parameters that stay the same ones over a training.

    Args:
        named: parameters with their names; those that do not need a gradient are passed over.
        world_size: ranks that train together.
        flattened: whether plain parameters are shares of flat ones, as in FSDP1, rather than whole on every rank.
    """

    def __init__(self, named: Iterable[tuple[str, Any]], world_size: int = 1, flattened: bool = False) -> None:
        kept = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self.names = tuple(name for name, _ in kept)
        self.parameters = [parameter for _, parameter in kept]
        counted = [_counted(parameter, world_size, flattened) for parameter in self.parameters]
        self._counted = torch.tensor(counted, dtype=torch.float64)
        self.spread = world_size > 1 and any(share * world_size > 1.5 for share in counted)

    def measure(self, which: Which = "gradients", reduce: Reduce | None = None, further: Sequence[float] = ()) -> GradientNorms:
        """The norms, read from the device.

        Args:
            which: of what.
            reduce: adds a tensor over all ranks, where there are several: collective. None for one.
            further: more numbers to be summed over the ranks in the same go.
        """
        values = [_share(parameter.grad if which == "gradients" else parameter) for parameter in self.parameters]
        there = [(place, value) for place, value in enumerate(values) if value is not None and value.numel()]
        norms = torch.zeros(len(values), dtype=torch.float64)
        if there:
            norms[[place for place, _ in there]] = _norms([value for _, value in there])
        if reduce is None:
            return GradientNorms(self.names, norms.tolist(), further)
        # Also where every rank holds all: what is damaged on one of them is then known to each.
        sums = reduce(torch.cat([norms.square() * self._counted.cpu(), torch.tensor(further, dtype=torch.float64)]))
        return GradientNorms(self.names, sums[: len(norms)].sqrt().tolist(), sums[len(norms) :].tolist())

    def gradient_shares(self) -> list[Tensor]:
        """What of the gradients lies here: to be changed in place."""
        shares = [getattr(parameter.grad, "to_local", lambda whole=parameter.grad: whole)() for parameter in self.parameters]
        return [share for share in shares if share is not None]

    def squares(self, device: torch.device) -> Tensor:
        """Of each gradient's norm, what of it is this rank's to add, float64 (parameters,) on the device: nothing waits for it."""
        shares = [_share(parameter.grad) for parameter in self.parameters]
        found = iter(torch._foreach_norm([share for share in shares if share is not None and share.numel()] or [torch.zeros(1)]))
        nothing = torch.zeros((), dtype=torch.float64, device=device)
        norms = [nothing if share is None or not share.numel() else next(found).double() for share in shares]
        if self._counted.device != device:
            self._counted = self._counted.to(device)
        return torch.stack(norms).square() * self._counted


def _norms(values: Sequence[Tensor]) -> Tensor:
    """The norm of each, float64 on the host; a finite tensor has a finite one, though its squares be too large for 32 bits."""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(values))]).cpu().double()
    for place in (~norms.isfinite()).nonzero().flatten().tolist():
        if bool(values[place].isfinite().all()):
            norms[place] = torch.linalg.vector_norm(values[place], dtype=torch.float64)
    return norms


def _share(tensor: Any) -> Tensor | None:
    """What of it lies here, as a plain dense tensor; a sum that its ranks have not exchanged yet is exchanged."""
    if tensor is None:
        return None
    placements = getattr(tensor, "placements", ())
    if any(placement.is_partial() for placement in placements):
        return tensor.full_tensor().detach()
    local: Tensor = getattr(tensor, "to_local", lambda: tensor)()
    local = local.detach()
    return local.coalesce().values() if local.is_sparse else local


def _counted(parameter: Any, world_size: int, flattened: bool) -> float:
    """By what a rank's squares are multiplied so that the sum over all ranks counts every value once."""
    placements = getattr(parameter, "placements", None)
    if placements is None:
        return 1.0 if flattened else 1.0 / world_size
    shards = [parameter.device_mesh.size(at) for at, placement in enumerate(placements) if placement.is_shard()]
    return math.prod(shards) / world_size
