"""One watched metric: which way is better, by how much it must get better, and how long it has not.

Conventions: a *cost* is a metric turned so that lower is better: its value, its value with the other sign, or how far it lies outside of
its reference band. A *validation* is one look at the values; patience counts validations. A metric inside its band is content: it cannot
get better, and it is not waited for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from musictrain.suggestions import did_you_mean

MODES = ("min", "max")
CORPUS = "corpus"
Made = TypeVar("Made")


@dataclass(frozen=True)
class Watch:
    """A metric that a run is expected to make better.

    Args:
        metric: its name, as it is logged.
        mode: whether ``min`` or ``max`` is better; of no meaning where there is a band.
        band: reference from low to high: inside is best. ``corpus`` is where the corpus of the run itself lies, by its corpus_bands.json.
        min_delta: less than this is no improvement.
        relative: ``min_delta`` is a share of the best value so far.
        patience: validations in a row without an improvement; None for the rule's.
        warm_up: values up to so many optimizer steps are passed over; None for the rule's.
        weight: of its cost in a ``weighted`` sum.
        goal: a value better than this is good enough: it is not waited for any longer. None for none.
        check_finite: a value that is not finite ends the run at once; otherwise it is no improvement.

    Raises:
        ValueError: for a number out of its range.
    """

    metric: str
    mode: str = "min"
    band: tuple[float, float] | str | None = None
    min_delta: float = 0.0
    relative: bool = False
    patience: int | None = None
    warm_up: int | None = None
    weight: float = 1.0
    check_finite: bool = True
    goal: float | None = None

    def __post_init__(self) -> None:
        named = f"The watch of {self.metric!r}"
        if not isinstance(self.metric, str) or not self.metric:
            raise ValueError(f"A watch got metric={self.metric!r}; it needs the name of a logged value, such as 'val/loss'.")
        if self.mode not in MODES:
            hint = did_you_mean(str(self.mode), MODES)
            raise ValueError(f"{named} got mode={self.mode!r}; it needs 'min' or 'max': which values are better. {hint}".rstrip())
        self._check_band(named)
        check_delta(named, self.min_delta)
        check_patience(named, self.patience)
        check_steps(named, "warm_up", self.warm_up)
        if not (is_number(self.weight) and self.weight > 0):
            raise ValueError(f"{named} got weight={self.weight!r}; it needs a positive number.")
        if self.goal is not None and not (is_number(self.goal) and self.band is None):
            raise ValueError(f"{named} got goal={self.goal!r}; it needs a number, and no band, whose inside is the goal.")

    def _check_band(self, named: str) -> None:
        band = self.band
        if band is None or band == CORPUS:
            return
        if isinstance(band, str) or not (len(band) == 2 and all(map(is_number, band)) and band[0] <= band[1]):
            raise ValueError(f"{named} got band={band!r}; it needs two numbers, the lower one first, or 'corpus'.")
        object.__setattr__(self, "band", tuple(band))  # a configuration has lists

    @property
    def bounds(self) -> tuple[float, float]:
        """The band in numbers."""
        assert isinstance(self.band, tuple), "a band that is the corpus' own must be settled first"
        return self.band

    @property
    def direction(self) -> str:
        """Its name and which way is better: what a best value that was stored must agree with."""
        return f"{self.metric} {self.mode if self.band is None else f'{self.bounds[0]:g}..{self.bounds[1]:g}'}"

    def cost(self, value: float) -> float:
        """The value turned so that lower is better.

        >>> Watch("val/groove", band=(0.5, 1.0)).cost(0.25)
        0.25
        """
        if self.band is not None:
            low, high = self.bounds
            return value if math.isnan(value) else max(low - value, value - high, 0.0)
        return value if self.mode == "min" else -value

    def is_content(self, value: float) -> bool:
        """Whether it lies inside its band."""
        return self.band is not None and self.cost(value) == 0.0

    def is_reached(self, value: float) -> bool:
        """Whether it is better than its goal."""
        return self.goal is not None and self.cost(value) < self.cost(self.goal)

    def in_words(self, best: float, best_step: int | None, waited: int, value: float) -> str:
        """That its cost has not fallen below ``best``, with numbers."""
        times = validations(waited)
        if self.band is not None:
            low, high = self.bounds
            nearer = f" (it came within {short(best)} of it at step {best_step:,})" if best_step is not None else ""
            return f"{self.metric} lies outside of {short(low)} to {short(high)} and came no nearer in {times}{nearer}: {short(value)}"
        at = f" (at step {best_step:,})" if best_step is not None else ""
        known = best if self.mode == "min" else -best
        delta = f" by {100 * self.min_delta:g} %" if self.relative else f" by {short(self.min_delta)}"
        better = f"better than {short(known)}{at}{delta if self.min_delta else ''}"
        return f"{self.metric} did not get {better} in {times}: now {short(value)}"


class Wait:
    """For how many validations a cost has not fallen; with one metric this is the arithmetic of Lightning's EarlyStopping.

    Args:
        patience: from so many on it has waited long enough.
        min_delta: the cost must fall by more than this.
        relative: ``min_delta`` is a share of the lowest cost so far.
    """

    def __init__(self, patience: int, min_delta: float = 0.0, relative: bool = False) -> None:
        self.patience, self.min_delta, self.relative = patience, min_delta, relative
        self.best = math.inf
        self.best_step: int | None = None
        self.waited = 0
        self.content = False

    def take(self, cost: float, step: int, *, content: bool = False) -> None:
        """Count a validation. What is content does not wait, and nan never falls."""
        scale = (abs(self.best) if math.isfinite(self.best) else 0.0) if self.relative else 1.0
        self.content = content
        if cost + self.min_delta * scale < self.best:
            self.best, self.best_step, self.waited = cost, step, 0
        else:
            self.waited = 0 if content else self.waited + 1

    @property
    def is_over(self) -> bool:
        """Whether it has waited long enough, as of the last validation."""
        return self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as plain values; settings are not among them."""
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited, "content": self.content}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back; the settings stay those of the constructor."""
        self.best, self.best_step = float(state["best"]), state["best_step"]
        self.waited, self.content = int(state["waited"]), bool(state["content"])


def short(value: float) -> str:
    """A number for a sentence.

    >>> short(0.365712)
    '0.3657'
    """
    return f"{value:.4g}"


def validations(num: int) -> str:
    """``3 validations``."""
    return f"{num} validation{'s' if num != 1 else ''}"


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no text that reads like one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def made_of(kind: type[Made], settings: Mapping[str, Any]) -> Made:
    """A watch or a guard from its settings by name, as a configuration holds them.

    Raises:
        ValueError: for a setting that it does not have, or without a metric.
    """
    kinds = {each.name: each.type for each in fields(kind)}  # type: ignore[arg-type]
    known, called = list(kinds), kind.__name__.lower()
    if "metric" not in settings:
        raise ValueError(f"A {called} needs a metric, the name of a logged value; got {dict(settings)}.")
    for name in settings:
        if name not in known:
            hint = did_you_mean(str(name), known)
            raise ValueError(f"The {called} of {settings['metric']!r} has no {name!r}, only {', '.join(known)}. {hint}".rstrip())
    return kind(**{name: _as_typed(value) if kinds[name] == "str" else value for name, value in settings.items()})


def _as_typed(value: Any) -> Any:
    """A text as it stands in a configuration: where any value may stand, "loops: listen" is read as a mapping."""
    return ", ".join(f"{key}: {_as_typed(each)}" for key, each in value.items()) if isinstance(value, Mapping) else value


def check_patience(who: str, patience: int | None) -> None:
    """Refuse what is no patience; None is one that others set."""
    if patience is not None and not (isinstance(patience, int) and not isinstance(patience, bool) and patience >= 1):
        raise ValueError(f"{who} got patience={patience!r}; it needs a whole number from 1 on: validations without an improvement.")


def check_steps(who: str, name: str, steps: int | None) -> None:
    """Refuse what is no number of steps; None is one that others set."""
    if steps is not None and not (isinstance(steps, int) and not isinstance(steps, bool) and steps >= 0):
        raise ValueError(f"{who} got {name}={steps!r}; it needs a whole number of optimizer steps from 0 on.")


def check_delta(who: str, min_delta: float) -> None:
    """Refuse what is no least improvement."""
    if not (is_number(min_delta) and min_delta >= 0):
        raise ValueError(f"{who} got min_delta={min_delta!r}; it needs a number from 0 on.")
