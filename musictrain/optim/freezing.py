"""Which weights are left as they are: chosen by patterns on their names.

Conventions: a name is a parameter's in ``named_parameters``, without what activation checkpointing and torch.compile put into it, and
with or without a leading ``network.``. A pattern is a glob, in which ``*`` crosses dots (``blocks.*.attention.*``), or the name of a part,
which stands for all in it (``blocks.0``).
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable

from torch import nn

from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)

WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")
NETWORK = "network."


def plain_name(name: str) -> str:
    """A parameter's name as patterns know it.

    >>> plain_name("network.blocks.0._checkpoint_wrapped_module.norm.weight")
    'blocks.0.norm.weight'
    """
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix(NETWORK)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern stands for a parameter: for its name, or for a part that it lies in.

    >>> matches("blocks.1", "blocks.1.norm.weight"), matches("blocks.1", "blocks.10.norm.weight"), matches("*bias", "head.bias")
    (True, False, True)
    """
    pattern, parts = plain_name(pattern), name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[: end + 1]), pattern) for end in range(len(parts)))


def chosen(module: nn.Module, patterns: Iterable[str], who: str) -> dict[str, dict[str, nn.Parameter]]:
    """The parameters that each pattern stands for, by their plain names; a tied weight under the first of its names.

    Args:
        module: a network, or a module that holds one as ``network``.
        patterns: as they were given.
        who: what they were given to, for the message.

    Raises:
        ValueError: naming a pattern that stands for nothing.
    """
    named = {plain_name(name): parameter for name, parameter in module.named_parameters()}
    also = [(plain_name(name), parameter) for name, parameter in module.named_parameters(remove_duplicate=False)]
    found = {}
    for pattern in patterns:
        ids = {id(parameter) for name, parameter in also if matches(pattern, name)}
        if not ids:
            raise ValueError(f"{who} names {pattern!r}, which stands for no weight of {_called(module)}. {_hint(pattern, named)}")
        found[pattern] = {name: parameter for name, parameter in named.items() if id(parameter) in ids}
    return found


def _called(module: nn.Module) -> str:
    network = getattr(module, "network", None)
    return type(network if isinstance(network, nn.Module) else module).__name__


def _hint(pattern: str, names: Iterable[str]) -> str:
    parts = {".".join(name.split(".")[:end]): None for name in names for end in range(1, 1 + name.count(".") + 1)}
    top = list(dict.fromkeys(name.split(".")[0] for name in names))
    return did_you_mean(plain_name(pattern), parts) or f"Its parts are {', '.join(top[:8])}{', ...' if len(top) > 8 else ''}."


def freeze(module: nn.Module, patterns: Iterable[str]) -> int:
    """Let the weights that patterns stand for be no longer trained; gives back how many they are.

    To be called before a strategy wraps the module. Frozen weights have no gradient, no place in an optimizer and no decay. What a frozen
    part does stays as it is: its dropout drops, and running means of a batch norm run on.

    Raises:
        ValueError: naming a pattern that stands for nothing, or if nothing would be left to train.
    """
    every = list(patterns)
    frozen = {id(each): each for found in chosen(module, every, "frozen").values() for each in found.values()}
    if all(id(parameter) in frozen or not parameter.requires_grad for parameter in module.parameters()):
        raise ValueError(f"frozen {every} stands for every weight of {_called(module)}: nothing would be left to train. Leave one out.")
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    size = sum(parameter.numel() for parameter in frozen.values())
    if frozen:
        log.info("Frozen: %d tensors of %d parameters, by %s.", len(frozen), size, ", ".join(every))
    return size
