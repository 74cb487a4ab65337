"""The curve of a loss over a learning rate that grows from step to step, and the rate at which it falls fastest.

Lightning keeps a running mean of the losses, with a memory of fifty steps: the curve comes late by that much, which is decades of the rate.
And what it suggests is where the loss falls most *per unit of the rate*, which along rates from 1e-6 to 1 is nearly always the lowest of
them. Here the single losses are taken out of the running mean, evened out over a few neighbours on both sides, and the fall is counted per
decade.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np

MEMORY = 0.98
"""Of the running mean of the losses, Lightning's."""
SKIPPED = 10, 1
"""Losses at the beginning and at the end among which no rate is looked for, as with Lightning."""
NEIGHBOURS = 0.06
"""The share of all losses that counts on each side of one."""


def single_losses(means: Sequence[float], memory: float = MEMORY) -> list[float]:
    """The losses of which Lightning's callback has made running means.

    It divides the k-th by ``1 - memory ** (k + 1)``, one step too many.
    """
    sums = [mean * (1 - memory ** (k + 1)) for k, mean in enumerate(means, start=1)]
    return [float(now - memory * before) / (1 - memory) for before, now in zip([0.0, *sums], sums, strict=False)]


def evened_out(losses: Sequence[float], share: float = NEIGHBOURS) -> list[float]:
    """Each loss as the weighted mean of itself and its neighbours (a triangle); one that is no number stays so and counts for no other."""
    width = max(1, round(share * len(losses)))
    values = np.asarray(losses, dtype=float)
    known = np.isfinite(values)
    triangle = np.concatenate([np.arange(1, width + 2), np.arange(width, 0, -1)]).astype(float)
    total = np.convolve(np.where(known, values, 0.0), triangle)[width : width + len(values)]
    weight = np.convolve(known.astype(float), triangle)[width : width + len(values)]
    return [float(each) for each in np.where(known, total / np.maximum(weight, 1.0), math.nan)]


def steepest(rates: Sequence[float], losses: Sequence[float]) -> int | None:
    """The place at which the loss falls fastest per decade of the rate, up to its lowest; None if there are too few numbers.

    >>> steepest([10.0**k for k in range(-20, 0)], [3.0] * 14 + [2.9, 2.0, 1.1, 1.0, 4.0, 9.0])
    15
    """
    begin, end = SKIPPED
    places = [place for place in range(begin, len(losses) - end) if math.isfinite(losses[place])]
    if len(places) < 2:
        return None
    lowest = min(places, key=losses.__getitem__)
    falling = [place for place in places if place <= lowest]
    if len(falling) < 2:
        return places[0]
    slopes = np.gradient([losses[place] for place in falling], np.log10([rates[place] for place in falling]))
    return falling[int(np.argmin(slopes))]


def drawn(rates: Sequence[float], losses: Sequence[float], place: int) -> bytes:
    """The curve and the suggested point of it, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(rates, losses)
    axes.plot([rates[place]], [losses[place]], "o", color="tab:red")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title(f"{rates[place]:.2g}: where the loss falls fastest", fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": "musictrain"})
    return content.getvalue()
