"""The whole rule: watched metrics, guards and a least budget become a verdict on each validation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from musictrain.stopping.combining import COMBINATIONS, Combination, Each, Pareto, Weighted, weighted_cost
from musictrain.stopping.guards import Guard
from musictrain.stopping.watches import CORPUS, Wait, Watch, check_delta, check_patience, check_steps, validations
from musictrain.suggestions import did_you_mean

OUT_OF_PATIENCE = "Listen to the best version. If it should train on, resume with a larger patience."
WITH_A_GOAL = "Listen to the best version. If it should train on, resume with a larger patience, or a further goal."
NOT_FINITE = "Look at the loss and the gradients; lower the learning rate, or clip. Go on from an earlier version."


@dataclass(frozen=True)
class Crossing:
    """A guard that was crossed: which value, in how many validations in a row, what is wrong, and what to do."""

    metric: str
    times: int
    words: str
    advice: str


@dataclass(frozen=True)
class Verdict:
    """What a validation has come to.

    Args:
        stop: whether the run should end here.
        by_guard: whether it is ended for its health, not because it has waited long enough.
        reason: why it should end, in words with numbers; empty if it should not.
        advice: what to do about it.
        veto: why the weights of this step are not to be called best; empty if they may.
        cost: weighted sum of the watched costs, lower is better, infinite under a veto; None if it is none, and not all of them are known.
        crossings: the guards that were crossed.
    """

    stop: bool = False
    by_guard: bool = False
    reason: str = ""
    advice: str = ""
    veto: str = ""
    cost: float | None = None
    crossings: tuple[Crossing, ...] = ()


class StoppingRule:
    """Remembers the validations of a run and judges each. The same values give the same verdicts, on any process and after any resume.

    Args:
        watches: metrics that are expected to get better.
        combine: how they make one decision, see ``musictrain.stopping.combining``.
        patience: of watches that have none, of a weighted sum, and of a Pareto front.
        min_delta: of a weighted sum.
        relative: whether that is a share of the lowest sum.
        warm_up: of watches and guards that have none: up to so many optimizer steps values are passed over.
        min_steps: patience ends no run before so many optimizer steps; guards do.
        guards: bounds that must not be crossed.

    Raises:
        ValueError: for a number out of its range, or settings that mean nothing together.
    """

    def __init__(
        self,
        watches: Sequence[Watch],
        *,
        combine: str = "all",
        patience: int = 3,
        min_delta: float = 0.0,
        relative: bool = False,
        warm_up: int = 0,
        min_steps: int = 0,
        guards: Sequence[Guard] = (),
    ) -> None:
        _check(watches, combine, patience, min_delta, relative, warm_up, min_steps, guards)
        self.watches = tuple(
            replace(
                watch,
                patience=patience if watch.patience is None else watch.patience,
                warm_up=warm_up if watch.warm_up is None else watch.warm_up,
            )
            for watch in watches
        )
        self.guards = tuple(replace(guard, warm_up=warm_up if guard.warm_up is None else guard.warm_up) for guard in guards)
        self.min_steps = min_steps
        self._combine, self._patience, self._sum = combine, patience, Wait(patience, min_delta, relative)
        self._combination = self._combined() if not self.awaits_bands else None
        self._stored: Mapping[str, Any] = {}
        self._crossed = {guard.key: 0 for guard in self.guards}

    def _combined(self) -> Combination:
        if self._combine == "weighted":
            return Weighted(self.watches, self._sum)
        return Pareto(self.watches, self._patience) if self._combine == "pareto" else Each(self.watches, self._combine)

    @property
    def awaits_bands(self) -> bool:
        """Whether a band is the corpus' own and not known yet."""
        return any(watch.band == CORPUS for watch in self.watches)

    def settle_bands(self, bands: Mapping[str, tuple[float, float]]) -> None:
        """Say where the corpus lies, before the first validation is judged; what was loaded is taken up now.

        Raises:
            ValueError: if it is not said of a metric that is watched so.
        """
        waiting = [watch.metric for watch in self.watches if watch.band == CORPUS]
        if missing := [name for name in waiting if name not in bands]:
            hint = did_you_mean(missing[0], bands)
            raise ValueError(
                f"MusicalEarlyStopping watches {missing} with the band 'corpus', and this run knows the corpus' own band of "
                f"{sorted(bands)}. {hint} Add SampleAndScore, which measures the corpus, or give two numbers.".replace("  ", " ")
            )
        self.watches = tuple(replace(watch, band=bands[watch.metric]) if watch.band == CORPUS else watch for watch in self.watches)
        self._combination = self._combined()
        self._combination.load_state_dict(self._stored)

    @property
    def names(self) -> tuple[str, ...]:
        """Every logged value that the rule looks at."""
        names = [watch.metric for watch in self.watches] + [name for guard in self.guards for name in guard.names]
        return tuple(dict.fromkeys(names))

    def judge(self, step: int, values: Mapping[str, float], notes: Mapping[str, str] | None = None) -> Verdict:
        """Count a validation and judge it.

        Args:
            step: optimizer steps done.
            values: what was logged since the last validation, by name.
            notes: what else is known of a value, such as which piece is copied; added to the words.
        """
        notes = notes or {}
        # Every guard counts its validation, whatever the others say.
        looked = [(guard, self._look(guard, step, values, notes)) for guard in self.guards]
        crossings = tuple(crossing for _, crossing in looked if crossing is not None)
        assert self._combination is not None, "the corpus' own bands were never settled"
        self._combination.take(step, values)
        not_finite = self._not_finite(step, values)
        vetoes = [crossing.words for crossing in crossings] + ([not_finite] if not_finite else [])
        cost = weighted_cost(self.watches, step, values)
        verdict = Verdict(veto="; ".join(vetoes), cost=math.inf if vetoes else cost, crossings=crossings)
        if not_finite:
            return replace(verdict, stop=True, by_guard=True, reason=f"{not_finite}.", advice=NOT_FINITE)
        for guard, crossing in looked:
            if crossing is not None and guard.action == "stop" and crossing.times >= guard.patience:
                row = f", {validations(crossing.times)} in a row" if guard.patience > 1 else ""
                return replace(verdict, stop=True, by_guard=True, reason=f"{crossing.words}{row}.", advice=crossing.advice)
        if step >= self.min_steps and (words := self._combination.enough()):
            return replace(
                verdict,
                stop=True,
                reason=f"{words}.",
                advice=WITH_A_GOAL if any(watch.goal is not None for watch in self.watches) else OUT_OF_PATIENCE,
            )
        return verdict

    def has_waited_long_enough(self, step: int) -> bool:
        """Whether, as of the last validation, patience is at its end by the settings of now."""
        return self._combination is not None and step >= self.min_steps and bool(self._combination.enough())

    def _look(self, guard: Guard, step: int, values: Mapping[str, float], notes: Mapping[str, str]) -> Crossing | None:
        words = guard.crossed(values) if step >= (guard.warm_up or 0) else None
        if words is None:  # nothing was heard: it is not known whether the row goes on
            return None
        times = self._crossed[guard.key] = self._crossed[guard.key] + 1 if words else 0
        note = f" ({notes[guard.metric]})" if notes.get(guard.metric) else ""
        return Crossing(guard.metric, times, f"{words}{note}", guard.advice) if words else None

    def _not_finite(self, step: int, values: Mapping[str, float]) -> str:
        checked = [watch.metric for watch in self.watches if watch.check_finite and step >= (watch.warm_up or 0)]
        return "; ".join(f"{name} is {values[name]}" for name in checked if name in values and not math.isfinite(values[name]))

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as plain values; settings are not among them."""
        watched = dict(self._stored) if self._combination is None else self._combination.state_dict()
        return {"watched": watched, "crossed": dict(self._crossed)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what fits these settings: a metric that is watched in another direction, or was not, begins anew."""
        self._stored = state.get("watched", {})
        if self._combination is not None:
            self._combination.load_state_dict(self._stored)
        stored = state.get("crossed", {})
        self._crossed = {key: int(stored.get(key, 0)) for key in self._crossed}


