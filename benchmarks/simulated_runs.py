"""Runs that were never trained, as the vitals of their steps: clean ones of many kinds, and faults put into them.

The shapes are those of real curves: a loss that falls as a power of the step, noise that is wider at some times than at others and has more
wild values than a normal distribution, warm-up, restarts after which loss and gradients rise for a while, changes of what is trained on,
batches of one row, a training set that is learned by heart; speed, memory and ranks of a machine that does other work too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.health import Vitals

Floats = NDArray[np.float64]
Rows = list[Vitals]
EVERY = 10
VALIDATE_EVERY = 100
PARAMETERS = 12
RANKS = 4


@dataclass(frozen=True)
class Shape:
    """What kind of run it is.

    Args:
        noise: standard deviation of the loss of a batch, as a share of its level.
        freedom: degrees of freedom of the noise's t-distribution; fewer are wilder.
        skew: whether the noise is a factor (hard pieces are much harder) rather than an offset.
        floor: what the loss falls to, nats per token.
        restart_every: steps of a cycle of the learning rate; 0 is one cosine.
        stages: steps at which what is trained on changes, and with it the loss.
        told: whether the vitals say which stage it is.
    """

    noise: float = 0.05
    freedom: float = 30.0
    skew: bool = False
    floor: float = 0.4
    restart_every: int = 0
    stages: tuple[int, ...] = ()
    told: bool = True


SHAPES = {
    "steady": Shape(),
    "noisy": Shape(noise=0.1, freedom=5.0),
    "one row a batch": Shape(noise=0.3, skew=True),
    "restarts": Shape(restart_every=300),
    "stages that are told": Shape(stages=(500, 900, 1300)),
    "learned by heart": Shape(floor=0.01, noise=0.15, freedom=8.0),
    "wild": Shape(noise=0.1, freedom=3.0),
}
UNTOLD = replace(SHAPES["stages that are told"], told=False)


def clean_run(shape: Shape, seed: int, steps: int = 2_000) -> Rows:
    """The vitals of a run in which nothing is wrong."""
    rng = np.random.default_rng(seed)
    rate, since = _learning_rate(shape, steps)
    level = _level(shape, steps, since, rng)
    loss = level * _noise(shape, steps, rng)
    norm = 0.3 * (level / level[0]) ** 0.3 * _wander(steps, rng) * np.exp(0.25 * rng.standard_normal(steps))
    if shape.restart_every:
        norm *= 1 + 2 * np.where(since < steps, np.exp(-since / 60) * (1 - np.exp(-since / 8)), 0)
    stage = np.searchsorted(np.array(shape.stages), np.arange(steps), side="right")
    slow = _slow_values(steps, level, rate, rng)
    rows = []
    for step in range(steps):
        values = {"loss": float(loss[step]), "gradient_norm": float(norm[step]), "learning_rate": float(rate[step])}
        values |= {"non_finite/loss": 0.0, "non_finite/gradients": 0.0, "non_finite/weights": 0.0}
        if shape.told and shape.stages:
            values["stage"] = float(stage[step])
        values |= slow.get(step, {})
        pieces = [f"piece {number}" for number in rng.integers(0, 50, 8)]
        rows.append(Vitals(step, values, {}, {"number": step, "pieces": pieces, "silent_beats": 1.0, "window_beats": 48.0}))
    return rows


def _learning_rate(shape: Shape, steps: int) -> tuple[Floats, Floats]:
    """The rate of each step, and the steps since the last restart (many where there was none)."""
    step = np.arange(steps, dtype=float)
    length = shape.restart_every or steps
    rate = 0.002 * (0.1 + 0.45 * (1 + np.cos(np.pi * (step % length) / length))) * np.minimum(1.0, (step + 1) / 40)
    return rate, np.where(step >= length, step % length, float(steps))


def _level(shape: Shape, steps: int, since: Floats, rng: np.random.Generator) -> Floats:
    step = np.arange(steps, dtype=float)
    tau, power = rng.uniform(5, 40), rng.uniform(0.5, 1.2)
    level = shape.floor + (5.5 - shape.floor) * (1 + step / tau) ** -power
    if shape.restart_every:
        rise = rng.uniform(0.05, 0.2)
        level *= 1 + rise * np.where(since < steps, np.exp(-since / 100) * (1 - np.exp(-since / 15)), 0)
    for stage in shape.stages:
        level[stage:] *= rng.uniform(1.2, 2.0) ** np.exp(-(step[stage:] - stage) / 400)
    return level


def _noise(shape: Shape, steps: int, rng: np.random.Generator) -> Floats:
    draws = rng.standard_t(shape.freedom, steps) * shape.noise * _wander(steps, rng, 0.3)
    return np.exp(draws) if shape.skew else np.maximum(1 + draws, 0.05)


def _wander(steps: int, rng: np.random.Generator, width: float = 0.2, memory: float = 0.99) -> Floats:
    """A factor around 1 that changes slowly."""
    kicks = rng.standard_normal(steps) * width * np.sqrt(1 - memory**2)
    walk = np.zeros(steps)
    for step in range(1, steps):
        walk[step] = memory * walk[step - 1] + kicks[step]
    return np.exp(walk)


def _slow_values(steps: int, level: Floats, rate: Floats, rng: np.random.Generator) -> dict[int, dict[str, float]]:
    """What is not measured at every step."""
    looks = range(0, steps, EVERY)
    sizes = rng.uniform(0.3, 5.0, PARAMETERS)
    speed = 10_000 * _wander(steps, rng, 0.15)
    base, growth = rng.uniform(3e8, 3e9), rng.uniform(0.05, 0.5)
    scale, found = 65_536.0, {}
    for look in looks:
        pause = 0.45 if rng.random() < 0.03 else 1.0
        memory = base * (1 + growth * (1 - np.exp(-look / 150)) + 0.03 * rng.random() + 0.05 * (look > steps * 0.6))
        scale = scale / 2 if rng.random() < 0.005 else min(65_536.0, scale * 2) if look % 200 == 0 else scale
        found[look] = {
            "entropy": float(level[look] * rng.normal(1.0, 0.08)),
            "loss_scale": scale,
            "tokens_per_second": float(speed[look] * rng.lognormal(0, 0.1) * pause),
            "data_wait": float(min(1.0, rng.beta(1.2, 30) + (0.4 if rng.random() < 0.03 else 0.0))),
            "memory": float(memory),
            **{f"update_ratio/p{n}": float(size * rate[look] * rng.lognormal(0, 0.2)) for n, size in enumerate(sizes)},
            **{f"dead/layer{n}": float(rng.beta(2, 30)) for n in range(3)},
            **{f"saturated/layer{n}": float(rng.beta(2, 20)) for n in range(3)},
            **{f"rank_seconds/{n}": float(0.1 * rng.lognormal(0, 0.08) * (2 if rng.random() < 0.02 else 1)) for n in range(RANKS)},
        }
        if look and look % VALIDATE_EVERY == 0:
            overfit = 1 + 0.02 * look / steps
            found[look] |= {
                "val/loss": float(level[look] * rng.normal(1.05, 0.01) * overfit),
                "val/bar_repetition": float(rng.beta(2, 8)),
                "val/empty_bar_rate": float(rng.beta(1.2, 20)),
                "val/pitch_class_entropy": float(rng.normal(2.6, 0.15)),
                "val/token_validity": float(1 - rng.beta(1.2, 100)),
            }
    return found


Change = Callable[[Vitals, int], dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong in a run.

    Args:
        kind: of the finding that is expected.
        change: from the vitals and the steps since it began to the values that are other ones.
        lasts: steps.
        looks_every: steps between two looks of the detector.
        most_looks: by when it is to be found.
    """

    kind: str
    change: Change
    lasts: int
    looks_every: int
    most_looks: int


