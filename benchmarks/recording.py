"""What it costs to write a run down: everything on against everything off, tokens per second of training.

*Off* is the bare Trainer: no logger, no callback, no progress line, no checkpoints. *On* is the same training with everything that
watches it: records and status, progress line, live page, ThroughputReport, notifications to a file, TensorBoard, and W&B offline. Samples
and versions are in neither: what they cost is measured elsewhere (``fit_speed``, ``checkpoints``).

Each training is a process of its own. They come in pairs, in turns first and second; a ratio is the median over the pairs, once of the
time from one step to the last and once of the processor's time, in which other work of the machine does not count.

    python -m benchmarks.recording [pairs [steps]]
"""

from __future__ import annotations

import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks.results_file import write_result

WARM_UP, ROWS, WINDOW = 20, 8, 512
SIDES = ("off", "on")
TARGET = 0.98


def train(side: str, num_steps: int, folder: Path) -> dict[str, float]:
    """Train once in this process; seconds and processor seconds from step ``WARM_UP`` to the last."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

    from musictrain import Decoder, MusicDataModule, MusicModule

    class Clock(Callback):
        """Takes the time at two steps."""

        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
            if trainer.global_step in (WARM_UP, num_steps):
                times.append((time.perf_counter(), processor_seconds()))

    times: list[tuple[float, float]] = []
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    seed_everything(1)
    data = MusicDataModule(window=WINDOW, batch_size=ROWS)
    options, callbacks = watchers(folder) if side == "on" else ({"logger": False, "enable_progress_bar": False}, [])
    trainer = Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=num_steps,
        log_every_n_steps=10,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[*callbacks, Clock()],
        **options,
    )
    trainer.fit(MusicModule(Decoder(data.vocab_size, 256, 6, 4)), data)
    (began, used), (ended, used_in_all) = times
    return {"seconds": ended - began, "processor_seconds": used_in_all - used}


def watchers(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Everything that watches a run, as options and callbacks of a Trainer."""
    from musictrain.callbacks import LivePage, Notifications, ProgressLine, RunLogger, RunRecorder, ThroughputReport
    from musictrain.loggers import TensorBoard, WandB

    loggers = [RunLogger(folder), TensorBoard(), WandB()]
    return {"logger": loggers}, [RunRecorder(), ThroughputReport(), LivePage(), Notifications(file=True), ProgressLine()]


def processor_seconds() -> float:
    """Of this process and of those it has started and waited for."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def measured(side: str, num_steps: int) -> dict[str, float]:
    """One training in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "benchmarks.recording", "--side", side, str(num_steps), folder]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"The training with everything {side} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(num_pairs: int, num_steps: int) -> dict[str, Any]:
    """Ratios of everything on to everything off."""
    load_before = os.getloadavg()[0]
    pairs = []
    for number in range(num_pairs):
        order = SIDES if number % 2 == 0 else SIDES[::-1]
        pairs.append({side: measured(side, num_steps) for side in order})
    ratios = {unit: [pair["off"][unit] / pair["on"][unit] for pair in pairs] for unit in ("seconds", "processor_seconds")}
    tokens = ROWS * WINDOW * (num_steps - WARM_UP)
    return {
        "ratio_of_tokens_per_second": round(statistics.median(ratios["seconds"]), 4),
        "ratio_of_tokens_per_processor_second": round(statistics.median(ratios["processor_seconds"]), 4),
        "ratios_of_the_pairs": {unit: [round(ratio, 4) for ratio in each] for unit, each in ratios.items()},
        "target": TARGET,
        "tokens_per_second": {side: round(statistics.median(tokens / pair[side]["seconds"] for pair in pairs)) for side in SIDES},
        "steps": num_steps,
        "pairs": num_pairs,
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> None:
    """Measure and write ``results/recording.json``; with ``--side``, be one of the trainings."""
    words = sys.argv[1:]
    if words[:1] == ["--side"]:
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        print("\n" + json.dumps(train(words[1], int(words[2]), Path(words[3]))))
        return
    num_pairs, num_steps = int(words[0]) if words else 5, int(words[1]) if len(words) > 1 else 200
    write_result("recording", measure(num_pairs, num_steps))


if __name__ == "__main__":
    main()
