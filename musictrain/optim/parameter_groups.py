"""Which parameters decay: matrices do, norms, biases and embeddings do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

NO_DECAY_MODULES: tuple[type[nn.Module], ...] = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
    nn.LocalResponseNorm,
)


def parameter_groups(network: nn.Module, weight_decay: float | None = None) -> list[dict[str, Any]]:
    """The network's trainable parameters as optimizer groups named ``decay`` and ``no_decay``; a group without parameters is left out.

    A parameter decays if it has two or more dimensions, is no bias by name and belongs to no norm and no embedding. A tied weight
    stands in one group, once; tied to an embedding, it does not decay. Frozen parameters stand in none.

    Args:
        network: any module.
        weight_decay: decay of the first group; None leaves it to the optimizer's own ``weight_decay``. The second group's is always 0.

    Raises:
        ValueError: if nothing in the network can be trained.
    """
    spared = {id(parameter) for module in network.modules() for parameter in _spared(module)}
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(f"{type(network).__name__} has no trainable parameter: unfreeze a layer, or give another network.")
    decay: dict[str, Any] = {"name": "decay", "params": [p for p in trainable if id(p) not in spared]}
    if weight_decay is not None:
        decay["weight_decay"] = weight_decay
    no_decay = {"name": "no_decay", "params": [p for p in trainable if id(p) in spared], "weight_decay": 0.0}
    return [group for group in (decay, no_decay) if group["params"]]


def _spared(module: nn.Module) -> Iterable[nn.Parameter]:
    """The module's own parameters that do not decay."""
    named = module.named_parameters(recurse=False)
    return [p for name, p in named if p.ndim < 2 or "bias" in name or isinstance(module, NO_DECAY_MODULES)]


def describe_groups(groups: Iterable[dict[str, Any]]) -> str:
    """One line a group for the log: its name, tensors, parameters, learning rate and decay as far as they are known."""
    return "\n".join(_describe(group) for group in groups)


def _describe(group: dict[str, Any]) -> str:
    size = sum(parameter.numel() for parameter in group["params"])
    options = [f"{name} {group[key]:g}" for name, key in (("learning rate", "lr"), ("weight decay", "weight_decay")) if key in group]
    return ", ".join([f"{group.get('name', 'parameters'):<8} {len(group['params']):>4} tensors, {size:>12,} parameters", *options])
