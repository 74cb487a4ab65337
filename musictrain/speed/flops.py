"""FLOPs that training needs, of any network, by counting the matrix products of one forward and backward.

Conventions: a multiplication and an addition are two FLOPs; only matrix products and convolutions count; attention counts in full, though
a causal kernel skips half of it (as in PaLM, Chowdhery et al. 2022, appendix B); what activation checkpointing computes twice counts once.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

log = logging.getLogger(__name__)

FEW_WEIGHTS = 10_000_000
"""Up to here a network is really run on one row: many small steps are slow to pretend."""
COUNTED_LENGTHS = 3


class FlopCount:
    """Training FLOPs of a row of tokens, counted once for each length on a copy of the network.

    A small network's copy is run on the CPU, a larger one's is pretended (torch's fake tensors: no memory, no arithmetic); torch's own
    recurrent layers are counted as the matrix products that they are. After three lengths the others come from the parabola through
    them, which is exact for attention. The random numbers of the run are not touched. Where counting fails, 6 FLOPs a weight and token
    are taken for forward and backward, and said to be an estimate.

    Make it before a strategy shards the network: the copy is then that of the whole.

    Args:
        network: maps tokens (batch, time) to logits (batch, time, vocab).
    """

    def __init__(self, network: nn.Module) -> None:
        self.weights = sum(parameter.numel() for parameter in network.parameters())
        self.estimated = False
        self._counted: dict[int, float] = {}
        self._mode = FakeTensorMode(allow_non_fake_inputs=True) if self.weights > FEW_WEIGHTS else None
        self._copy: nn.Module | None = None
        try:
            self._copy = _copy_of(network, self._mode)
        except Exception as error:
            self._give_up(error)

    def of_rows(self, rows_of_length: Mapping[int, int]) -> float:
        """FLOPs of a forward and backward over so many rows of each length."""
        return sum(rows * self.of_row(length) for length, rows in rows_of_length.items())

    def of_row(self, length: int) -> float:
        """FLOPs of a forward and backward over one row of ``length`` tokens."""
        if not self.estimated and length not in self._counted and len(self._counted) < COUNTED_LENGTHS:
            self._count(length)
        if self.estimated:
            return 6.0 * self.weights * length
        return self._counted[length] if length in self._counted else _parabola(self._counted, length)

    def _count(self, length: int) -> None:
        assert self._copy is not None
        try:
            self._counted[length] = _counted_flops(self._copy, length, self._mode)
        except Exception as error:
            self._give_up(error)
        if len(self._counted) == COUNTED_LENGTHS:
            self._copy = None

    def _give_up(self, error: Exception) -> None:
        self.estimated, self._copy = True, None
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        log.info("FLOPs of the network cannot be counted (%s): 6 FLOPs a weight and token are an estimate.", reason)


def _copy_of(network: nn.Module, mode: FakeTensorMode | None) -> nn.Module:
    """A copy on the CPU in training mode and float32, without contents under ``mode``."""
    memo: dict[int, Any] = {}
    with mode or contextlib.nullcontext():
        for tensor in {*network.parameters(), *network.buffers()}:
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            blank = torch.empty(tensor.shape, dtype=dtype) if mode else tensor.detach().to("cpu", dtype, copy=True)
            memo[id(tensor)] = nn.Parameter(blank, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else blank
        twin = copy.deepcopy(network, memo)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.RNNBase):
                setattr(module, name, AllStepsAtOnce(child))
    return twin.train()


def _counted_flops(network: nn.Module, length: int, mode: FakeTensorMode | None) -> float:
    counter = FlopCounterMode(display=False)
    # The plain kernel consists of products that the counter knows, the CPU's fused one it does not.
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), mode or contextlib.nullcontext(), sdpa_kernel(SDPBackend.MATH), counter:
        network(torch.zeros(1, length, dtype=torch.int64)).sum().backward()
    network.zero_grad()
    return float(counter.get_total_flops())


def _parabola(counted: Mapping[int, float], length: int) -> float:
    """Lagrange's polynomial through the counted lengths."""
    total = 0.0
    for here, value in counted.items():
        for there in counted:
            if there != here:
                value *= (length - there) / (here - there)
        total += value
    return total


class AllStepsAtOnce(nn.Module):
    """Stands in for one of torch's recurrent layers while FLOPs are counted: the same matrix products, for all steps together."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, stream: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Output of the layer's shape, and no state."""
        hidden, directions = self.layer.hidden_size, 2 if self.layer.bidirectional else 1
        for number in range(self.layer.num_layers):
            weights = self.layer.all_weights[number * directions : (number + 1) * directions]
            inner = [F.linear(stream, each[0])[..., :hidden] for each in weights]
            stream = torch.cat([F.linear(part, each[1])[..., :hidden] for part, each in zip(inner, weights, strict=True)], -1)
        return stream, None
