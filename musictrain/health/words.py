"""What was done about a finding, and what a person can try, in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from musictrain.health.responses import Response, is_vain

OF_BATCHES = {"non_finite", "loss_spike", "gradient_spike", "data"}
"""Kinds that one batch can bring about: an alert says what was in it."""

SHOWN = ("loss", "gradient_norm", "entropy", "loss_scale", "data_wait", "tokens_per_second")

REPLAY = "`musictrain replay`"
REPLAYED = {*OF_BATCHES, "entropy", "layers", "updates", "divergence"}


def what_was_done(response: Response, *, lr_factor: float, lr_steps: int, left_out: bool) -> str:
    """In a sentence or two.

    Args:
        response: what was decided.
        lr_factor: what ``reduce_lr`` multiplies the rate by.
        lr_steps: how long it holds.
        left_out: whether the update of this step was left out.
    """
    of = f" ({response.attempt} of {response.attempts})" if response.attempts and response.action != "roll_back" else ""
    before = {"skip": "Leaving out updates", "reduce_lr": "A lower learning rate", "roll_back": "Going back"}.get(str(response.after), "")
    tense = "would" if is_vain(response.after, response.finding) else "did"
    helpless = f"{before} {tense} not help: " if before else ""
    skipped = "the update of this step is left out"
    words = {
        "log": "",
        "alert": "training goes on as it is",
        "skip": f"{skipped}{of}",
        "reduce_lr": f"for {lr_steps:,} steps the learning rate is multiplied by {lr_factor:g}{of}{f', and {skipped}' if left_out else ''}",
        "roll_back": "the run goes back to the last good version",
        "stop": "the run is stopped",
    }[response.action]
    sentence = f"{helpless}{words}" if words else ""
    told = f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""
    return f"{response.because} {told}".strip()


def advice_on(response: Response, run: str, attempt: int | None = None) -> str:
    """What to try.

    Args:
        response: what was decided.
        run: name of the run, empty if it is not recorded.
        attempt: the start of the run whose step it is, if the run is about to go back and do that step with other batches.
    """
    finding = response.finding
    if not run or finding.kind not in REPLAYED:
        return finding.advice
    command = f"musictrain replay {run} --step {finding.step}" + (f" --attempt {attempt}" if attempt else "")
    if REPLAY in finding.advice:
        return finding.advice.replace(REPLAY, f"`{command}`")
    return f"{finding.advice} Look at the step: `{command}`.".lstrip()


def guilty_ranks(losses: Sequence[float]) -> list[int]:
    """The ranks whose batches an alert is about: those whose loss is not finite, else all of them."""
    bad = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
    return bad or list(range(len(losses)))


def in_short(places: Sequence[str], most: int = 4) -> str:
    """The first of them, and how many more.

    >>> in_short(["bwv1 from bar 1", "bwv2 from bar 5"], most=1)
    'bwv1 from bar 1 and 1 more'
    """
    more = len(places) - most
    return ", ".join(places[:most]) + (f" and {more} more" if more > 0 else "")


def summed_up(values: Mapping[str, float]) -> dict[str, float]:
    """What is logged of a look: of what each layer or parameter has, the median and the worst."""
    ratios = sorted(value for name, value in values.items() if name.startswith("update_ratio/"))
    told = {name: values[name] for name in SHOWN if name in values}
    if ratios:
        told |= {"update_ratio": ratios[len(ratios) // 2], "update_ratio_max": ratios[-1]}
    for family in ("dead", "saturated"):
        if shares := [value for name, value in values.items() if name.startswith(f"{family}/")]:
            told[f"{family}_units_max"] = max(shares)
    if "memory" in values:
        told["memory_mib"] = values["memory"] / 2**20
    if seconds := [value for name, value in values.items() if name.startswith("rank_seconds/")]:
        told["slowest_rank"] = max(seconds) / (statistics.median_low(seconds) or math.nan)
    return {name: value for name, value in told.items() if math.isfinite(value)}
