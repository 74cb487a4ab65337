"""On simulated runs the detectors say nothing of what is well, and find what is not in the time they promise."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks.false_alarms import delay, detectors, findings
from benchmarks.simulated_runs import FAULTS, SHAPES, Rows, clean_run, with_fault
from musictrain.health import DETECTORS


@cache
def steady_run() -> Rows:
    return clean_run(SHAPES["steady"], 11, 1_300)


WITHOUT_SPIKES = [name for name in SHAPES if name not in {"wild", "one row a batch"}]


@pytest.mark.parametrize("shape", WITHOUT_SPIKES)
def test_what_is_well_is_not_told_of(shape: str) -> None:
    said = findings(clean_run(SHAPES[shape], 77, 1_500), detectors())
    assert [finding.sentence() for finding in said if DETECTORS[finding.kind]().action != "log"] == []


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("begins", [600, 703])
def test_a_fault_is_found_in_time(name: str, begins: int) -> None:
    fault = FAULTS[name]
    looks = delay(steady_run(), fault, begins)
    assert looks is not None, f"{name} was missed"
    assert looks <= fault.most_looks


def test_every_detector_that_alerts_has_a_fault_to_find() -> None:
    assert {fault.kind for fault in FAULTS.values()} == {kind for kind, settings in DETECTORS.items() if settings().action != "log"}


def test_the_same_seed_is_the_same_run_up_to_its_fault() -> None:
    clean = clean_run(SHAPES["noisy"], 4, 200)
    assert clean == clean_run(SHAPES["noisy"], 4, 200)
    spoiled = list(with_fault(clean, FAULTS["one batch of garbage"], 150))
    assert spoiled[:150] == clean[:150]
    assert spoiled[151:] == clean[151:]
    assert spoiled[150].values["loss"] == 6 * clean[150].values["loss"]
