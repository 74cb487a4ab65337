"""Faults put into real runs of Bach's chorales: each is to be found within its detector's stated delay, with the right step and place, and
a run that goes back is to end with the validation loss of the run without the fault.

Through the command line, small networks, AnomalyAlerts with its default settings and with going back; one process, and two under DDP. The
fault of two processes is on the second one alone wherever it can be.

    python -m benchmarks.injected_faults [run ...] [--at-once 2] [--keep FOLDER] [--again]

Every run is written to ``results/injected_faults.json`` as soon as it has ended, and is not done again unless it is asked for.
"""

from __future__ import annotations

import argparse
import functools
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import real_faults
from benchmarks.simulated_runs import FAULTS as STATED
from benchmarks.watched_runs import DATA, HIGHEST, LOWEST, STEPS, Results, Run, Told, train
from musictrain import MusicDataModule, VoiceGrid
from musictrain.data.corpus_store import cache_root
from musictrain.listening.window_places import places_of

BATCH = 140  # the step that it makes is 141: no look at weights, no validation, and well behind the warm-up
STEP = 141
SPOILED_TOKENS = 256
LEAK_FROM, LEAK_MIB, LEAK_STEPS = 250, 1.5, 720
SLOW_FROM, SLOW_TO = 120, 199
WITHIN = 0.02
SAID = ("where", "parameter", "layer", "rank", "batch")
FIRST_MODULE = {"voice_frames": "network.reader.inputs", "decoder": "network.embedding"}
A_WEIGHT = {"voice_frames": "network.head.hidden.0.weight", "decoder": "network.blocks.1.feed_forward.up.weight"}
BACK = {"action": "roll_back"}


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and by what it is to be known.

    Args:
        kinds: of findings, any of which is right.
        first: step at which it begins, from 1.
        delay: steps within which it is to be found, as its detector states; 0 is at the very step.
        put: what it adds to a run, whose network and number of processes are given.
        place: what the alert is to say of the place, by the same two; what is not named there is not looked at.
        steps: of its runs.
    """

    kinds: tuple[str, ...]
    first: int
    delay: int
    put: Callable[[Run, Path], Run]
    place: Callable[[Run], Mapping[str, Any]] = field(default=lambda run: {})
    steps: int = STEPS


def second(run: Run) -> int | None:
    """The rank that has the fault: the second, if there are two."""
    return 1 if run.processes > 1 else None


def stated(name: str) -> int:
    """Steps within which a fault is to be found: what the simulated runs are held to."""
    return STATED[name].most_looks * STATED[name].looks_every - (STATED[name].looks_every == 1)


# Where a batch's rows lie.


@functools.cache
def data() -> MusicDataModule:
    """The chorales, as the runs have them."""
    options: dict[str, Any] = {**DATA, "transpose": tuple(DATA["transpose"])}  # type: ignore[arg-type]
    return MusicDataModule(corpus="chorales", tokenizer=VoiceGrid(LOWEST, HIGHEST), seed=1, **options)


def rows(run: Run) -> list[tuple[int, int]]:
    """Piece and start of the rows of the spoiled batch that the faulty rank reads."""
    batch = data().train_plan().batch(BATCH, second(run) or 0, run.processes)
    return list(zip(batch["piece"].tolist(), batch["start"].tolist(), strict=True))


def pieces(run: Run) -> list[str]:
    """The same, as an alert says it."""
    return places_of(data(), rows(run))


def region(run: Run) -> int:
    """The place in the store of tokens that the spoiled batch, and no other of its epoch, is made of."""
    piece, start = rows(run)[0]
    return int(data().store.offset[piece]) + start + 8


def strange_tokens() -> list[int]:
    """As bytes by chance make them; nearly all are beyond the vocabulary."""
    return np.random.default_rng(1).integers(0, 2**16, SPOILED_TOKENS).tolist()


def wrong_tokens() -> list[int]:
    """Of the vocabulary, and no music."""
    return np.random.default_rng(1).integers(4, data().vocab_size, SPOILED_TOKENS).tolist()


def own_cache(run: Run, folder: Path) -> Path:
    """A copy of what is prepared of the chorales, to be spoiled."""
    cache = folder / f"{run.name}.cache"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(data().store.folder, cache / "tokens" / data().store.folder.name)
    for corpus in (cache_root(None) / "corpora").glob("chorales-*"):
        shutil.copytree(corpus, cache / "corpora" / corpus.name)
    return cache


# What goes wrong.


def nan_in_batch(run: Run, folder: Path) -> Run:
    """In the data of one batch."""
    options = {"batch": BATCH, "module": FIRST_MODULE[run.network], "rank": second(run)}
    return replace(run, callbacks=[(real_faults.NanInBatch, options)])


def infinite_weight(run: Run, folder: Path) -> Run:
    """Of a matrix in the middle of the network."""
    options = {"step": STEP, "parameter": A_WEIGHT[run.network], "rank": second(run)}
    return replace(run, callbacks=[(real_faults.InfiniteWeight, options)])


def hundredfold_rate(run: Run, folder: Path) -> Run:
    """For twenty steps."""
    return replace(run, callbacks=[(real_faults.HundredfoldRate, {"step": STEP})])


def overwritten(tokens: Callable[[], list[int]]) -> Callable[[Run, Path], Run]:
    """A region of the store, twenty steps before it is read."""

    def put(run: Run, folder: Path) -> Run:
        options = {"step": STEP - 20, "first": region(run), "tokens": tokens()}
        kind, others = run.data
        cache = own_cache(run, folder)
        return replace(run, callbacks=[(real_faults.OverwrittenTokens, options)], data=(kind, {**others, "cache_dir": str(cache)}))

    return put


def overwritten_before(run: Run, folder: Path) -> Run:
    """A region of the store, before the run begins."""
    cache, store = own_cache(run, folder), data().store
    real_faults.overwrite(cache / "tokens" / store.folder.name, region(run), strange_tokens(), store.meta["dtype"])
    return replace(run, data=(run.data[0], {**run.data[1], "cache_dir": str(cache)}))


def slow_rank(run: Run, folder: Path) -> Run:
    """One process sleeps before each of some batches."""
    options = {"sleeping_rank": 1, "seconds": 0.25, "first": SLOW_FROM, "last": SLOW_TO}
    return replace(run, data=("benchmarks.real_faults.SleepingData", options))


def leak(run: Run, folder: Path) -> Run:
    """A callback that keeps something of every step."""
    return replace(run, callbacks=[(real_faults.LeakingCallback, {"step": LEAK_FROM, "mib": LEAK_MIB})])


FAULTS = {
    "nan_in_batch": Fault(
        *(("non_finite",), STEP, stated("loss is nan"), nan_in_batch),
        place=lambda run: {"pieces": pieces(run), **({"rank": 1} if run.processes > 1 else {})},
    ),
    "infinite_weight": Fault(
        *(("non_finite",), STEP, stated("a weight is infinite"), infinite_weight),
        place=lambda run: {"parameter": A_WEIGHT[run.network], "of": "weights"},
    ),
    "rate_x100": Fault(("updates", "loss_spike", "gradient_spike"), STEP, stated("learning rate x 100, its updates"), hundredfold_rate),
    "store_strange": Fault(("data",), STEP, stated("a token never seen"), overwritten(strange_tokens), place=lambda run: {"batch": BATCH}),
    "store_wrong": Fault(
        *(("loss_spike",), STEP, stated("one batch of garbage"), overwritten(wrong_tokens)), place=lambda run: {"has_piece": pieces(run)[0]}
    ),
    "store_before": Fault(("data",), 0, 0, overwritten_before),
    "slow_rank": Fault(("slow_rank",), SLOW_FROM + 1, stated("one rank takes twice as long"), slow_rank, place=lambda run: {"rank": 1}),
    "leak": Fault(("memory",), LEAK_FROM, stated("memory grows by 1 % a look"), leak, steps=LEAK_STEPS),
}
NETWORK_OF = {1: "voice_frames", 2: "decoder"}
RUNS = {
    1: {
        "none": ["default"],
        **{name: ["default", "roll_back"] for name in ("nan_in_batch", "infinite_weight", "rate_x100", "store_strange", "store_wrong")},
        **{name: ["default"] for name in ("store_before", "leak")},
    },
    2: {
        **{name: ["default"] for name in ("none", "slow_rank", "leak")},
        **{name: ["roll_back"] for name in ("nan_in_batch", "infinite_weight", "rate_x100", "store_strange")},
    },
}


def settings(fault: str, answer: str) -> dict[str, Any]:
    """Of AnomalyAlerts: nothing, or going back for what this fault is known by."""
    return dict.fromkeys(FAULTS[fault].kinds, BACK) if answer == "roll_back" else {}


def measured(fault: str, answer: str, processes: int, folder: Path) -> dict[str, Any]:
    """One run, and what it has said of the fault."""
    began = time.monotonic()
    run = Run(name=f"{fault}_{answer}_{processes}", network=NETWORK_OF[processes], processes=processes)
    if fault == "none":
        told = train(run, folder)
        return {**told.how_it_ended(), "alerts": [in_short(alert) for alert in told.alerts], "seconds": seconds_since(began)}
    run = FAULTS[fault].put(replace(run, alerts=settings(fault, answer), steps=FAULTS[fault].steps), folder)
    told = train(run, folder)
    return {**told.how_it_ended(), **judged(FAULTS[fault], run, told), "seconds": seconds_since(began)}


def seconds_since(began: float) -> float:
    """Rounded; how long it took says how busy the machine was."""
    return round(time.monotonic() - began, 1)


def judged(fault: Fault, run: Run, told: Told) -> dict[str, Any]:
    """Whether it was found in time and at the right place."""
    right = [alert for alert in told.alerts if alert["kind"] in fault.kinds and (alert.get("step") or 0) >= fault.first]
    others = [in_short(alert) for alert in told.alerts if not right or alert is not right[0]]
    if fault.first == 0:
        mended = [alert for alert in right if "tokens.bin has changed" in alert["message"] and "built again" in alert["message"]]
        return {"found": bool(mended), "found_at_step": 0, "did": "the store is built again", "other_alerts": others}
    if not right:
        return {"found": False, "other_alerts": others}
    alert, expected = right[0], fault.place(run)
    late = alert["step"] - fault.first
    return {
        "found": True,
        "kind": alert["kind"],
        "fault_at_step": fault.first,
        "found_at_step": alert["step"],
        "stated_delay_steps": fault.delay,
        "in_time": late <= fault.delay,
        "place": {key: alert[key] for key in SAID if key in alert and (key != "rank" or run.processes > 1)},
        "right_place": all(is_said(alert, key, value) for key, value in expected.items()),
        "message": alert["message"],
        "other_alerts": others,
    }


def is_said(alert: Mapping[str, Any], key: str, value: Any) -> bool:
    """Whether an alert says this of the place."""
    return value in alert.get("pieces", []) if key == "has_piece" else alert.get(key) == value


def in_short(alert: Mapping[str, Any]) -> str:
    """Kind and step."""
    return f"{alert['kind']} at step {alert.get('step') or 0}"


def summary(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of all runs that are there: how many faults were found, in time, at the right place; and how near the validation losses lie."""
    with_fault = {name: run for name, run in runs.items() if not name.startswith("none")}
    known = [run for run in with_fault.values() if "kind" in run]
    back = {name: distance(name, run, runs) for name, run in with_fault.items() if run.get("went_back") or run.get("did")}
    measured_back = [one for one in back.values() if one is not None]
    early = [run for run in known for alert in run["other_alerts"] if int(alert.rsplit(" ", 1)[1]) < run["fault_at_step"]]
    return {
        "runs_with_a_fault": len(with_fault),
        "found": sum(bool(run["found"]) for run in with_fault.values()),
        "in_time": sum(run["in_time"] for run in known),
        "at_the_right_place": sum(run["right_place"] for run in known),
        "of_those_with_a_delay_and_a_place": len(known),
        "alerts_before_the_fault": len(early),
        "val_loss_against_the_run_without_the_fault": back,
        "furthest": max(measured_back, key=abs) if measured_back else None,
        "median": round(statistics.median(map(abs, measured_back)), 4) if measured_back else None,
        "target": WITHIN,
        "not_measured_yet": [name for name in works(Path()) if name not in runs],
    }


