"""How far a step moves each parameter, as a share of the parameter's own norm.

Measured on at most 16,384 values of each, evenly spaced, so that the copy that is kept over the step stays small: of smaller parameters on
all of them. About 1e-3 is usual while a network learns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOST_VALUES = 16_384
Reduce = Callable[[Tensor], Tensor]


class UpdateSizes:
    """Update-to-weight ratios of one step: ``before`` it, ``after`` it.

    Args:
        named: parameters with their names; those that do not need a gradient are passed over.
    """

    def __init__(self, named: Iterable[tuple[str, Any]]) -> None:
        kept = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self.names = tuple(name for name, _ in kept)
        self._parameters = [parameter for _, parameter in kept]
        self._kept: list[Tensor] | None = None
        self._without: set[str] = set()

    @torch.no_grad()
    def before(self) -> None:
        """Keep what the step is about to change."""
        self._without = {name for name, parameter in zip(self.names, self._parameters, strict=True) if parameter.grad is None}
        self._kept = [sample_of(parameter).clone() for parameter in self._parameters]

    def forget(self) -> None:
        """There was no step."""
        self._kept = None

    @torch.no_grad()
    def after(self, reduce: Reduce | None = None) -> dict[str, float]:
        """Norm of the update over norm of the weight, by name; empty without a ``before``. Left out are weights that are all zero, and
        those that stayed where they were without a gradient: nobody has meant to move them.

        Args:
            reduce: adds a tensor over all ranks, where parameters lie in shares: then the ratios are those of the whole, on every rank.
        """
        kept, self._kept = self._kept, None
        if not kept:
            return {}
        now = [sample_of(parameter) for parameter in self._parameters]
        moved = torch._foreach_sub(now, kept)
        lengths = [torch.stack([norm.double() for norm in torch._foreach_norm(of)]) for of in (moved, kept)]
        squares = torch.stack(lengths).square()
        update, weight = (squares if reduce is None else reduce(squares)).sqrt().tolist()
        every = zip(self.names, update, weight, strict=True)
        return {name: moved / norm for name, moved, norm in every if norm > 0 and (moved > 0 or name not in self._without)}


def sample_of(parameter: Any) -> Tensor:
    """At most ``MOST_VALUES`` values of what of the parameter lies here, evenly spaced; a view where that is possible."""
    flat = getattr(parameter, "to_local", lambda: parameter)().detach().reshape(-1)
    return flat[:: -(-max(1, flat.numel()) // MOST_VALUES)]
