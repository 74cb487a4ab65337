"""Vitals: what was measured of a run at one step, as plain numbers with names; detectors look at nothing else.

Names and units:

- ``loss`` nats per token of the step's batch, over all ranks; ``gradient_norm`` before clipping; ``learning_rate``
- ``entropy`` of the predictions, nats per token; ``loss_scale`` of 16-bit training
- ``tokens_per_second``; ``data_wait`` the share of the time in which training waited for data; ``memory`` bytes, resident or of the device
- ``rank_seconds/<r>`` seconds that rank r was busy in a step
- ``update_ratio/<parameter>`` norm of the update divided by norm of the weight; ``gradient/<parameter>`` norm of its gradient
- ``dead/<layer>`` and ``saturated/<layer>`` share of units, in [0, 1]
- ``non_finite/loss``, ``non_finite/gradients``, ``non_finite/weights`` 1.0 if any value is nan or infinite, else 0.0
- ``val/...`` as a validation logged it
- ``stage`` the number of what is being trained on: where it changes, what was normal before says nothing any more

A name that was not measured at this step is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any


@dataclass(frozen=True)
class Vitals:
    """What was measured at one step.

    Args:
        step: the optimizer step, counted from the start of the run as its rows count them.
        values: the numbers by name.
        where: for some names the place that they are about: for ``non_finite/weights`` the first parameter that is not finite.
        batch: facts about the step's batch as JSON can hold them: ``number``, ``pieces`` and ``starts`` (of its rows),
            ``unseen_tokens`` (ids that the training set never has), ``silent_beats`` (of its longest window without a note),
            ``window_beats``.
    """

    step: int
    values: Mapping[str, float]
    where: Mapping[str, str] = field(default_factory=dict)
    batch: Mapping[str, Any] = field(default_factory=dict)

    def family(self, name: str) -> Mapping[str, float]:
        """The values whose names begin with ``name/``, by the rest; empty if there are none.

        >>> Vitals(0, {"dead/layers.0": 0.25, "loss": 1.0}).family("dead")
        {'layers.0': 0.25}
        """
        members = self._members.get(name)
        return {member: self.values[full] for full, member in members} if members else {}

    @cached_property
    def _members(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        return members_of(tuple(self.values))


# From step to step the same names come again, and there are many of them.
@lru_cache(maxsize=64)
def members_of(names: tuple[str, ...]) -> Mapping[str, tuple[tuple[str, str], ...]]:
    """By family its names, whole and without the family.

    >>> members_of(("loss", "dead/a"))
    {'dead': (('dead/a', 'a'),)}
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        family, slash, member = name.partition("/")
        if slash:
            found.setdefault(family, []).append((name, member))
    return {family: tuple(members) for family, members in found.items()}
