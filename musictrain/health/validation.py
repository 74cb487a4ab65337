"""ValidationDrift and MusicalCollapse: what validations say that the training loss does not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from musictrain.health.detector import NOTHING, Action, IncidentDetector, Settings
from musictrain.health.finding import Finding
from musictrain.health.vitals import Vitals


@dataclass(frozen=True, kw_only=True)
class ValidationDrift(Settings):
    """A validation loss that rises while the training loss does not.

    Looks at ``val/loss`` where a validation logged it anew, and at ``loss``. Found after ``patience`` validations in a row that lie
    above the lowest so far by ``margin`` of it. Where the training loss has risen too, by as large a share, it is no drift but something
    for ``Divergence``, and nothing is said.

    Args:
        metric: the name of the validation loss; lower is better.
        margin: share.
        patience: validations in a row.
        smoothing: steps over which the training loss is averaged.
    """

    kind: ClassVar[str] = "validation_drift"
    action: Action = "alert"
    metric: str = "val/loss"
    margin: float = 0.05
    patience: int = 3
    smoothing: int = 50
    calm: int = 1

    def detector(self) -> ValidationDriftDetector:
        """A detector that has seen nothing yet."""
        return ValidationDriftDetector(self)


@dataclass(frozen=True)
class Bound:
    """What a score of the music does not cross while a model is well.

    Args:
        above: a value above it is a collapse; None for no such bound.
        below: likewise.
        words: what that is, for people.

    Raises:
        ValueError: if it has no bound at all.
    """

    above: float | None = None
    below: float | None = None
    words: str = ""

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError("A Bound got neither above nor below; it needs one of them.")

    def excess(self, value: float) -> float:
        """By how much it is crossed; 0 or less if it is not."""
        over = -math.inf if self.above is None else value - self.above
        under = -math.inf if self.below is None else self.below - value
        return max(over, under)


def usual_bounds() -> dict[str, Bound]:
    """Of the scores that SampleAndScore logs: Bach's chorales and fiddle tunes lie far inside of all of them.

    >>> round(usual_bounds()["val/bar_repetition"].excess(0.75), 3)
    0.05
    """
    return {
        "val/bar_repetition": Bound(above=0.7, words="the samples run in a loop"),
        "val/empty_bar_rate": Bound(above=0.7, words="the samples are mostly held notes or silence"),
        "val/pitch_class_entropy": Bound(below=1.0, words="the samples use one or two pitch classes"),
        "val/token_validity": Bound(below=0.9, words="what is expected breaks the tokenizer's grammar"),
    }


@dataclass(frozen=True, kw_only=True)
class MusicalCollapse(Settings):
    """Samples that have fallen into loops, silence or a single note.

    Looks at the scores that SampleAndScore logs, if it does, where a validation has logged them anew. Found after ``patience`` scored
    validations in a row beyond a bound that an earlier one kept, or, where none ever kept it, after ``grace`` validations.

    Args:
        bounds: by the name of the score.
        patience: scored validations in a row.
        grace: validations within which a network that has just begun may play what it likes.
    """

    kind: ClassVar[str] = "musical_collapse"
    action: Action = "alert"
    bounds: dict[str, Bound] = field(default_factory=usual_bounds)
    patience: int = 2
    grace: int = 20
    calm: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = {name: Bound(**one) if isinstance(one, Mapping) else one for name, one in self.bounds.items()}  # a configuration's
        object.__setattr__(self, "bounds", bounds)

    def detector(self) -> MusicalCollapseDetector:
        """A detector that has seen nothing yet."""
        return MusicalCollapseDetector(self)


class ValidationDriftDetector(IncidentDetector[ValidationDrift]):
    """Finds a validation loss that rises alone."""

    def __init__(self, settings: ValidationDrift) -> None:
        super().__init__(settings)
        self._train = math.nan
        self._best = self._train_at_best = math.nan
        self._best_step = self._high = 0

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """Whether the validation loss rises alone."""
        loss, value, settings = vitals.values.get("loss", math.nan), vitals.values.get(self.settings.metric, math.nan), self.settings
        if math.isfinite(loss):
            self._train = loss if math.isnan(self._train) else self._train + (loss - self._train) / settings.smoothing
        if not math.isfinite(value):
            return None
        if not value >= self._best:  # or the first
            self._best, self._best_step, self._train_at_best, self._high = value, vitals.step, self._train, 0
            return NOTHING
        risen = self._train - self._train_at_best > settings.margin * abs(self._train_at_best)
        self._high = self._high + 1 if value - self._best > settings.margin * abs(self._best) and not risen else 0
        return {"": self._finding(vitals.step, value)} if self._high >= settings.patience else NOTHING

    def _finding(self, step: int, value: float) -> Finding:
        score = (value - self._best) / max(abs(self._best), 1e-30)
        train = f", while the training loss went from {self._train_at_best:.4g} to {self._train:.4g}" if self._train == self._train else ""
        return Finding(
            *(self.settings.kind, step, self.settings.metric, "", value, self._best, score),
            "It learns its pieces by heart: take the best version, stop earlier, or raise dropout, weight decay or transposition.",
            f"that was at step {self._best_step:,}, it lies {100 * score:.0f} % above it since {self._high} validations{train}",
            details={"best_step": self._best_step},
        )

    def own_state(self) -> dict[str, Any]:
        """The best so far."""
        # Not nan, which is not equal to itself: a state that was written and read is the one that was written.
        losses = {"train": self._train, "best": self._best, "train_at_best": self._train_at_best}
        known = {name: None if math.isnan(loss) else loss for name, loss in losses.items()}
        return {**known, "best_step": self._best_step, "high": self._high}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        losses = [state[name] for name in ("train", "best", "train_at_best")]
        self._train, self._best, self._train_at_best = (math.nan if loss is None else float(loss) for loss in losses)
        self._best_step, self._high = int(state["best_step"]), int(state["high"])


class MusicalCollapseDetector(IncidentDetector[MusicalCollapse]):
    """Finds scores of the music that have crossed their bounds."""

    def __init__(self, settings: MusicalCollapse) -> None:
        super().__init__(settings)
        self._kept: dict[str, int] = {}  # whether it was kept once
        self._beyond: dict[str, int] = {}

    def look(self, vitals: Vitals) -> Mapping[str, Finding] | None:
        """The scores beyond their bounds."""
        if not vitals.family("val"):
            return None
        found, scored = {}, False
        for name, bound in self.settings.bounds.items():
            value = vitals.values.get(name, math.nan)
            if not math.isfinite(value):
                continue
            scored = True
            if bound.excess(value) <= 0:
                self._kept[name], self._beyond[name] = 1, 0
                continue
            self._beyond[name] = beyond = self._beyond.get(name, 0) + 1
            if beyond >= (self.settings.patience if self._kept.get(name) else self.settings.grace):
                found[name] = self._finding(name, bound, value, vitals.step)
        return (found or NOTHING) if scored else None

    def _finding(self, name: str, bound: Bound, value: float, step: int) -> Finding:
        excess = bound.excess(value)
        normal = bound.above if bound.above is not None and value > bound.above else bound.below
        assert normal is not None
        side = "above" if value > normal else "below"
        return Finding(
            *(self.settings.kind, step, name, "", value, math.nan, excess / max(abs(normal), 1e-30)),
            "Listen to the samples of this step. Sample with a higher temperature or top_p, or take an earlier version.",
            f"{side} {normal:g} in {self._beyond[name]} scored validations in a row: {bound.words}".rstrip(": "),
            details={"metric": name},
        )

    def own_state(self) -> dict[str, Any]:
        """Which bounds were ever kept, and which are crossed."""
        return {"kept": dict(self._kept), "beyond": dict(self._beyond)}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self._kept = {name: int(kept) for name, kept in state["kept"].items()}
        self._beyond = {name: int(beyond) for name, beyond in state["beyond"].items()}
