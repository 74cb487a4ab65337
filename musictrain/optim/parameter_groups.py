"""Which parameters decay: matrices do, norms, biases and embeddings do not; and which learn slower."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from musictrain.optim.layer_decay import LR_SCALE, LayerDecay, places

NO_DECAY_MODULES: tuple[type[nn.Module], ...] = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
    nn.LocalResponseNorm,
)


def parameter_groups(
    network: nn.Module,
    weight_decay: float | None = None,
    *,
    layer_decay: float | LayerDecay = 1.0,
    matrices: Collection[int] = (),
) -> list[dict[str, Any]]:
    """The network's trainable parameters as optimizer groups named ``decay`` and ``no_decay``; a group without parameters is left out.

    A parameter decays if it has two or more dimensions, is no bias by name and belongs to no norm and no embedding. A tied weight
    stands in one group, once; tied to an embedding, it does not decay. Frozen parameters stand in none.

    Under layer-wise decay every depth has groups of its own, ``decay/blocks.0``, the head's first and so those with the whole rate; each
    keeps its factor as ``lr_scale``. ``scale_learning_rates`` applies it once the optimizer is made.

    Args:
        network: any module.
        weight_decay: decay of the first group; None leaves it to the optimizer's own ``weight_decay``. The group ``no_decay`` has 0.
        layer_decay: how much slower what lies deeper learns; 1 is not at all. See ``LayerDecay``.
        matrices: the ``id`` of parameters that stand in a group ``matrices``, before the others, for optimizers that treat them otherwise.

    Raises:
        ValueError: if nothing in the network can be trained, or layer-wise decay finds no blocks.
    """
    decay = LayerDecay.of(layer_decay)
    spared = {id(parameter) for module in network.modules() for parameter in _spared(module)}
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError(f"{type(network).__name__} has no trainable parameter: unfreeze a layer, or give another network.")
    if decay.factor == 1.0:
        return _groups(trainable, spared, matrices, weight_decay)
    place_of = places(network, decay)
    return [
        {**group, "name": f"{group['name']}/{place.name}", LR_SCALE: place.scale}
        for place in sorted(set(place_of.values()), key=lambda place: -place.level)
        for group in _groups([each for each in trainable if place_of[id(each)] == place], spared, matrices, weight_decay)
    ]


def _groups(
    parameters: list[nn.Parameter], spared: Collection[int], matrices: Collection[int], weight_decay: float | None
) -> list[dict[str, Any]]:
    given = {} if weight_decay is None else {"weight_decay": weight_decay}
    kinds: dict[str, dict[str, Any]] = {
        "matrices": {"name": "matrices", "params": [], **given},
        "decay": {"name": "decay", "params": [], **given},
        "no_decay": {"name": "no_decay", "params": [], "weight_decay": 0.0},
    }
    for parameter in parameters:
        kind = "matrices" if id(parameter) in matrices else "no_decay" if id(parameter) in spared else "decay"
        kinds[kind]["params"].append(parameter)
    return [group for group in kinds.values() if group["params"]]


def _spared(module: nn.Module) -> Iterable[nn.Parameter]:
    """The module's own parameters that do not decay."""
    named = module.named_parameters(recurse=False)
    return [p for name, p in named if p.ndim < 2 or "bias" in name or isinstance(module, NO_DECAY_MODULES)]


def describe_groups(groups: Iterable[dict[str, Any]]) -> str:
    """One line a group for the log: its name, tensors, parameters, learning rate and decay as far as they are known."""
    every = list(groups)
    width = max((len(_name(group)) for group in every), default=0)
    return "\n".join(_describe(group, max(8, width)) for group in every)


def _describe(group: dict[str, Any], width: int) -> str:
    size = sum(parameter.numel() for parameter in group["params"])
    options = [f"{name} {group[key]:g}" for name, key in (("learning rate", "lr"), ("weight decay", "weight_decay")) if key in group]
    if (scale := group.get(LR_SCALE, 1.0)) != 1.0 and "lr" in group:
        options[0] += f" ({scale:.3g} of the whole)"
    return ", ".join([f"{_name(group):<{width}} {len(group['params']):>4} tensors, {size:>12,} parameters", *options])


def _name(group: dict[str, Any]) -> str:
    return str(group.get("name", "parameters"))
