"""Steps that go through their batch twice, as those of SAM: what makes the second pass, and where it cannot be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from musictrain.optim.standing_still import has_gradients


def climbs(optimizer: Any) -> bool:
    """Whether the optimizer wants gradients from another place than where the weights are."""
    return callable(getattr(optimizer, "climb", None)) and callable(getattr(optimizer, "come_down", None))


def in_as_many_passes(optimizer: Any, first: Callable[[], Any] | None, again: Callable[[], None], batches_of_step: int) -> Any:
    """A closure as the optimizer wants it: as it is, or one that leaves the gradients from the worst place near by.

    Args:
        optimizer: Lightning's wrapper will do. If it wants two passes, its weights go there and back.
        first: computes gradients where the weights are; what it gives back is given back.
        again: computes them anew.
        batches_of_step: how many are gathered for a step.

    Raises:
        ValueError: if two passes are wanted and several batches are gathered.
    """
    own = getattr(optimizer, "optimizer", optimizer)
    if first is None or not climbs(own):
        return first
    check_two_passes(own, batches_of_step)

    def closure() -> Any:
        result = first()
        if has_gradients(own):
            own.climb()
            own.zero_grad()
            again()
            own.come_down()
        return result

    return closure


def check_two_passes(optimizer: Optimizer, batches_of_step: int, *, is_scaled: bool = False) -> None:
    """Refuse to go through a step twice where that cannot be right; an optimizer that goes through once is never refused.

    Args:
        optimizer: any.
        batches_of_step: how many are gathered for one.
        is_scaled: whether a gradient scaler is in use.

    Raises:
        ValueError: with what to do.
    """
    if not climbs(optimizer):
        return
    name = type(optimizer).__name__
    if batches_of_step > 1:
        raise ValueError(
            f"{name} goes through a step's batch twice, and this step gathers {batches_of_step} batches, of which only the last is there "
            "to go through again. Set trainer.accumulate_grad_batches to 1; for less memory take model.micro_batches."
        )
    if is_scaled:
        raise ValueError(f"{name} goes through a step twice, which a gradient scaler cannot follow: take precision bf16-mixed or 32-true.")
