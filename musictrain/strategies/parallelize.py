"""Spreads a network over a mesh of devices: tensor parallelism by the plan it declares, then FSDP2 block by block.

A network declares two things, both of which any module can:

- ``blocks``: what it repeats (a ModuleList, or dotted names); each block becomes one unit that is gathered, used and let go again.
- ``tensor_parallel_plan(size)``: which linear layers are split, ``{"blocks.*.attention.query": "colwise", ...}``, and which modules hold
  several that read the same, ``"shared_input"``; the words are those of ``STYLES``, or torch's ParallelStyle objects. It raises ValueError
  where the network cannot be split over ``size`` devices.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from musictrain.models.recomputing import blocks_of
from musictrain.suggestions import did_you_mean


class SharedInput(ParallelStyle):
    """Whatever several split layers of a module read: its first argument, whole on every device.

    Each layer would otherwise add up the gradient of its input by itself: three times for query, key and value, here once.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def share(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (DTensor.from_local(inputs[0], device_mesh, (Replicate(),), run_check=False), *inputs[1:])

        module.register_forward_pre_hook(share)
        return module


STYLES: dict[str, Callable[[], ParallelStyle]] = {
    # A linear layer's outputs are dealt out; what follows works on its share of the channels.
    "colwise": ColwiseParallel,
    # The same, and the outputs are put together again.
    "colwise_gathered": lambda: ColwiseParallel(output_layouts=Replicate()),
    # A linear layer's inputs are dealt out; the partial sums are added up.
    "rowwise": RowwiseParallel,
    # A module that holds several of them, and adds up the gradients of what they read once.
    "shared_input": SharedInput,
}


def is_parallel(module: nn.Module) -> bool:
    """Whether some weight is spread over devices already."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def same_everywhere(module: nn.Module, source: int = 0) -> None:
    """Give every rank the weights and buffers of one: shares of networks that began differently would make a patchwork."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.device.type != "meta":
                torch.distributed.broadcast(tensor.data, src=source)


def split_tensors(network: nn.Module, mesh: DeviceMesh) -> None:
    """Split the layers of the network's plan over a mesh of one dimension.

    Raises:
        ValueError: as ``plan_of``.
    """
    parallelize_module(network, mesh, plan_of(network, mesh.size()))


def plan_of(network: nn.Module, size: int) -> dict[str, ParallelStyle]:
    """The network's plan for ``size`` devices, as torch takes it.

    Raises:
        ValueError: if the network declares none, its plan names what it does not have, or a layer cannot be split so often.
    """
    declare = getattr(network, "tensor_parallel_plan", None)
    if declare is None:
        raise ValueError(
            f"{type(network).__name__} declares no tensor_parallel_plan, so its layers cannot be split over {size} devices. "
            "Use the strategy ddp or fsdp; or let the network declare which linear layers are split: a method tensor_parallel_plan(size) "
            "that gives {'blocks.*.attention.query': 'colwise', 'blocks.*.attention.output': 'rowwise', ...}."
        )
    plan = {name: style_of(name, style) for name, style in declare(size).items()}
    check_plan(network, plan, size)
    return plan


def style_of(name: str, style: Any) -> ParallelStyle:
    """A plan's entry as torch's object.

    Raises:
        ValueError: for an unknown word.
    """
    if isinstance(style, ParallelStyle):
        return style
    if style not in STYLES:
        hint = did_you_mean(str(style), list(STYLES)) or f"Known are {', '.join(STYLES)}."
        raise ValueError(f"tensor_parallel_plan says {style!r} for {name!r}. {hint}")
    return STYLES[style]()


def check_plan(network: nn.Module, plan: Mapping[str, ParallelStyle], size: int) -> None:
    """Refuse a plan that torch would pass over in silence or fail on in the first step.

    Raises:
        ValueError: naming the layer.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    for pattern, style in plan.items():
        found = [module for name, module in modules.items() if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"tensor_parallel_plan names {pattern!r}, which {type(network).__name__} does not have.")
        for module in found if not isinstance(style, SharedInput) else []:
            width = getattr(module, "in_features" if isinstance(style, RowwiseParallel) else "out_features", 0)
            if width % size:
                raise ValueError(f"{pattern} is {width} wide, which cannot be split evenly over {size} devices: choose sizes that can.")


def shard(
    network: nn.Module, mesh: DeviceMesh, *, blocks: str | Sequence[str] | None = None, gather_dtype: torch.dtype | None = None
) -> None:
    """FSDP2: weights, gradients and optimizer states lie in shares over a mesh of one dimension.

    Args:
        network: its parameters, those that are split already too.
        mesh: of the devices that read different data.
        blocks: see ``blocks_of``; what is in none of them is one more unit.
        gather_dtype: precision in which weights are gathered and gradients computed; None for their own. They are summed in 32 bits.

    Source: torch's ``fully_shard``; Zhao et al., PyTorch FSDP (2023).
    """
    policy = MixedPrecisionPolicy(param_dtype=gather_dtype, reduce_dtype=torch.float32 if gather_dtype is not None else None)
    for _, block in blocks_of(network, blocks):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
