"""False alarms and misses of the detectors with their default settings, on simulated runs; and false alarms of ten real ones.

Clean runs of several shapes give alerts that should not be; faults put into clean runs give what is missed and how long it takes. The
delay is in looks: at every step for loss and gradients, every ten for most others, at every validation for the rest. ``wild`` runs have
batches whose loss doubles for once; whether such an alert is false is a matter of taste, and they are left out of the mean.

The real ones train two small networks on Bach's chorales through the command line, each with a seed and a learning rate of its own, two of
them as two processes; every alert of any detector is a false one. They are written down one by one and not done again.

    python -m benchmarks.false_alarms [runs of each shape] [--only simulated|real] [--at-once 2] [--keep FOLDER] [--again]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulated_runs import FAULTS, SHAPES, UNTOLD, Fault, Rows, Shape, clean_run, with_fault
from musictrain.health import DETECTORS, Detector, Finding, Vitals

RUNS = 20
STEPS = 2_000
SPOILED = ("steady", "noisy")
FAULT_BEGINS = (600, 1_003)


def detectors() -> list[Detector]:
    """One of each, with its default settings."""
    return [settings().detector() for settings in DETECTORS.values()]


def findings(rows: Iterable[Vitals], looking: list[Detector]) -> list[Finding]:
    """What is told of a run, without what says that something is over."""
    told = (detector.see(row) for row in rows for detector in looking)
    return [finding for finding in told if finding is not None and not finding.over]


def false_alarms(shape: Shape, runs: int) -> dict[str, Any]:
    """Alerts in clean runs, by kind; what is only logged is counted by itself."""
    alerts: Counter[str] = Counter()
    logged: Counter[str] = Counter()
    for seed in range(runs):
        for finding in findings(clean_run(shape, seed, STEPS), detectors()):
            (logged if DETECTORS[finding.kind]().action == "log" else alerts)[finding.kind] += 1
    return {"runs": runs, "alerts": alerts.total(), "by_kind": dict(alerts), "only_logged": dict(logged)}


def delay(rows: Rows, fault: Fault, begins: int) -> int | None:
    """Looks from the beginning of the fault to its finding, both counted; None if it is missed."""
    detector = DETECTORS[fault.kind]().detector()
    for row in with_fault(rows, fault, begins):
        finding = detector.see(row)
        if finding is not None and not finding.over and row.step >= begins:
            return (row.step - begins) // fault.looks_every + 1
    return None


def misses(fault: Fault, runs: Sequence[Rows]) -> dict[str, Any]:
    """How many are found in time, and how soon; the fault begins early and late in each run."""
    delays = [delay(rows, fault, begins) for rows in runs for begins in FAULT_BEGINS]
    found = sorted(one for one in delays if one is not None)
    in_time = sum(one <= fault.most_looks for one in found)
    spread = {"median": int(np.median(found)), "longest": found[-1]} if found else {}
    return {"cases": len(delays), "found": len(found), "in_time": in_time, "most_looks": fault.most_looks, "delay_looks": spread}


def cost(runs: int = 3) -> float:
    """Microseconds a step that all detectors together take, measuring not included."""
    rows = [clean_run(SHAPES["steady"], seed, STEPS) for seed in range(runs)]
    start = time.process_time()
    for run in rows:
        findings(run, detectors())
    return 1e6 * (time.process_time() - start) / (runs * STEPS)


def simulated(runs: int) -> dict[str, Any]:
    """Of simulated runs, so many of each shape."""
    clean = {name: false_alarms(shape, runs) for name, shape in SHAPES.items()}
    spoiled = [clean_run(SHAPES[shape], 1_000 + seed, STEPS) for shape in SPOILED for seed in range(max(1, runs // 4))]
    faults = {name: {"kind": fault.kind, **misses(fault, spoiled)} for name, fault in FAULTS.items()}
    return {
        "steps_a_run": STEPS,
        "clean_runs": clean,
        "alerts_a_clean_run": sum(one["alerts"] for name, one in clean.items() if name != "wild") / (runs * (len(clean) - 1)),
        "stages_that_are_not_told": false_alarms(UNTOLD, runs),
        "faults": faults,
        "faults_found_in_time": sum(one["in_time"] for one in faults.values()) / sum(one["cases"] for one in faults.values()),
        "all_detectors_us_a_step": round(cost(), 1),
    }


def main(words: list[str] | None = None) -> None:
    """Measure and write ``results/false_alarms.json``; what is not measured now stays in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=RUNS, help="simulated runs of each shape")
    parser.add_argument("--only", choices=("simulated", "real"))
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder of the real runs, which otherwise are removed")
    parser.add_argument("--again", action="store_true", help="forget the real runs that were measured")
    given = parser.parse_args(words)
    # Lightning takes seconds to import, and the tests of the detectors need none of it.
    from benchmarks import clean_runs
    from benchmarks.watched_runs import Results

    results = Results("false_alarms", again=given.again)
    if given.only != "real":
        results.write(simulated(given.runs))
    if given.only != "simulated":
        with tempfile.TemporaryDirectory() as aside:
            results.measure(clean_runs.works(given.keep or Path(aside)), given.at_once)
        results.write(clean_runs.summary(results.runs))


if __name__ == "__main__":
    main()
