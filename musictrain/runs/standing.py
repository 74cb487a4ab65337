"""Where a run stands, in words: for the progress line, and for whoever watches from outside.

>>> print(Standing(400, 1500, 80.4, TimeLeft(221, 200, 250), {"train/loss": 1.104}).line())
step 400/1,500   27 %  loss 1.104  1 min 20 s elapsed  3 min 41 s left (3 min 20 to 4 min 10)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from musictrain.runs.eta import TimeLeft

# What a run calls them, first found first shown; the later names are those of other people's modules.
LOSS = ("train/loss", "train/loss_step", "train_loss", "train_loss_step", "loss")
SCORE = ("val/loss", "val_loss")
RATE = ("train/tokens_per_second", "speed/tokens_per_second")
GAP = "  "
WORTH_BOUNDS, WORTH_ABOUT = 60, 10  # seconds left, from which on they are said
# What a narrow terminal does without, the least important first.
DROPPED = ("bounds", "elapsed", "rate", "score", "end", "percent", "loss", "state")


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Args:
        step: optimizer steps done.
        total: optimizer steps in all, None without such a limit.
        elapsed_seconds: of training, over all attempts.
        left: until the end, None if nobody can tell.
        values: what was logged last.
        state: what it is doing, where that is not training.
        now: seconds since 1970, for the time of day at which it ends; None leaves that out.
    """

    step: int
    total: int | None
    elapsed_seconds: float
    left: TimeLeft | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    state: str = ""
    now: float | None = None

    @property
    def share(self) -> float | None:
        """Of the steps that are done, in [0, 1]; None without a total."""
        return None if self.total is None else min(self.step / max(self.total, 1), 1.0)

    def parts(self) -> dict[str, str]:
        """The words of each part; what is unknown is left out."""
        total = "" if self.total is None else f"/{self.total:,}"
        loss, score, rate = (_first(self.values, names) for names in (LOSS, SCORE, RATE))
        found = {
            "step": f"step {self.step:,}{total}",
            "percent": "" if self.share is None else f"{100 * self.share:3.0f} %",
            "loss": "" if loss is None else f"loss {loss:.4g}",
            "score": "" if score is None else f"val {score:.4g}",
            "rate": "" if rate is None else f"{rate:,.0f} tokens/s",
            "state": self.state,
            "elapsed": f"{duration(self.elapsed_seconds)} elapsed",
            **self._left(),
        }
        return {name: words for name, words in found.items() if words}

    def _left(self) -> dict[str, str]:
        if self.left is None or (self.share == 1 and not round(self.left.seconds)):
            return {}
        low, high = duration(self.left.low), duration(self.left.high)
        return {
            "left": f"{'about ' if self.left.is_rough and self.left.high >= WORTH_ABOUT else ''}{duration(self.left.seconds)} left",
            "bounds": f"({_short(low)} to {_short(high)})" if low != high and self.left.high >= WORTH_BOUNDS else "",
            "end": f"ends {clock(self.now + self.left.seconds, self.now)}" if self.now is not None else "",
        }

    def fitting(self, width: int | None = None) -> dict[str, str]:
        """The parts that fit into so many columns, by their weight; the step is always among them."""
        parts = self.parts()
        for name in DROPPED:
            if width is None or len(joined(parts)) <= width:
                break
            parts.pop(name, None)
        return parts if width is None or len(joined(parts)) <= width else {"step": parts["step"][:width]}

    def line(self, width: int | None = None) -> str:
        """One line without colour, of at most so many columns."""
        return joined(self.fitting(width))


def joined(parts: Mapping[str, str]) -> str:
    """Parts in one line: the bounds follow what is left after a blank, the end after a comma.

    >>> joined({"step": "step 3", "left": "3 s left", "bounds": "(1 s to 5 s)", "end": "ends 12:00"})
    'step 3  3 s left (1 s to 5 s), ends 12:00'
    """
    gaps = {"bounds": " ", "end": ", "}
    return "".join((gaps.get(name, GAP) if position else "") + words for position, (name, words) in enumerate(parts.items()))


def duration(seconds: float) -> str:
    """A time span in the two largest units that matter.

    >>> duration(7), duration(200), duration(7500), duration(200_000)
    ('7 s', '3 min 20 s', '2 h 5 min', '2 d 7 h')
    """
    whole = round(seconds)
    for unit, name, smaller, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {small_name}"
    return f"{whole} s"


def _short(words: str) -> str:
    """A duration of two units without the second one's name."""
    return re.sub(r"(\d+ \w+ \d+) \w+$", r"\1", words)


def clock(moment: float, now: float) -> str:
    """The time of day, with the day of the week if it is another, with the date if that is a week ahead.

    Args:
        moment: seconds since 1970.
        now: seconds since 1970.
    """
    then, today = datetime.fromtimestamp(moment), datetime.fromtimestamp(now)
    days = (then.date() - today.date()).days
    day = "" if days == 0 else f"{then:%a} " if 0 < days < 7 else f"{then:%Y-%m-%d} "
    return f"{day}{then:%H:%M}"


def _first(values: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    return next((values[name] for name in names if name in values), None)
