"""A factory of optimizers that survives copies of the module which holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.optim import Optimizer


class SharedFactory:
    """Makes optimizers; a copy of the module shares it.

    Weight averaging copies the whole module, and what a command line hands over as a factory holds a parser that cannot be copied.
    """

    def __init__(self, make: Callable[[Iterable], Optimizer]) -> None:
        self.make = make

    def __call__(self, groups: Iterable) -> Optimizer:
        return self.make(groups)

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedFactory:
        return self
