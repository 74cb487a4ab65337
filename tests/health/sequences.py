"""Sequences of vitals, and what a detector says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from musictrain.health import Detector, Finding, Vitals


def of(name: str, numbers: Iterable[float], every: int = 1, **others: float) -> list[Vitals]:
    """One number a look, every so many steps."""
    return [Vitals(look * every, {name: float(number), **others}) for look, number in enumerate(numbers)]


def rows(values: Sequence[Mapping[str, float]], every: int = 1) -> list[Vitals]:
    """Several numbers a look."""
    return [Vitals(look * every, dict(one)) for look, one in enumerate(values)]


def told(detector: Detector, vitals: Iterable[Vitals]) -> list[Finding]:
    """Everything that is told, beginnings and ends."""
    return [finding for one in vitals if (finding := detector.see(one)) is not None]


def begun(detector: Detector, vitals: Iterable[Vitals]) -> list[Finding]:
    """What is told of incidents that begin."""
    return [finding for finding in told(detector, vitals) if not finding.over]


def falling(steps: int, seed: int = 0, noise: float = 0.05) -> np.ndarray:
    """A loss that falls from 5.4 to about 0.5, nats, with normal noise that is a share of it."""
    level = 0.4 + 5.0 * (1 + np.arange(steps) / 20) ** -0.8
    return level * (1 + noise * np.random.default_rng(seed).standard_normal(steps))