def with_fault(rows: Rows, fault: Fault, begins: int) -> Iterator[Vitals]:
    """The run with the fault in it from step ``begins`` on."""
    for row in rows:
        since = row.step - begins
        if not 0 <= since < fault.lasts:
            yield row
            continue
        changed = fault.change(row, since)
        batch = changed.pop("batch", row.batch)
        yield Vitals(row.step, {**row.values, **{name: new for name, new in changed.items() if name}}, row.where, batch)


def _times(factors: dict[str, float]) -> Change:
    """Whatever is measured under these names, or these families, multiplied."""

    def change(row: Vitals, since: int) -> dict[str, Any]:
        return {name: value * factors[key] for name, value in row.values.items() if (key := name.partition("/")[0]) in factors}

    return change


def _instead(values: dict[str, float]) -> Change:
    return lambda row, since: {name: value for name, value in values.items() if name in row.values}


def _rate_times_100(row: Vitals, since: int) -> dict[str, Any]:
    ratios = {name: value * 100 for name, value in row.values.items() if name.startswith("update_ratio/")}
    loss, norm = row.values["loss"] * (1 + 0.1 * min(since, 10)), row.values["gradient_norm"] * (4 if since > 1 else 1)
    return {**ratios, "learning_rate": row.values["learning_rate"] * 100, "loss": loss, "gradient_norm": norm}


