"""A moving average of weights that lie in shares: every process averages its own, and none ever holds the whole.

Conventions: as torch's ``AveragedModel``, whose place it takes where a module cannot be copied: the first update copies, buffers are
averaged or copied, the arithmetic is that of ``avg_fn`` on plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from musictrain.checkpoints.consolidating import RAW, tied_names
from musictrain.checkpoints.sharded_saving import local, spread_like

# What activation checkpointing and torch.compile put into names, and no state_dict has.
WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


class ShardedAverage:
    """The average of a module's parameters and buffers, by their names.

    Args:
        module: in shares already.
        avg_fn: ``(average, current, number of averaged) -> average``.
        use_buffers: whether buffers are averaged too; otherwise the newest are kept.
        device: of the average; None for where the weights are.
    """

    def __init__(self, module: nn.Module, avg_fn: Callable[..., Tensor], use_buffers: bool = True, device: Any = None) -> None:
        self.n_averaged = torch.tensor(0)
        self._avg_fn, self._use_buffers = avg_fn, use_buffers
        self._average = {name: local(each).to(device or each.device, copy=True) for name, each in named_tensors(module)}

    @torch.no_grad()
    def update_parameters(self, module: nn.Module) -> None:
        """Take in the weights as they are now."""
        parameters = {clean(name) for name, _ in module.named_parameters()}
        for name, tensor in named_tensors(module):
            average, now = self._average[name], local(tensor).to(self._average[name].device)
            copied = bool(self.n_averaged == 0) or not (self._use_buffers or name in parameters)
            average.copy_(now if copied else self._avg_fn(average, now, self.n_averaged))
        self.n_averaged += 1

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange the average and the module's weights."""
        for name, tensor in named_tensors(module):
            before = local(tensor).clone()
            local(tensor).copy_(self._average[name])
            self._average[name].copy_(before)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Give the module the average."""
        for name, tensor in named_tensors(module):
            local(tensor).copy_(self._average[name])

    @torch.no_grad()
    def take(self, module: nn.Module, weights: Mapping[str, Tensor] | None = None, number: Tensor | None = None) -> None:
        """Begin again with some weights, whole ones by their names in a state_dict; None for those of the module."""
        for name, tensor in named_tensors(module):
            if weights is None or name in weights:
                self._average[name].copy_(local(tensor if weights is None else spread_like(weights[name], tensor)))
        self.n_averaged.copy_(torch.tensor(0) if number is None else number)

    def state(self, module: nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The average under the names of the module's ``state_dict``, in shares as the module's weights are."""
        tensors, ties = dict(named_tensors(module)), {clean(name): clean(first) for name, first in tied_names(module).items()}
        state = dict(state_dict)
        for name in state_dict:
            if (known := ties.get(name, name)) in tensors:
                state[name] = like(self._average[known], tensors[known])
        return state


def clean(name: str) -> str:
    """A parameter's name as a state_dict has it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers; those that FSDP has gathered for a pass are let go first, for what is written into them is lost."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    yield from ((clean(name), each.detach()) for name, each in module.named_parameters())
    yield from ((clean(name), each) for name, each in module.named_buffers())


def like(share: Tensor, other: Tensor) -> Tensor:
    """A share as the part of a whole that another tensor's share is."""
    if not isinstance(other, DTensor):
        return share
    share = share.to(other.to_local().device)
    return DTensor.from_local(share, other.device_mesh, other.placements, run_check=False, shape=other.shape, stride=other.stride())


def load_raw(module: nn.Module, folder: str | Path) -> None:
    """Give a module the raw weights that a sharded version holds beside its average; all processes call it.

    The version must have been verified: torch unpickles what describes it.
    """
    stored = {clean(name) for name in module.state_dict()}
    dcp.load({"state_dict": {RAW + name: each for name, each in named_tensors(module) if name in stored}}, checkpoint_id=folder)
