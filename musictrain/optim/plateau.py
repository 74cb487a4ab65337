"""Plateau: the learning rate is reduced when a logged value has stopped getting better.

Conventions: everything is counted in validations. The rule is plain Python over plain numbers; ``MusicModule`` shows it each validation's
value and multiplies its schedule by ``PlateauWatch.factor``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plateau:
    """When to reduce the learning rate, and by how much.

    What it is for: runs whose length nobody knows, and fine-tuning, where the right moment to come down differs from corpus to corpus. It
    multiplies the schedule's factor: ``Constant`` with a warm-up is the usual partner. Validations during the schedule's warm-up do not
    count.

    Args:
        monitor: any logged value, such as ``val/loss`` or a score of music; validations that do not log it anew do not count.
        mode: whether it is to become small (``min``) or large (``max``).
        factor: what the rate is multiplied by, in (0, 1).
        patience: validations in a row without an improvement that are borne; the next one reduces the rate.
        min_delta: an improvement is more than this; no less than 0.
        relative: whether ``min_delta`` is a share of the best value's size, else it is in the value's own units.
        cooldown: validations after a reduction that do not count against the run.
        min_fraction: the schedule's factor is never multiplied by less than this, in [0, 1].

    Raises:
        ValueError: if an argument is out of its range.

    Source: the rule of torch's ``ReduceLROnPlateau``; with the same settings it reduces after the same values. Differs from it below 0,
    where torch takes a value for relatively better that is a little worse.
    """

    monitor: str = "val/loss"
    mode: Literal["min", "max"] = "min"
    factor: float = 0.5
    patience: int = 5
    min_delta: float = 1e-4
    relative: bool = True
    cooldown: int = 0
    min_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            hint = did_you_mean(str(self.mode), ("min", "max"))
            raise ValueError(f"Plateau got mode={self.mode!r}, expected 'min' or 'max'. {hint}".rstrip())
        if not 0.0 < self.factor < 1.0:
            raise ValueError(f"Plateau got factor={self.factor}, expected a number between 0 and 1: the rate is multiplied by it.")
        if not 0.0 <= self.min_fraction <= 1.0:
            raise ValueError(f"Plateau got min_fraction={self.min_fraction}, expected a share in [0, 1].")
        if not self.min_delta >= 0.0:
            raise ValueError(f"Plateau got min_delta={self.min_delta}, expected 0 or more.")
        for name in ("patience", "cooldown"):
            if getattr(self, name) < 0:
                raise ValueError(f"Plateau got {name}={getattr(self, name)}, expected 0 or more validations.")

    def improves(self, value: float, best: float | None) -> bool:
        """Whether ``value`` is better than ``best`` by more than ``min_delta``; nan and infinity never are, else anything beats nothing."""
        if best is None or not math.isfinite(value):
            return math.isfinite(value)
        sign = 1.0 if self.mode == "max" else -1.0
        if self.relative:
            # Below 0 the same share points the other way: what is a little worse than -1 is no improvement on it.
            share = self.min_delta if best >= 0.0 else -self.min_delta
            return sign * value > sign * best * (1.0 + sign * share)
        return sign * value > sign * best + self.min_delta


class PlateauWatch:
    """What a plateau rule remembers from one validation to the next.

    Args:
        rule: the configured one; a state that is loaded never changes it.

    Attributes:
        factor: what the schedule's factor is multiplied by.
        best: best value so far, None before the first.
        waited: validations in a row without an improvement.
        cooling: validations left that do not count.
        is_noted: whether ``note`` has been called since the last validation.
    """

    def __init__(self, rule: Plateau) -> None:
        self.rule = rule
        self.factor = 1.0
        self.best: float | None = None
        self.waited = 0
        self.cooling = 0
        self.is_noted = False
        self._counted: Any = None

    def note(self, logged: Mapping[str, Any]) -> None:
        """Once after each validation and each resume, before the next: the value that stands there now has been counted."""
        self._counted, self.is_noted = logged.get(self.rule.monitor), True

    def heard(self, logged: Mapping[str, Any], callbacks: Iterable[Any] = ()) -> float | str | None:
        """The watched value, if it was logged anew; None if it was not, or is a score that had nothing to measure.

        If nobody has logged it, and none of the callbacks has it among its ``score_names``, which come when there is time, a sentence
        that says so.
        """
        self.is_noted = False
        name, value = self.rule.monitor, logged.get(self.rule.monitor)
        to_come = {score for callback in callbacks for score in getattr(callback, "score_names", ())}
        if value is None and name not in to_come:
            known = sorted({*logged, *to_come})
            hint = did_you_mean(name, known) or "Log the value in validation, or name one of the logged ones in `monitor`."
            return f"Plateau watches {name!r}, but this run logged {known}. {hint}"
        # A new tensor is made for each value that is logged.
        if value is None or value is self._counted or (name in to_come and math.isnan(value)):
            return None
        return float(value)

    def look(self, trainer: Any) -> None:
        """After a validation: see the watched value, the same on every rank, and reduce the learning rates of Lightning's ``trainer``.

        Raises:
            ValueError: if nobody logs the value.
        """
        # The first rank's word counts: a value need be neither the same on every rank nor logged by all of them.
        value = trainer.strategy.broadcast(self.heard(trainer.callback_metrics, trainer.callbacks))
        if isinstance(value, str):
            raise ValueError(value)
        if value is not None and self.see(value):
            log.info("No better %s in %d validations: the schedule's learning rate is now multiplied by %g",
                     self.rule.monitor, self.rule.patience + 1, self.factor)  # fmt: skip
            for config in trainer.lr_scheduler_configs:
                set_learning_rates(config.scheduler)

    def see(self, value: float) -> bool:
        """Take in one validation's value; whether the rate was reduced."""
        if self.rule.improves(value, self.best):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.cooling > 0:
            self.cooling, self.waited = self.cooling - 1, 0
        if self.waited <= self.rule.patience:
            return False
        self.cooling, self.waited = self.rule.cooldown, 0
        before, self.factor = self.factor, max(self.factor * self.rule.factor, min(self.factor, self.rule.min_fraction))
        return self.factor < before

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        watched = {"monitor": self.rule.monitor, "mode": self.rule.mode}
        return {**watched, "factor": self.factor, "best": self.best, "waited": self.waited, "cooling": self.cooling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; the best of another value, or in another direction, is forgotten, the reductions are not."""
        self.factor = float(state["factor"])
        if (state["monitor"], state["mode"]) == (self.rule.monitor, self.rule.mode):
            self.best, self.waited, self.cooling = state["best"], int(state["waited"]), int(state["cooling"])


def set_learning_rates(scheduler: Any) -> None:
    """Lay every group's learning rate anew by the factor that a ``LambdaLR`` gives now, without waiting for the next step."""
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    rates = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    scheduler._last_lr = rates
