"""Optimizers that remember nothing of some of their weights, because those have not been trained yet."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator

from torch import nn


@contextlib.contextmanager
def set_aside(named: Iterable[tuple[str, nn.Parameter]], remembered: Collection[str]) -> Iterator[None]:
    """Inside, torch neither makes up a state for weights of which nothing is remembered nor misses one.

    torch's ``set_optimizer_state_dict`` and what loads shares let an optimizer make a step of zeros, so that every weight has a state to be
    filled, and refuse a checkpoint that lacks one. Weights that need no gradient have none.

    Args:
        named: the optimizer's weights, with their names in the checkpoint.
        remembered: names of those that have a state there. Of none at all nothing is set aside: a checkpoint may tell of no states.
    """
    aside = [parameter for name, parameter in named if parameter.requires_grad and name not in remembered] if remembered else []
    for parameter in aside:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in aside:
            parameter.requires_grad_(True)


def names_with_states(keys: Iterable[str], prefix: str) -> set[str]:
    """The weights that flat keys of a checkpoint tell something of.

    >>> sorted(names_with_states(["optimizer_0.state.head.weight.step", "state_dict.head.weight"], "optimizer_0.state."))
    ['head', 'head.weight']
    """
    found: set[str] = set()
    for key in keys:
        if key.startswith(prefix):
            parts = key.removeprefix(prefix).split(".")
            found.update(".".join(parts[:end]) for end in range(1, len(parts)))
    return found
