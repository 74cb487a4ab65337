"""Dropout with one mask for some steps in a row."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BlockDropout(nn.Module):
    """Sets channels to zero while training, the same for ``block`` steps of a sequence, and scales the others up.

    One mask for several steps asks for far fewer random numbers than one a step, which cost an eighth of a training step on a CPU.

    Args:
        p: probability that a channel is dropped, in [0, 1).
        block: steps that share a mask; None: all of a sequence.

    Raises:
        ValueError: if ``p`` is outside that range, or ``block`` is below 1.

    Source: variational dropout, one mask a sequence (Gal & Ghahramani, 2016), where ``block`` is None; else between that and plain dropout.
    """

    def __init__(self, p: float, block: int | None = 16) -> None:
        super().__init__()
        check_dropout("A dropout", p)
        if block is not None and block < 1:
            raise ValueError(f"A dropout's mask is shared by {block} steps, but must be by at least 1; None shares it over the sequence.")
        self.p, self.block = p, block

    def forward(self, stream: Tensor) -> Tensor:
        """(batch, time, ...) to the same shape."""
        if not self.training or self.p == 0.0:
            return stream
        batch, time, *channels = stream.shape
        block = max(1, time) if self.block is None else self.block
        kept = torch.rand(batch, -(-time // block), *channels, device=stream.device) >= self.p
        factor = kept.to(stream.dtype).div_(1 - self.p)
        return stream * (factor if self.block is None else factor.repeat_interleave(block, 1)[:, :time])

    def extra_repr(self) -> str:
        return f"p={self.p}, block={self.block}"


def check_dropout(name: str, p: float) -> None:
    """Refuse what is no probability of being left out.

    Raises:
        ValueError: naming it, if it is not at least 0 and below 1.
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"{name} is {p}, but must be at least 0 and below 1.")


def check_dropouts(**named: float | None) -> None:
    """Refuse the first of some options that is no probability of being left out; None is one that was left open.

    Raises:
        ValueError: naming it.
    """
    for name, p in named.items():
        if p is not None:
            check_dropout(name, p)