FAULTS = {
    "loss is nan": Fault("non_finite", lambda row, since: {"loss": float("nan")}, 1, 1, 1),
    "a weight is infinite": Fault("non_finite", lambda row, since: {"non_finite/weights": 1.0}, 1, 1, 1),
    "one batch of garbage": Fault("loss_spike", _times({"loss": 6.0}), 1, 1, 1),
    "learning rate x 100 for 20 steps": Fault("loss_spike", _rate_times_100, 20, 1, 20),
    "learning rate x 100, its updates": Fault("updates", _rate_times_100, 20, EVERY, 2),
    "loss half as high again for 50 steps": Fault("loss_spike", _times({"loss": 1.5}), 50, 1, 50),
    "one gradient x 50": Fault("gradient_spike", _times({"gradient_norm": 50.0}), 1, 1, 1),
    "gradients x 8 for 20 steps": Fault("gradient_spike", _times({"gradient_norm": 8.0}), 20, 1, 20),
    "loss doubles in 400 steps": Fault(
        "divergence", lambda row, since: {"loss": row.values["loss"] * (1 + min(since, 600) / 400)}, 10_000, 1, 400
    ),
    "no update reaches a parameter": Fault("updates", _instead({"update_ratio/p3": 0.0}), 10_000, EVERY, 5),
    "a layer dies": Fault("layers", _instead({"dead/layer1": 0.95}), 10_000, EVERY, 3),
    "predictions collapse": Fault("entropy", _times({"entropy": 0.02}), 10_000, EVERY, 3),
    "the loss scale falls": Fault("loss_scale", lambda row, since: {"loss_scale": 65_536 / 2 ** (since / EVERY)}, 10_000, EVERY, 8),
    "a third of the speed": Fault("throughput", _times({"tokens_per_second": 0.33}), 10_000, EVERY, 8),
    "data wait 60 %": Fault("data_wait", _instead({"data_wait": 0.6}), 10_000, EVERY, 5),
    "the loader stalls": Fault("data_wait", _instead({"data_wait": 0.97}), 10_000, EVERY, 2),
    "memory grows by 1 % a look": Fault(
        "memory",
        lambda row, since: {"memory": row.values["memory"] * (1 + 0.001 * since)} if "memory" in row.values else {},
        10_000,
        EVERY,
        45,
    ),
    "one rank takes twice as long": Fault("slow_rank", _instead({"rank_seconds/2": 0.25}), 10_000, EVERY, 5),
    "a token never seen": Fault("data", lambda row, since: {"batch": {**row.batch, "unseen_tokens": [7]}}, 1, 1, 1),
    "the validation loss rises": Fault(
        "validation_drift",
        lambda row, since: {"val/loss": 3.0 + since / 1000} if "val/loss" in row.values else {},
        10_000,
        VALIDATE_EVERY,
        4,
    ),
    "samples loop": Fault("musical_collapse", _instead({"val/bar_repetition": 0.9}), 10_000, VALIDATE_EVERY, 2),
}
