"""Random search with successive halving against plain random search with twice its steps, over seven parameters of a small decoder.

Both search the same space on Bach's chorales, side by side and for several seeds of the draws:

- ``halving``: 27 points for 30 steps, the best 9 of them on to 90, the best 3 of those on to 270: 1,890 steps in all.
- ``random``: 14 other points of the same space, each for 270 steps: 3,780 steps.

What is told of each is the lowest validation loss that its search has found after 270 steps, and, since the winner of many draws was lucky
with its seed too, what its ``best.yaml`` comes to with four other seeds, which no search has seen. Differences are halving minus random: by
seed of the draws, mean and Student's 95 % interval. Negative: halving found the better one.

    python -m benchmarks.search [--seeds 5] [--slots 2] [--keep FOLDER]

Everything is a ``musictrain search``: one that is interrupted goes on where it was if its runs are kept (``--keep``).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from scipy import stats

from benchmarks.results_file import write_result
from musictrain.runs import RunFolder, read_rows

STEPS, RUNGS, EVERY = 270, (30, 90, 270), 30
POINTS = {"halving": 27, "random": 14}
FRESH_SEEDS = (1_001, 1_002, 1_003, 1_004)
LONGEST_SECONDS = 5_400
SPACE = {
    "model.init_args.optimizer.init_args.lr": "loguniform(1e-4, 5e-2)",
    "model.init_args.optimizer.init_args.weight_decay": "loguniform(1e-3, 1.0)",
    "model.init_args.schedule.init_args.warmup_steps": "logintegers(2, 90)",
    "model.init_args.network.init_args.d_model": [32, 48, 64],
    "model.init_args.network.init_args.num_layers": [1, 2, 3],
    "model.init_args.network.init_args.dropout": "uniform(0.0, 0.5)",
    "trainer.gradient_clip_val": "loguniform(0.1, 10.0)",
}


def base() -> dict[str, Any]:
    """What every trial is trained with: a decoder on the chorales in eighths; nothing is sampled."""
    silent = [{"class_path": f"musictrain.callbacks.{name}", "init_args": arguments} for name, arguments in SILENT.items()]
    network = {"d_model": 48, "num_layers": 2, "num_heads": 4, "dropout": 0.1, "max_context": 256}
    schedule = {"class_path": "musictrain.optim.WarmupCosine", "init_args": {"warmup_steps": 20, "final_fraction": 0.05}}
    tokenizer = {"class_path": "musictrain.VoiceGrid", "init_args": {"lowest": 36, "highest": 81, "steps_per_beat": 2}}
    data = {"corpus": "chorales", "window": 128, "batch_size": 8, "valid_window": 256, "tokenizer": tokenizer}
    return {
        "trainer": {
            **{"accelerator": "cpu", "devices": 1, "precision": "32-true", "gradient_clip_val": 1.0, "max_steps": STEPS, "max_epochs": -1},
            **{"val_check_interval": EVERY, "check_val_every_n_epoch": None, "limit_val_batches": 4, "log_every_n_steps": 10},
            "callbacks": silent,
        },
        "model": {
            "class_path": "musictrain.MusicModule",
            "init_args": {
                "network": {"class_path": "musictrain.Decoder", "init_args": network},
                "optimizer": {"class_path": "musictrain.optim.AdamW", "init_args": {"lr": 0.002, "weight_decay": 0.1}},
                "schedule": schedule,
            },
        },
        "data": {"class_path": "musictrain.MusicDataModule", "init_args": data},
    }


SILENT: dict[str, dict[str, Any]] = {"WriteSamples": {"num": 0, "continuations": 0}}


def musictrain(*words: str) -> str:
    """What one command prints.

    Raises:
        RuntimeError: if it does not end well.
    """
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "musictrain", *words], capture_output=True, text=True, timeout=LONGEST_SECONDS, env=settings, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def searched(way: str, seed: int, folder: Path, slots: int) -> dict[str, Any]:
    """One search, to its end: what it trained, the best it found, and what that comes to with seeds that it has not seen."""
    runs, config, name = folder / "runs", folder / "base.yaml", f"{way}-{seed}"
    config.write_text(yaml.safe_dump(base(), sort_keys=False), encoding="utf-8")
    draws = {"n": POINTS[way], "seed": seed if way == "halving" else 100 + seed, "space": SPACE}
    space = folder / f"{name}.yaml"
    space.write_text(yaml.safe_dump({"random": draws}, sort_keys=False), encoding="utf-8")
    rule = ["--halving", "3", "--rungs", ",".join(map(str, RUNGS))] if way == "halving" else []
    where = ["--runs", str(runs), "--name", name]
    musictrain("search", "--config", str(config), "--space", str(space), *rule, *where, "--slots", str(slots))
    told = json.loads(musictrain("search", "--show", name, "--runs", str(runs), "--json"))
    best = runs / name / "best.yaml"
    return {**facts_of(told), "fresh": [fresh(best, each, runs, f"{name}-again-{each}") for each in FRESH_SEEDS]}


def facts_of(told: dict[str, Any]) -> dict[str, Any]:
    """Of a search: how many trials it had, how many steps they took, and its best."""
    rows = told["points"]
    [best] = [row for row in rows if row["rank"] == 1]
    trials = [trial for row in rows for trial in row["trials"]]
    return {
        "trials": len(trials),
        "failed": sum(trial["state"] == "failed" for trial in trials),
        "steps": sum(int(trial["step"]) for trial in trials),
        "best": float(best["results"][0][0]),
        "values": best["values"],
    }


def fresh(config: Path, seed: int, runs: Path, name: str) -> float:
    """The lowest validation loss of a configuration with another seed."""
    there = sorted(path for path in runs.glob(f"*{name}*") if (path / "metrics.jsonl").is_file())
    if not there or len(losses(there[0])) < STEPS // EVERY:
        musictrain("fit", "--config", str(config), "--seed_everything", str(seed), "--runs", str(runs), "--name", name)
        there = sorted(path for path in runs.glob(f"*{name}*") if (path / "metrics.jsonl").is_file())
    return min(losses(there[-1]))


def losses(run: Path) -> list[float]:
    """Of every validation of a run."""
    return [float(row["val/loss"]) for row in read_rows(RunFolder(run).metrics) if "val/loss" in row]


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and Student's interval; nothing but the mean of a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": round(mean, 4), "interval": None}
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": round(mean, 4), "interval": [round(mean - half, 4), round(mean + half, 4)]}


def summary(found: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Both ways, and their difference over the seeds that both have."""
    seeds = sorted(set(found["halving"]) & set(found["random"]))
    if not seeds:
        return {}
    means = {way: {seed: statistics.fmean(found[way][seed]["fresh"]) for seed in seeds} for way in POINTS}
    return {
        "steps": {way: [found[way][seed]["steps"] for seed in seeds] for way in POINTS},
        "best_found": {way: [round(found[way][seed]["best"], 4) for seed in seeds] for way in POINTS},
        "with_fresh_seeds": {way: [round(means[way][seed], 4) for seed in seeds] for way in POINTS},
        "halving_minus_random": {
            "best_found": interval([found["halving"][seed]["best"] - found["random"][seed]["best"] for seed in seeds]),
            "with_fresh_seeds": interval([means["halving"][seed] - means["random"][seed] for seed in seeds]),
        },
    }


def measure(seeds: int, slots: int, folder: Path) -> None:
    """Search what is missing, and write the result each time both ways are done."""
    found: dict[str, dict[str, dict[str, Any]]] = {way: {} for way in POINTS}
    for seed in range(seeds):
        for way in POINTS:
            found[way][str(seed)] = searched(way, seed, folder, slots)
        write_result("search", {"points": POINTS, "rungs": RUNGS, "space": SPACE, **summary(found), "searches": found})


def main() -> None:
    """Measure and write ``results/search.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many pairs of searches")
    parser.add_argument("--slots", type=int, default=2, help="trials at the same time")
    parser.add_argument("--keep", type=Path, default=None, help="where the runs are kept, a temporary folder if left out")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        measure(options.seeds, options.slots, options.keep)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options.seeds, options.slots, Path(folder))


if __name__ == "__main__":
    main()
