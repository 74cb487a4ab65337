"""Loss curves on the chorales in bfloat16 against those in 32 bits, with the distance between two seeds as the measure.

The shipped recipe `chorales` is trained for some steps in every precision: the same weights at the beginning, the same batches, the same
dropout. A band of a few thousandths of a nat is what rounding does; another seed does more.

    python -m benchmarks.precision
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results_file import write_result

STEPS, EVERY = 200, 50
# Of the largest difference of any validation from that in 32 bits, nats per token.
BAND = 0.02
RUNS = {
    "32-true": ["--trainer.precision", "32-true"],
    "bf16-mixed": ["--trainer.precision", "bf16-mixed"],
    "bf16-true": ["--trainer.precision", "bf16-true"],
    "32-true, another seed": ["--trainer.precision", "32-true", "--seed_everything", "2"],
}


def curve(options: list[str], runs: Path) -> dict[int, float]:
    """``val/loss`` by step of one training."""
    limits = {"max_steps": STEPS, "val_check_interval": EVERY, "enable_checkpointing": "false"}
    words = [word for name, value in limits.items() for word in (f"--trainer.{name}", str(value))]
    command = [sys.executable, "-m", "musictrain", "fit", "--config", "chorales", "--runs", str(runs), *words, *options]
    subprocess.run(command, check=True, capture_output=True, timeout=1800)
    (metrics,) = runs.glob("*/metrics.jsonl")
    rows = map(json.loads, metrics.read_text(encoding="utf-8").splitlines())
    return {row["step"]: round(row["val/loss"], 5) for row in rows if "val/loss" in row}


def main() -> None:
    """Train every run, and write ``results/precision.json``."""
    curves = {}
    for name, options in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            curves[name] = curve(options, Path(folder))
        print(name, curves[name], flush=True)
    exact = curves["32-true"]
    furthest = {name: max(abs(values[step] - exact[step]) for step in exact) for name, values in curves.items() if name != "32-true"}
    results: dict[str, Any] = {
        "band": BAND,
        "furthest_from_32_bits": {name: round(value, 5) for name, value in furthest.items()},
        "inside_the_band": furthest["bf16-mixed"] <= BAND,
        "val_loss": {name: {str(step): value for step, value in values.items()} for name, values in curves.items()},
    }
    write_result("precision", results)


if __name__ == "__main__":
    main()
