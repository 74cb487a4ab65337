"""Folk tunes, then chorales: does a network that has learnt fiddle tunes need fewer chorales?

Three ways to train one and the same small decoder, each a protocol of ``musictrain stages``, for several seeds:

- ``two_stages``: so many steps on the tunes of Ryan's collection, then as many on Bach's chorales, beginning with the best weights.
- ``same_chorales``: the chorales alone, for as many steps as the second stage above has.
- ``same_total``: the chorales alone, for as many steps as both stages have together.

Learning rate, warm-up and cosine are the same in every stage, and so is the vocabulary. What is told is nats per note on the chorales'
validation split, at the step of the lowest validation loss; of each difference between two ways the mean over seeds, paired, with Student's
95 % interval. The learning rate was not searched for each way; a search could move each of them.

    python -m benchmarks.two_stages [way ...] [--steps 300] [--seeds 3] [--keep FOLDER]

The result is written after every protocol; one that is interrupted goes on where it was if its runs are kept (``--keep``).
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

from benchmarks.results_file import RESULTS, write_result
from musictrain.runs import RunFolder, read_rows

NAME = "two_stages"
WAYS = ("two_stages", "same_chorales", "same_total")
SCORES = ("val/nats_per_note", "val/loss")
LEVEL = 0.95
LONGEST_SECONDS = 3600


def stage_config(corpus: str, seed: int, validate_every: int) -> dict[str, Any]:
    """A decoder of under half a million weights; nothing is sampled, nothing is drawn."""
    network = {"d_model": 96, "num_layers": 3, "num_heads": 4, "dropout": 0.1, "max_context": 2048}
    schedule = {"class_path": "musictrain.optim.WarmupCosine", "init_args": {"warmup_steps": 20, "final_fraction": 0.05}}
    silent = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}
    return {
        "seed_everything": seed,
        "trainer": {
            **{"accelerator": "cpu", "devices": 1, "precision": "32-true", "gradient_clip_val": 1.0, "enable_progress_bar": False},
            **{"val_check_interval": validate_every, "check_val_every_n_epoch": None, "log_every_n_steps": 10, "callbacks": [silent]},
        },
        "model": {
            "class_path": "musictrain.MusicModule",
            "init_args": {
                "network": {"class_path": "musictrain.Decoder", "init_args": network},
                "optimizer": {"class_path": "musictrain.optim.AdamW", "init_args": {"lr": 0.002, "weight_decay": 0.1}},
                "schedule": schedule,
            },
        },
        "data": {
            "class_path": "musictrain.MusicDataModule",
            "init_args": {
                **{"corpus": corpus, "window": 256, "batch_size": 8, "transpose": [-5, 6]},
                "tokenizer": {"class_path": "musictrain.MidiTokTokenizer", "init_args": {"kind": "REMI"}},
            },
        },
    }


def protocol_of(way: str, seed: int, steps: int) -> dict[str, Any]:
    """One way to train, as a protocol."""
    every = max(1, steps // 5)

    def stage(corpus: str, name: str, count: int) -> dict[str, Any]:
        config = stage_config(corpus, seed, every)
        if corpus != "chorales":
            config["trainer"]["limit_val_batches"] = 8  # it only says which version is handed over
        return {"name": name, "config": config, "budget": {"steps": count}}

    if way == "two_stages":
        stages = [stage("ryans", "folk", steps), {**stage("chorales", "chorales", steps), "hand_over": "best"}]
    else:
        stages = [stage("chorales", "chorales", steps if way == "same_chorales" else 2 * steps)]
    return {"name": f"{way}-{seed}-{steps}", "stages": stages}


def train(way: str, seed: int, steps: int, folder: Path) -> dict[str, float]:
    """Train one way, or go on with it; gives back the scores on the chorales.

    Raises:
        RuntimeError: if it does not come to its end.
    """
    told = protocol_of(way, seed, steps)
    path = folder / f"{told['name']}.yaml"
    path.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    words = [sys.executable, "-m", "musictrain", "stages", "--config", str(path), "--runs", str(folder / "runs")]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST_SECONDS, env=settings, check=False)
    if done.returncode:
        raise RuntimeError(f"{way}, seed {seed} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    state = json.loads((folder / "runs" / told["name"] / "state.json").read_text(encoding="utf-8"))
    return scores(RunFolder(folder / "runs" / state["records"][-1]["run"]))


def scores(run: RunFolder) -> dict[str, float]:
    """Of the validation with the lowest loss."""
    rows = [row for row in read_rows(run.metrics) if all(key in row for key in SCORES)]
    best = min(rows, key=lambda row: float(row["val/loss"]))
    return {"nats_per_note": float(best["val/nats_per_note"]), "loss": float(best["val/loss"]), "step": int(best["step"])}


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and Student's interval; nothing but the mean of a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": round(mean, 4), "interval": None}
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": round(mean, 4), "interval": [round(mean - half, 4), round(mean + half, 4)]}


def summary(runs: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Each way over its seeds, and the differences between two ways over the seeds that both have."""
    found: dict[str, Any] = {"nats_per_note": {}, "difference_of_nats_per_note": {}}
    for way, by_seed in runs.items():
        found["nats_per_note"][way] = interval([each["nats_per_note"] for each in by_seed.values()])
    for other in WAYS[1:]:
        common = [seed for seed in runs.get(WAYS[0], {}) if seed in runs.get(other, {})]
        if common:
            differences = [runs[WAYS[0]][seed]["nats_per_note"] - runs[other][seed]["nats_per_note"] for seed in common]
            found["difference_of_nats_per_note"][f"{WAYS[0]} - {other}"] = interval(differences)
    return found


def measure(ways: list[str], steps: int, seeds: int, folder: Path) -> None:
    """Train what is missing, and write the result each time."""
    file = RESULTS / f"{NAME}.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    runs: dict[str, dict[str, dict[str, float]]] = before.get("runs", {}) if before.get("steps_of_a_stage") == steps else {}
    for seed in range(1, seeds + 1):
        for way in ways:
            if str(seed) not in runs.setdefault(way, {}):
                runs[way][str(seed)] = train(way, seed, steps, folder)
                write_result(NAME, {"steps_of_a_stage": steps, **summary({way: told for way, told in runs.items() if told}), "runs": runs})


def main() -> None:
    """Measure and write ``results/two_stages.json``."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", help=f"of {', '.join(WAYS)}; all of them")
    parser.add_argument("--steps", type=int, default=300, help="of a stage (300)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument("--keep", type=Path, help="where the runs stay, to be gone on with and looked at")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = told.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        measure(told.ways or list(WAYS), told.steps, told.seeds, folder)


if __name__ == "__main__":
    main()
