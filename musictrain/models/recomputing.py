"""Blocks whose activations are computed again on the way back, instead of being kept: less memory, a third more time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper, checkpoint_wrapper

from musictrain.suggestions import did_you_mean


def blocks_of(network: nn.Module, names: str | Sequence[str] | None = None) -> list[tuple[str, nn.Module]]:
    """The parts a deep network repeats, with their names in it.

    Args:
        network: any module.
        names: dotted names of lists of blocks, or of single ones; None means what the network itself calls ``blocks``: a ModuleList, or
            a list of such names. A network without has no blocks.

    Raises:
        ValueError: for a name that is not in the network.
    """
    if names is None:
        own = getattr(network, "blocks", None)
        names = ["blocks"] if isinstance(own, nn.Module) else list(own or [])
    wanted = [names] if isinstance(names, str) else list(names)
    return [each for name in wanted for each in _named_blocks(network, name)]


def _named_blocks(network: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    try:
        found = network.get_submodule(name)
    except AttributeError:
        known = [known for known, _ in network.named_modules() if known]
        hint = did_you_mean(name, known) or f"It has {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
        raise ValueError(f"{type(network).__name__} has no block {name!r}. {hint}") from None
    if isinstance(found, nn.ModuleList | nn.Sequential):
        return [(f"{name}.{part}", block) for part, block in found.named_children()]
    return [(name, found)]


def recompute(network: nn.Module, names: str | Sequence[str] | None = None) -> int:
    """Let each block forget its activations; gives back how many do. The names in the state dict stay, and so do the results,
    to the bit.

    Random numbers are drawn again as they were drawn.

    Raises:
        ValueError: if the network has no blocks.

    Source: torch's ``checkpoint_wrapper``; Chen et al., Training Deep Nets with Sublinear Memory Cost (2016).
    """
    blocks = blocks_of(network, names)
    if not blocks:
        raise ValueError(
            f"{type(network).__name__} names no blocks whose activations could be computed again. Name them: `blocks` takes the dotted "
            "name of a list in the network, such as transformer.h."
        )
    for name, block in blocks:
        if not isinstance(block, CheckpointWrapper):
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, checkpoint_wrapper(block))
    return len(blocks)
