"""Table A: train the shipped recipe ``jsb16`` by ``fit`` on the JSB chorales' 16th grid, then measure nats per note on whole pieces.

    python -m benchmarks.jsb --data jsb16.json                 train, measure, write benchmarks/results/jsb.json
    python -m benchmarks.jsb --data jsb16.json --run RUN       measure a run that is there already

The file holds ``{"train": [...], "valid": [...]}`` and may hold ``"test"``; a piece is a list of frames [S, A, T, B], -1 for a rest.
Nothing is chosen on the test split: it is measured once, with the checkpoint that the recipe ends with.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.results_file import write_result
from benchmarks.table_a import assert_causal, nats_per_note
from musictrain.cli.trained_run import load_trained_run
from musictrain.runs import RunFolder, find_run

PUBLISHED = {"Music Transformer, validation": 0.335, "bigram per voice, validation": 0.960}


def train(data: Path, config: str, runs: Path, arguments: list[str]) -> dict[str, Any]:
    """Run ``fit`` in a process of its own; gives back what it cost.

    Raises:
        subprocess.CalledProcessError: if the training fails.
    """
    command = [sys.executable, "-m", "musictrain", "fit", "--config", config, "--data.init_args.corpus", str(data.resolve())]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*command, "--runs", str(runs), "--name", "jsb16", *arguments], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_minutes": round((time.monotonic() - started) / 60, 2), "cpu_core_minutes": round(cpu / 60, 2)}


def measure(run: RunFolder, data: Path, checkpoint: str) -> dict[str, Any]:
    """Table A of one run: parameters, step, and nats per note of every split but the training's.

    Raises:
        ValueError: if the network looks ahead.
    """
    trained = load_trained_run(run, checkpoint)
    splits = json.loads(data.read_text())
    assert_causal(trained.network, splits["valid"][0], trained.tokenizer)  # type: ignore[arg-type]
    scores = {name: nats_per_note(trained.network, splits[name], trained.tokenizer) for name in ("valid", "test") if splits.get(name)}  # type: ignore[arg-type]
    return {
        **scores,
        "run": run.name,
        "checkpoint": checkpoint,
        "network": type(trained.network).__name__,
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        "step": trained.step,
        "network_arguments": yaml.safe_load(run.config.read_text())["model"]["init_args"]["network"]["init_args"],
        "published": PUBLISHED,
    }


def main() -> None:
    """Train unless a run is named, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="the JSB chorales on a 16th grid, as JSON")
    parser.add_argument("--run", help="measure this run instead of training one")
    parser.add_argument("--runs", type=Path, default=Path(os.environ.get("MUSICTRAIN_RUNS", "runs")), help="folder of run folders")
    parser.add_argument("--config", default="jsb16", help="recipe or configuration file to train")
    parser.add_argument("--checkpoint", default="last", help="last: chosen by nobody; best: by validation loss")
    arguments, for_fit = parser.parse_known_args()
    if not arguments.data.is_file():
        parser.error(f"--data {arguments.data}: there is no such file.")
    cost = {} if arguments.run else train(arguments.data, arguments.config, arguments.runs, for_fit)
    run = find_run(arguments.run or "latest", arguments.runs)
    torch.manual_seed(0)
    write_result("jsb", {**measure(run, arguments.data, arguments.checkpoint), "training": cost or "not in this call"})


if __name__ == "__main__":
    main()
