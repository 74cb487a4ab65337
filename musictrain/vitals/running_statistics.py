"""What a forward changes of a network without any optimizer: the running statistics of batch norm and its like."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class RunningStatistics:
    """Keeps the running statistics as they were at the beginning of a step, so that a step that is left out leaves none behind.

    Copies them where they are, and waits for no device. Of a network without such layers it holds nothing.

    Args:
        module: whose layers they are.
    """

    def __init__(self, module: nn.Module) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, _NormBase) and layer.track_running_stats]
        self._buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """A step begins."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def put_back(self, unless: Tensor | None = None) -> None:
        """It is left out; or only if a flag, where the layers lie, is not set."""
        with torch.no_grad():
            for buffer, kept in zip(self._buffers, self._kept, strict=True):
                buffer.copy_(kept if unless is None else torch.where(unless, buffer, kept))
