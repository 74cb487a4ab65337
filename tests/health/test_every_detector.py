"""Laws of all detectors: whatever is measured, they go on, resume as if nothing had happened, and remember little."""

from __future__ import annotations

import json
import math
import pickle
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulated_runs import FAULTS, SHAPES, clean_run, with_fault
from musictrain.health import ACTIONS, DETECTORS, Detector, Settings, Vitals, stronger
from tests.health.sequences import told

NAMES = (
    *("loss", "gradient_norm", "learning_rate", "entropy", "loss_scale", "tokens_per_second", "data_wait", "memory", "stage"),
    *("update_ratio/a", "update_ratio/b", "dead/a", "saturated/b", "rank_seconds/0", "rank_seconds/1", "rank_seconds/2"),
    *("non_finite/loss", "non_finite/weights", "val/loss", "val/bar_repetition", "val/empty_bar_rate"),
)
QUICK = {"loss_spike": {"window": 12, "least": 4, "level": 4}, "gradient_spike": {"window": 12, "least": 4, "level": 4}}
QUICK |= {
    "divergence": {"block": 2, "patience": 2},
    "plateau": {"block": 2, "patience": 2},
    "memory": {"block": 1, "patience": 2, "warm_up": 1},
}
QUICK |= {"throughput": {"window": 6, "least": 2}, "loss_scale": {"window": 6, "warm_up": 1}, "entropy": {"window": 6, "least": 2}}

number = st.one_of(st.sampled_from([0.0, 1.0, 0.5, 40.0, 1e-30, 1e30, math.nan, math.inf, -math.inf, -3.0]), st.floats(0.0, 100.0))
measured = st.dictionaries(st.sampled_from(NAMES), number, max_size=len(NAMES))
batch = st.fixed_dictionaries(
    {},
    optional={
        "number": st.integers(0, 99),
        "pieces": st.lists(st.sampled_from("ab"), max_size=5),
        "unseen_tokens": st.lists(st.integers(0, 99), max_size=2),
        "silent_beats": st.floats(0, 50),
        "window_beats": st.floats(0, 50),
    },
)
runs = st.lists(st.tuples(measured, batch), min_size=1, max_size=40).map(
    lambda looks: [Vitals(step, values, {}, facts) for step, (values, facts) in enumerate(looks)]
)


def quick(kind: str) -> Settings:
    """Settings that speak soon."""
    return DETECTORS[kind](calm=2, **QUICK.get(kind, {}))


def as_text(found: list[Any]) -> str:
    """Findings to compare, nan being itself."""
    return repr(found)


@pytest.mark.parametrize("kind", DETECTORS)
@given(run=runs, place=st.integers(0, 40))
@settings(max_examples=15)
def test_a_resume_at_any_place_gives_the_same_findings(kind: str, run: list[Vitals], place: int) -> None:
    whole = quick(kind).detector()
    before, after = told(whole, run[:place]), []
    state = json.loads(json.dumps(whole.state_dict()))  # plain values, and nothing but them
    resumed = quick(kind).detector()
    resumed.load_state_dict(state)
    for vitals in run[place:]:
        after.append((whole.see(vitals), whole.unusual))
        assert as_text([(resumed.see(vitals), resumed.unusual)]) == as_text(after[-1:])
    assert as_text([resumed.state_dict()]) == as_text([whole.state_dict()])
    for finding in before + [one for one, _ in after if one is not None]:
        assert finding.kind == kind
        assert finding.sentence()
        assert finding.advice
        json.dumps(finding.as_details(), allow_nan=False)


@cache
def clean(shape: str = "steady", seed: int = 5, steps: int = 1_200) -> list[Vitals]:
    return clean_run(SHAPES[shape], seed, steps)


