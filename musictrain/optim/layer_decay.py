"""Layer-wise learning-rate decay: what lies deeper learns slower, for fine-tuning that keeps what was learned before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from musictrain.models.recomputing import blocks_of

LR_SCALE = "lr_scale"
"""Key of an optimizer's group: the factor on its learning rate."""
EMBEDDINGS, HEAD = "embeddings", "head"
RECURRENT_LAYER = re.compile(r"_l(\d+)(?:_reverse)?$")


@dataclass(frozen=True)
class LayerDecay:
    """Each block learns ``factor`` times as fast as the one above it.

    The rule: of L blocks the last has the learning rate times ``factor``, the first ``factor ** L``; what lies above the last block (the
    head, the last norm) has all of it, what lies beneath the first ``factor ** (L + 1)``. Beneath are embeddings, wherever they are made,
    and what the network makes before its first block; above is what it makes after its last; what it makes between two belongs to the one
    before. Where nothing lies above the last block, that one is the head. Layers of torch's recurrent modules are blocks. A tied weight
    counts where it lies deepest.

    Args:
        factor: in (0, 1]; 1 is off.
        blocks: dotted names of the network's lists of blocks, from the deepest up, such as ``transformer.h``; None means what the network
            itself calls ``blocks``.

    Raises:
        ValueError: if ``factor`` is outside its range.

    Source: Howard & Ruder, ULMFiT (ACL 2018), "discriminative fine-tuning"; by powers of one factor as in ELECTRA (2020) and BEiT (2022).
    """

    factor: float = 0.8
    blocks: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.factor <= 1.0:
            raise ValueError(f"layer_decay is {self.factor}, expected a factor above 0 and at most 1, such as 0.8; 1 is off.")

    @classmethod
    def of(cls, given: float | LayerDecay) -> LayerDecay:
        """A number is a factor for the network's own ``blocks``."""
        return given if isinstance(given, LayerDecay) else cls(float(given))


@dataclass(frozen=True)
class Place:
    """Where in the depth of a network a parameter lies.

    Args:
        level: 0 for the deepest, L + 1 above all L blocks.
        name: ``embeddings``, the block's, or ``head``.
        scale: factor on the learning rate.
    """

    level: int
    name: str
    scale: float


def places(network: nn.Module, decay: LayerDecay) -> dict[int, Place]:
    """The place of every parameter of a network, by its ``id``.

    Raises:
        ValueError: if the network has no blocks, or none of a name that is given.
    """
    blocks = [part for name, block in blocks_of(network, decay.blocks) for part in _parts(name, block)]
    if not blocks:
        raise ValueError(
            f"{type(network).__name__} names no blocks to tell what lies deeper. Name them: layer_decay: "
            f"{{factor: {decay.factor:g}, blocks: [transformer.h]}}, with the dotted names of lists in the network."
        )
    names = [EMBEDDINGS, *(name for name, _ in blocks), HEAD]
    levels = _levels(network, [ids for _, ids in blocks])
    top = max(levels.values())
    return {key: Place(level, names[level], decay.factor ** (top - level)) for key, level in levels.items()}


def _parts(name: str, block: nn.Module) -> Iterator[tuple[str, set[int]]]:
    """A block's parameters; of a recurrent module those of each layer."""
    named = list(block.named_parameters())
    layers = [found and int(found[1]) for found in (RECURRENT_LAYER.search(each) for each, _ in named)]
    if not isinstance(block, nn.RNNBase):
        yield name, {id(parameter) for _, parameter in named}
        return
    for layer in range(block.num_layers):
        yield f"{name}.{layer}", {id(parameter) for (_, parameter), at in zip(named, layers, strict=True) if at == layer}


def _levels(network: nn.Module, blocks: list[set[int]]) -> dict[int, int]:
    of_block = {key: level for level, ids in reversed(list(enumerate(blocks, start=1))) for key in ids}
    embeddings = {
        id(each) for part in network.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag) for each in part.parameters(False)
    }
    made = [id(parameter) for _, parameter in network.named_parameters(remove_duplicate=False)]
    last = max((position for position, key in enumerate(made) if key in of_block), default=-1)
    levels: dict[int, int] = {}
    passed = 0
    for position, key in enumerate(made):
        if key in of_block:
            passed = level = of_block[key]
        elif key in embeddings:
            level = 0
        else:
            level = passed if position < last else len(blocks) + 1
        levels[key] = min(level, levels.get(key, level))
    return levels


def scale_learning_rates(optimizer: Any) -> None:
    """Multiply the learning rate of every group that has an ``lr_scale`` by it: once, before a schedule takes the rates for its own."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * group.get(LR_SCALE, 1.0)
