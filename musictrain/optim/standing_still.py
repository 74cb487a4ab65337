"""A step without gradients: of an update that was left out, or of weights that are frozen. It is to change nothing at all."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer


class StandsStill(Optimizer):
    """To be put before an optimizer's class: it is not even called where no parameter has a gradient.

    torch's own optimizers count the steps of each parameter. Others count them for a whole group and weigh averages by them, also in steps
    in which nothing was done.
    """

    _behaviour: ClassVar[type]
    """What comes after this class is the optimizer itself. Not ``super()``, since methods are lent to other classes, see ``under``."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """As the optimizer's own ``step``, if there is anything to do; gives back what the closure does."""
        loss = with_gradients(closure)
        if has_gradients(self):
            self._own_step()
        return loss

    def _own_step(self) -> None:
        step: Any = own(self).step
        # What is called here must not call the hooks of a step once more.
        step = functools.partial(step.__wrapped__, self) if getattr(step, "hooked", False) else step
        with _one_by_one(self.param_groups):
            step()


@contextlib.contextmanager
def _one_by_one(groups: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Inside, weights that lie in shares are not moved as lists: not everything is known of lists of those."""
    kept = [(group, group["foreach"]) for group in groups if "foreach" in group and any(map(_is_share, group["params"]))]
    for group, _ in kept:
        group["foreach"] = False
    try:
        yield
    finally:
        for group, foreach in kept:
            group["foreach"] = foreach


def _is_share(tensor: Any) -> bool:
    return hasattr(tensor, "placements")


def with_gradients(closure: Callable[[], Any] | None) -> Any:
    """What a closure gives back that computes gradients; None without one."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def has_gradients(optimizer: Optimizer) -> bool:
    """Whether any of its parameters has one."""
    return any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"])


StandsStill._behaviour = StandsStill


def own(optimizer: Any) -> Any:
    """The optimizer without the behaviour that was put before it."""
    return super(optimizer._behaviour, optimizer)


def under(optimizer: Optimizer, *behaviours: type[Optimizer]) -> None:
    """Let an optimizer behave as if its class had others in front, the last one first of all; nothing changes for one that does already."""
    kind = type(optimizer)
    if all(issubclass(kind, behaviour) for behaviour in behaviours):
        return
    methods = {name: each for behaviour in behaviours for name, each in vars(behaviour).items() if not name.startswith("__")}
    # An object can become one of a class with further methods, but not of one with further bases.
    changed: Any = type(kind.__name__, (kind,), {**methods, "__module__": kind.__module__, "__doc__": kind.__doc__})
    changed._behaviour = changed
    optimizer.__class__ = changed
    optimizer._patch_step_function()  # torch lets the step of each class call the hooks
