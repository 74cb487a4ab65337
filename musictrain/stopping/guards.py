"""Guards: bounds that a run must not cross, whatever its loss says.

The lowest validation loss is not the best music. A network can fall into a loop when it samples, or learn its training pieces by heart,
while the loss still falls. A guard looks at one value of each validation; it either stops the run, or only vetoes: the version of that
validation is not called best, and training goes on.

Source: Yin et al. 2022, where choosing by the loss gave loops of single notes, and later epochs gave copies of training pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from musictrain.stopping.watches import check_patience, check_steps, is_number, short
from musictrain.suggestions import did_you_mean

ACTIONS = ("stop", "veto")


@dataclass(frozen=True)
class Guard:
    """A bound on one metric. A value that is not there, or nan, crosses nothing.

    Args:
        metric: its name, as it is logged.
        above: values above this cross it; the name of another logged value for that one's, such as the validation set's own.
        below: values below this cross it; likewise.
        margin: how far beyond the bound still passes.
        action: ``stop`` ends the run and vetoes; ``veto`` only keeps the version from being called best.
        patience: it stops at the so-manieth validation in a row; the veto comes with the first.
        warm_up: up to so many optimizer steps it does not look; None for the rule's.
        advice: what to do, in a sentence.

    Raises:
        ValueError: if it has no bound or both, or a number out of its range.
    """

    metric: str
    above: float | str | None = None
    below: float | str | None = None
    margin: float = 0.0
    action: str = "stop"
    patience: int = 1
    warm_up: int | None = None
    advice: str = ""

    def __post_init__(self) -> None:
        named = f"The guard of {self.metric!r}"
        if not isinstance(self.metric, str) or not self.metric:
            raise ValueError(f"A guard got metric={self.metric!r}; it needs the name of a logged value, such as 'val/copy_rate'.")
        if (self.above is None) == (self.below is None):
            raise ValueError(f"{named} got above={self.above!r} and below={self.below!r}; it needs one of them.")
        if not isinstance(self.bound, str) and not is_number(self.bound):
            raise ValueError(f"{named} got the bound {self.bound!r}; it needs a number, or the name of another logged value.")
        if self.action not in ACTIONS:
            hint = did_you_mean(str(self.action), ACTIONS)
            raise ValueError(f"{named} got action={self.action!r}; it needs 'stop' or 'veto'. {hint}".rstrip())
        if not (is_number(self.margin) and self.margin >= 0):
            raise ValueError(f"{named} got margin={self.margin!r}; it needs a number from 0 on.")
        check_patience(named, self.patience)
        check_steps(named, "warm_up", self.warm_up)

    @property
    def bound(self) -> float | str:
        """The number, or the name of the value, that is not to be crossed."""
        bound = self.above if self.above is not None else self.below
        assert bound is not None
        return bound

    @property
    def names(self) -> tuple[str, ...]:
        """The logged values that it needs."""
        return (self.metric, self.bound) if isinstance(self.bound, str) else (self.metric,)

    @property
    def key(self) -> str:
        """What it looks at: what a count that was stored must agree with."""
        return f"{self.metric} {'above' if self.above is not None else 'below'} {self.bound}"

    def crossed(self, values: Mapping[str, float]) -> str | None:
        """What is wrong, with numbers; empty if nothing is, None if the values do not tell."""
        bound = values.get(self.bound, math.nan) if isinstance(self.bound, str) else float(self.bound)
        value = values.get(self.metric, math.nan)
        if math.isnan(value) or math.isnan(bound):
            return None
        beyond = value - bound if self.above is not None else bound - value
        if not beyond > self.margin:
            return ""
        named = f" ({self.bound})" if isinstance(self.bound, str) else ""
        by = f" by more than {short(self.margin)}" if self.margin else ""
        return f"{self.metric} is {short(value)}, {'above' if self.above is not None else 'below'} {short(bound)}{named}{by}"


# The ready ones, by the names that a configuration can use for them; what they look at is what SampleAndScore logs. The bounds lie beyond
# 20,000 sets of 18 windows, as long as samples are, of Bach's chorales and of fiddle tunes: benchmarks/results/musical_stopping.json.
GUARDS = {
    "collapse": Guard(
        "val/bar_repetition",
        above=0.6,  # eight bars in a loop of one have 0.85, of two 0.74; sets of chorales have up to 0.09, of fiddle tunes 0.54
        action="veto",
        advice="What it samples runs in a loop: listen, sample with a higher temperature or top_p, or take an earlier version.",
    ),
    "copying": Guard(
        "val/copy_excess",  # above the validation set's own rate
        above=0.15,  # three of 18 samples copied from end to end; sets of chorales have up to 0.094, of fiddle tunes 0.126
        action="stop",
        advice="It plays its training pieces by heart. Take an earlier version; raise dropout or weight decay, transpose, or add pieces.",
    ),
    "tokens": Guard(
        "val/token_validity",
        below=0.95,
        action="veto",
        advice="What it expects breaks the tokenizer's grammar: train longer, or lower the learning rate.",
    ),
    "standstill": Guard(
        "val/mean_note_length",
        above=8.0,  # beats; where repeated notes are tied, a loop of one chord is one long note; sets of chorales have up to 1.4
        action="veto",
        advice="What it samples stands still on a held note or chord: listen, sample with a higher temperature or top_p, or train longer.",
    ),
}


def guard_named(name: str) -> Guard:
    """A ready guard.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in GUARDS:
        raise ValueError(
            f"There is no guard {name!r}, only {', '.join(GUARDS)}; or give one by metric. {did_you_mean(name, GUARDS)}".rstrip()
        )
    return GUARDS[name]
