"""Updates: parameters that move far too much or not at all."""

from __future__ import annotations

import math

import numpy as np
import pytest

from musictrain.health import Updates, Vitals
from tests.health.sequences import begun, told

LOOKS = 100


def ratios(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    decay = np.minimum(1.0, (np.arange(LOOKS) + 1) / 5) * (0.1 + 0.9 * np.cos(np.linspace(0, 1.5, LOOKS)))
    return {name: size * decay * np.exp(0.2 * rng.standard_normal(LOOKS)) for name, size in (("a.weight", 0.02), ("b.bias", 0.001))}


def measured(of_parameters: dict[str, np.ndarray], rate: float | np.ndarray = 0.001) -> list[Vitals]:
    rates = np.broadcast_to(rate, (LOOKS,))
    return [
        Vitals(
            10 * look,
            {"learning_rate": float(rates[look]), **{f"update_ratio/{name}": float(one[look]) for name, one in of_parameters.items()}},
        )
        for look in range(LOOKS)
    ]


def test_a_run_that_is_well_is_well() -> None:
    assert told(Updates().detector(), measured(ratios())) == []


def test_an_update_that_explodes_is_found_at_once_with_its_parameter() -> None:
    moved = ratios()
    moved["a.weight"][50:52] *= 100
    first, last = told(Updates().detector(), measured(moved))
    assert (first.step, first.where, first.details["too"]) == (500, "a.weight", "long")
    assert first.score > 20
    assert (last.over, last.began, last.step) == (True, 500, 510)


def test_of_several_the_worst_is_named_first() -> None:
    moved = {name: np.concatenate([one[:50], one[50:] * (200 if name == "b.bias" else 50)]) for name, one in ratios().items()}
    found = begun(Updates(largest=0.001).detector(), measured(moved))
    assert found[0].where == "b.bias"
    assert found[0].details["others"] == ["a.weight"]


def test_the_first_looks_make_the_norm() -> None:
    moved = ratios()
    moved["b.bias"][:3] = [math.inf, 5.0, 0.5]  # a bias that was 0
    assert told(Updates().detector(), measured(moved)) == []


@pytest.mark.parametrize("low", [0.0, 1e-9])
def test_a_parameter_that_nothing_reaches_is_found_after_its_patience(low: float) -> None:
    moved = ratios()
    moved["b.bias"][30:] = low
    found = begun(Updates().detector(), measured(moved))
    assert [(one.step, one.where, one.details["too"]) for one in found] == [(300 + 10 * (Updates().patience - 1), "b.bias", "short")]


def test_nothing_is_meant_to_move_at_the_end_of_a_schedule() -> None:
    moved = {name: np.where(np.arange(LOOKS) < 60, one, one * 1e-9) for name, one in ratios().items()}
    rate = np.where(np.arange(LOOKS) < 60, 0.001, 1e-12)
    assert told(Updates().detector(), measured(moved, rate)) == []
    assert told(Updates().detector(), measured(moved, 0.001)) != []


def test_a_restart_of_the_learning_rate_is_no_explosion() -> None:
    cycle = np.concatenate([np.linspace(1.0, 0.02, 50), np.linspace(1.0, 0.02, 50)])
    moved = {"a.weight": 0.1 * cycle}
    assert told(Updates().detector(), measured(moved, 0.001 * cycle)) == []
