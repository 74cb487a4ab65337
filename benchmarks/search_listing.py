"""A search of 10,000 finished trials: how long until they are listed, and until the same command has found that nothing is left to do.

The search is drawn over five parameters, its trials are made up and stand in its files as a driver leaves them. Measured, each the median
of several new processes, start included:

- ``show``: ``musictrain search --show NAME``, the table of the best and the failures;
- ``dry_run``: the same command as before with ``--dry-run``: every point is enumerated and told to be known;
- ``again``: the same command as before: every trial is skipped, and what came of them is printed;
- ``first_end``: once, where nobody has told of the end yet: importance, page and table are made, too;

each in seconds that somebody waits, and in seconds of a processor, which others at work on the machine change less; and within one
process the parts of that: reading the points, reading the ledger, finding what comes next, ranking.

    python -m benchmarks.search_listing [--trials 10000] [--seeds 1] [--rule none] [--runs 3]
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.results_file import write_result
from musictrain.cli.search_loading import Loaded, as_typed, load, values_under, write_base, write_definition
from musictrain.cli.search_options import parser
from musictrain.search.keys import in_full
from musictrain.search.ledger import BEGUN, FAILED, FINISHED, REACHED, Ledger, LedgerWriter, Record, read_ledger
from musictrain.search.plan import Job, Planned, Round, next_round
from musictrain.search.resolving import add_known, read_known, records_of_identities, with_rungs
from musictrain.search.results import results_of
from musictrain.search.space import points_of, space_fingerprint

STEPS = 900
FAILURES = 0.01
BASE = {
    "trainer": {"max_steps": STEPS, "val_check_interval": 100, "check_val_every_n_epoch": None},
    "model": {"learning_rate": 0.001, "weight_decay": 0.1, "dropout": 0.1, "warmup": 100, "layers": 2},
}
SPACE = ("learning_rate=loguniform(1e-4, 1e-2)", "weight_decay=loguniform(1e-3, 1)", "dropout=uniform(0, 0.5)", "warmup=randint(10, 400)")


def command(folder: Path, trials: int, seeds: int, rule: str) -> list[str]:
    """What is typed."""
    return [
        *("--config", str(folder / "base.yaml"), "--name", "listed", "--runs", str(folder / "runs"), "--most-trials", str(trials)),
        *("--random", str(trials // seeds), *SPACE, "layers=2,4,6", "--seeds", ",".join(map(str, range(seeds)))),
        *([] if rule == "none" else [f"--{rule}", "--rungs", "100,300,900"]),
    ]


def write_search(folder: Path, words: list[str]) -> int:
    """Everything that a finished search leaves, but for the runs of its trials; gives back how many trials there are."""
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE))
    loaded = as_typed(parser().parse_args(words))
    loaded.folder.path.mkdir(parents=True)
    write_base(loaded)
    definition, _ = with_rungs(in_full(loaded.typed, BASE), BASE)
    points = points_of(definition, values_under(BASE))
    space, base = space_fingerprint(definition, values_under(BASE)), loaded.base.fingerprint
    known: list[dict[str, Any]] = [{"base": base, "resolved": BASE}, {"space": space, "points": [dict(point.values) for point in points]}]
    add_known(loaded.folder.points, known)
    missing = load(parser().parse_args(words)).missing
    told = [Planned(point, seed, f"{random.Random(f'{point.text} {seed}').getrandbits(256):064x}") for point, seed in missing]
    add_known(loaded.folder.points, records_of_identities(base, told))
    complete = load(parser().parse_args(words))
    write_definition(complete)
    train_all(complete)
    return len(complete.planned)


def train_all(loaded: Loaded) -> None:
    """Round after round into the ledger, without waiting for the disk after each."""
    ledger = Ledger()
    with LedgerWriter(loaded.folder.trials) as writer:
        while isinstance(todo := next_round(loaded.definition, loaded.planned, ledger), Round):
            records = [*todo.pruned, *(each for job in todo.jobs for each in made_up(job))]
            for record in records:
                ledger.take(record)
            writer.write(*records)


def made_up(job: Job) -> list[Record]:
    """The records of a job: a loss that the parameters make, and now and then a failure."""
    chance, values = random.Random(job.identity), job.point.values
    begun = Record(job.identity, dict(values), job.seed, job.run, BEGUN, job.from_step, host="here")
    if chance.random() < FAILURES:
        return [begun, Record(job.identity, dict(values), job.seed, job.run, FAILED, 40, reason="it crashed", attempts=1, seconds=9.0)]
    off = math.log10(values["model.learning_rate"]) + 3
    loss = 0.5 + off**2 + values["model.dropout"] / 4 + 40 / job.to_step + chance.gauss(0, 0.02)
    state = FINISHED if job.to_step == STEPS else REACHED
    work: dict[str, Any] = {"attempts": 1, "seconds": job.to_step / 10, "host": "here"}
    return [begun, Record(job.identity, dict(values), job.seed, job.run, state, job.to_step, {"val/loss": loss}, **work)]


def seconds_of(words: list[str], runs: int) -> dict[str, float]:
    """How long a new process takes, and how much of a processor: medians, in seconds."""
    waited, worked = [], []
    for _ in range(runs):
        began, before = time.perf_counter(), processor_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "musictrain", "search", *words], capture_output=True, text=True, timeout=300, check=False
        )
        waited.append(time.perf_counter() - began)
        worked.append(processor_seconds() - before)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} has failed:\n{done.stderr}{done.stdout[-2000:]}")
    return {"seconds": round(median(waited), 3), "processor_seconds": round(median(worked), 3)}


def processor_seconds() -> float:
    """What processes that have ended have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def parts_of(words: list[str], runs: int) -> dict[str, float]:
    """Seconds of each part within one process."""
    loaded = load(parser().parse_args(words))
    ledger = read_ledger(loaded.folder.trials)
    parts: dict[str, Callable[[], object]] = {
        "reading_points": lambda: read_known(loaded.folder.points),
        "loading": lambda: load(parser().parse_args(words)),
        "reading_ledger": lambda: read_ledger(loaded.folder.trials),
        "next_round": lambda: next_round(loaded.definition, loaded.planned, ledger),
        "ranking": lambda: results_of(loaded.definition, loaded.planned, ledger),
    }
    return {name: round(median(_timed(part) for _ in range(runs)), 4) for name, part in parts.items()}


def _timed(part: Callable[[], object]) -> float:
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def main() -> None:
    """Make the search, measure, write the result."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    options.add_argument("--trials", type=int, default=10_000)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--rule", choices=("none", "halving", "median"), default="none")
    options.add_argument("--runs", type=int, default=3)
    told = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = command(Path(folder), told.trials, told.seeds, told.rule)
        os.environ.pop("MUSICTRAIN_RUNS", None)
        trials = write_search(Path(folder), words)
        runs = ["--runs", str(Path(folder) / "runs")]
        values: dict[str, Any] = {
            **{"trials": trials, "seeds": told.seeds, "rule": told.rule},
            "show": seconds_of(["--show", "listed", *runs], told.runs),
            "dry_run": seconds_of([*words, "--dry-run"], told.runs),
            "first_end": seconds_of(words, 1),
            "again": seconds_of(words, told.runs),
            "parts_seconds": parts_of(words, told.runs),
        }
    write_result("search_listing" if told.rule == "none" else f"search_listing_{told.rule}", values)


if __name__ == "__main__":
    main()
