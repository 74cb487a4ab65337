"""How many batches an optimizer step gathers, as a pure function of the step's number.

A rule is a number of batches for each step from which it holds on. Who trains asks :func:`rule_of` for the rule of a Trainer: that of the
callback which has one (an attribute ``rule`` of this type), else the trainer's constant ``accumulate_grad_batches``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AccumulationRule:
    """Batches of a step, by the number of optimizer steps before it.

    Args:
        batches: from which step on, how many batches each step gathers; step 0 is among them.

    Raises:
        ValueError: if that is no such schedule.

    >>> rule = AccumulationRule({0: 1, 500: 4})
    >>> rule.at(499), rule.at(500)
    (1, 4)
    """

    batches: Mapping[int, int]

    def __post_init__(self) -> None:
        check_schedule("batches", self.batches)
        object.__setattr__(self, "batches", dict(sorted(self.batches.items())))

    @classmethod
    def of_tokens(cls, tokens: Mapping[int, int], tokens_per_batch: int) -> AccumulationRule:
        """The rule by which a step sees so many tokens.

        Args:
            tokens: from which step on, how many tokens a step sees, over all ranks, padding included.
            tokens_per_batch: tokens of one batch, over all ranks.

        Raises:
            ValueError: if tokens are no whole number of batches, naming the nearest that are.
        """
        check_schedule("global_batch_tokens", tokens)
        for wanted in tokens.values():
            if wanted % tokens_per_batch:
                raise ValueError(_uneven(wanted, tokens_per_batch))
        return cls({step: wanted // tokens_per_batch for step, wanted in tokens.items()})

    def at(self, step: int) -> int:
        """Batches of the step that ``step`` steps came before."""
        return self.batches[max(begin for begin in self.batches if begin <= step)]

    def multiple_within(self, batches: float) -> int:
        """The least number of batches that every step's number divides, or if that is beyond ``batches``, the number that holds last."""
        everyone = math.lcm(*self.batches.values())
        return everyone if everyone <= batches else self.batches[max(self.batches)]

    def steps_of(self, batches_per_epoch: int, epochs: int) -> int:
        """Steps of so many epochs; at the end of each a step takes what is left."""
        step = 0
        for _ in range(epochs):
            left = batches_per_epoch
            while left > 0:
                until_change = [change - step for change in self.batches if change > step]
                steps = min([-(-left // self.at(step)), *until_change])
                left, step = left - steps * self.at(step), step + steps
        return step


def check_schedule(name: str, schedule: Mapping[int, int]) -> None:
    """Refuse what is no schedule over optimizer steps.

    Raises:
        ValueError: if it does not begin at step 0, or a step or number is out of its range.
    """
    whole = all(isinstance(number, int) and not isinstance(number, bool) for pair in schedule.items() for number in pair)
    if not whole or 0 not in schedule or min(schedule) < 0 or min(schedule.values()) < 1:
        raise ValueError(
            f"{name} got {dict(schedule)}, expected a number of at least 1, or such numbers by the optimizer step from which each holds, "
            "beginning with step 0, such as {0: 1, 500: 4}."
        )


def rule_of(trainer: Any) -> AccumulationRule:
    """By which rule a Lightning Trainer steps; a callback that does not know its rule yet counts as none."""
    for callback in trainer.callbacks:
        if isinstance(rule := getattr(callback, "rule", None), AccumulationRule):
            return rule
    return AccumulationRule({0: trainer.accumulate_grad_batches})


def steps_of_run(trainer: Any) -> int | None:
    """Optimizer steps until the trainer stops by ``max_steps`` or ``max_epochs``; None without a limit. The loaders must be there.

    Not ``trainer.estimated_stepping_batches``: asked for in ``configure_optimizers`` it makes the loaders before the checkpoint is
    read, and what the checkpoint knew of their position is discarded in silence.
    """
    limits = [trainer.max_steps] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and math.isfinite(trainer.num_training_batches):
        limits.append(rule_of(trainer).steps_of(int(trainer.num_training_batches), trainer.max_epochs))
    return min(limits, default=None)


def _uneven(wanted: int, tokens_per_batch: int) -> str:
    below = wanted // tokens_per_batch * tokens_per_batch
    nearest = " or ".join(f"{number:,}" for number in (below, below + tokens_per_batch) if number)
    return (
        f"global_batch_tokens={wanted:,} is no whole number of batches: a batch has {tokens_per_batch:,} tokens over all ranks (window "
        f"times batch_size). Take {nearest}, or change batch_size."
    )