def _check(
    watches: Sequence[Watch],
    combine: str,
    patience: int,
    min_delta: float,
    relative: bool,
    warm_up: int,
    min_steps: int,
    guards: Sequence[Guard],
) -> None:
    who = "MusicalEarlyStopping"
    if combine not in COMBINATIONS:
        hint = did_you_mean(str(combine), COMBINATIONS)
        raise ValueError(f"{who} got combine={combine!r}; it needs one of {', '.join(COMBINATIONS)}. {hint}".rstrip())
    if not watches and not guards:
        raise ValueError(f"{who} got nothing to watch and no guards: name a metric in `watch`, such as val/loss.")
    for what, keys in (("watch", [each.metric for each in watches]), ("guards", [each.key for each in guards])):
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{who} got {', '.join(map(repr, twice))} more than once in `{what}`: name each once.")
    check_patience(who, patience)
    check_delta(who, min_delta)
    check_steps(who, "warm_up", warm_up)
    check_steps(who, "min_steps", min_steps)
    own = [each.metric for each in watches if each.patience is not None] if combine in ("weighted", "pareto") else []
    if own:
        raise ValueError(f"{who} combines as {combine!r}, which has one patience: set `patience` itself, not that of {', '.join(own)}.")
    if aims := [each.metric for each in watches if each.goal is not None and combine in ("weighted", "pareto")]:
        raise ValueError(f"{who} combines as {combine!r}, which has no goal: leave out that of {', '.join(aims)}, or combine all or any.")
    if combine == "weighted" and any(each.min_delta for each in watches):
        raise ValueError(f"{who} combines as 'weighted': set `min_delta` of the sum, not of a metric.")
    if combine != "weighted" and (min_delta or relative):
        raise ValueError(f"{who} combines as {combine!r}: set `min_delta` and `relative` of a metric in `watch`, not of the sum.")