@pytest.mark.parametrize("kind", sorted({fault.kind for fault in FAULTS.values()}))
def test_beginnings_and_ends_take_turns(kind: str) -> None:
    """A place that ends has begun, and what has ended may begin again."""
    fault = next(one for one in FAULTS.values() if one.kind == kind)
    said = told(DETECTORS[kind]().detector(), with_fault(clean(), fault, 700))
    assert said
    assert not said[0].over
    for earlier, later in pairwise(said):
        assert later.over or earlier.over or later.where != earlier.where


@pytest.mark.parametrize("kind", DETECTORS)
def test_nothing_measured_is_nothing_found(kind: str) -> None:
    detector = DETECTORS[kind]().detector()
    state = detector.state_dict()
    assert told(detector, [Vitals(step, {}) for step in range(50)]) == []
    assert detector.unusual is None
    assert detector.state_dict() == state


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_state_that_knows_nothing_of_it_begins_anew(kind: str) -> None:
    detector = DETECTORS[kind]().detector()
    detector.load_state_dict({})
    assert detector.state_dict() == DETECTORS[kind]().detector().state_dict()


@pytest.mark.parametrize("kind", ["loss_spike", "gradient_spike", "memory", "throughput", "divergence"])
def test_what_was_stored_with_longer_windows_is_shortened(kind: str) -> None:
    detector, shorter = DETECTORS[kind]().detector(), quick(kind).detector()
    told(detector, clean()[:700])
    shorter.load_state_dict(detector.state_dict())
    told(shorter, clean()[700:])
    fresh = quick(kind).detector()
    told(fresh, clean())
    assert len(pickle.dumps(shorter.state_dict())) <= 1.5 * len(pickle.dumps(fresh.state_dict())) + 200


@pytest.mark.parametrize("kind", DETECTORS)
def test_memory_is_bounded(kind: str) -> None:
    run = clean("noisy", 3, 2_000)
    detector: Detector = DETECTORS[kind]().detector()
    told(detector, run[:800])
    early = len(pickle.dumps(detector.state_dict()))
    told(detector, run[800:])
    assert len(pickle.dumps(detector.state_dict())) <= 1.5 * early + 500


def test_the_state_is_what_torch_loads_safely(tmp_path: Any) -> None:
    run = clean()[:300]
    for settings_type in DETECTORS.values():
        detector = settings_type().detector()
        told(detector, run)
        torch.save(detector.state_dict(), tmp_path / "state.pt")
        assert torch.load(tmp_path / "state.pt", weights_only=True) == detector.state_dict()


def test_every_detector_keeps_the_protocol_and_its_key() -> None:
    for kind, settings_type in DETECTORS.items():
        detector = settings_type().detector()
        assert isinstance(detector, Detector)
        assert (settings_type.kind, detector.settings) == (kind, settings_type())


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"action": "rollback"}, r"got action='rollback'; it needs one of off, log, .*Did you mean 'roll_back'"),
        ({"attempts": 0}, r"got attempts=0; it needs a whole number from 1 on"),
        ({"calm": 1.5}, r"got calm=1.5; it needs a whole number from 1 on"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DETECTORS[kind](**wrong)


def test_what_follows_is_stronger_until_the_end() -> None:
    followed = [stronger(action) for action in ACTIONS]
    assert followed == ["off", "log", "alert", "reduce_lr", "roll_back", "stop", "stop"]


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("throughput", {"most_drop": 1.5}, "Throughput got most_drop=1.5; it needs a share, from 0 to 1"),
        ("layers", {"most_dead": -0.1}, "Layers got most_dead=-0.1; it needs a number from 0 on"),
        ("loss_spike", {"sudden": "14"}, "LossSpike got sudden='14'; it needs a number from 0 on"),
        ("memory", {"least_growth": math.nan}, "Memory got least_growth=nan; it needs a number from 0 on"),
        ("plateau", {"patience": True}, "Plateau got patience=True; it needs a whole number from 1 on"),
    ],
)
def test_numbers_out_of_their_range_are_refused(kind: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DETECTORS[kind](**wrong)