def distance(name: str, run: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Of the validation loss at the end from that of the run without the fault, as a share of it."""
    without = runs.get(f"none_default_{name.rsplit('_', 1)[1]}")
    if without is None or not math.isfinite(run["val_loss"]) or run["steps"] != without["steps"]:
        return None
    return round(run["val_loss"] / without["val_loss"] - 1, 4)


def works(folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every run by its name."""
    return {
        f"{fault}_{answer}_{processes}": functools.partial(measured, fault, answer, processes, folder)
        for processes, faults in RUNS.items()
        for fault, answers in faults.items()
        for answer in answers
    }


def main(words: list[str] | None = None) -> None:
    """Measure what is not there yet and write ``results/injected_faults.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", help="names; none is all")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder of the runs, which otherwise are removed")
    parser.add_argument("--again", action="store_true", help="forget what was measured: of the named runs, or of all")
    given = parser.parse_args(words)
    results = Results("injected_faults", again=given.again and not given.runs)
    if given.again and given.runs:
        results.forget(given.runs)
        for name in given.runs if given.keep is not None else ():
            (given.keep / f"{name}.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        every = works(given.keep or Path(aside))
        results.measure({name: every[name] for name in given.runs or every}, given.at_once)
    results.write(summary(results.runs))


if __name__ == "__main__":
    main()
