"""Tokens per second of ``musictrain fit``, all callbacks on, against four other ways to train the same decoder on the same chorales.

- a bare PyTorch loop in bf16, batches ready in memory, the same fused AdamW and clipping
- plain Lightning with its ModelCheckpoint, TensorBoard logger and progress bar, in bf16
- Hugging Face's Trainer in bf16 with fused AdamW, logging and saving as often
- Hugging Face's Trainer with its defaults (32 bits), against ``fit`` with ours (precision ``auto``)

All five train in one process, a step each in turn. The third and fourth need ``pip install transformers accelerate`` and are left out
without. Steps are medians; a step that saves is told apart.

    python -m benchmarks.fit_speed [steps]
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks import fit_sides as sides
from benchmarks.results_file import write_result
from benchmarks.turns import Turns, seconds_per_step

TARGETS = {sides.BARE: 0.97, sides.LIGHTNING: 1.0, sides.TRAINER: 1.0, sides.TRAINER_DEFAULTS: 2.0}
WARM_UP = 10


def train_all(setting: sides.Setting) -> Turns:
    """Train each of them to its end, in turns."""
    rows, vocab_size = setting.rows_of_music()
    trainings = {
        sides.FIT: sides.fit(setting),
        sides.BARE: sides.bare_loop(setting, rows, vocab_size),
        sides.LIGHTNING: sides.plain_lightning(setting, rows, vocab_size),
    }
    if sides.has_trainer():
        alike: dict[str, Any] = {"bf16": True, "optim": "adamw_torch_fused", "max_grad_norm": 1.0}
        alike |= {"logging_steps": sides.LOG_EVERY, "save_steps": setting.save_every, "learning_rate": 3e-4, "weight_decay": 0.1}
        trainings[sides.TRAINER] = sides.hugging_face(setting, sides.TRAINER, rows, vocab_size, **alike)
        trainings[sides.TRAINER_DEFAULTS] = sides.hugging_face(setting, sides.TRAINER_DEFAULTS, rows, vocab_size)
    turns = Turns(list(trainings))
    with sides.asking(turns):
        turns.run(trainings)
    return turns


def measure(setting: sides.Setting) -> dict[str, Any]:
    """Tokens per second of each, and the ratios of ``fit`` to the others, over all and over each third of the rounds."""
    load_before = os.getloadavg()[0]
    turns = train_all(setting)
    rounds = list(turns.rounds(WARM_UP))
    columns = {name: [each[name] for each in rounds] for name in turns.seconds}
    seconds = {name: seconds_per_step(steps, sides.LOG_EVERY) for name, steps in columns.items()}
    return {
        "tokens_per_second": {name: round(setting.tokens_per_step / each) for name, each in seconds.items()},
        "ratio_of_fit_to": {name: round(each / seconds[sides.FIT], 4) for name, each in seconds.items() if name != sides.FIT},
        "ratio_in_each_third": {name: thirds(columns[sides.FIT], steps) for name, steps in columns.items() if name != sides.FIT},
        "target": {name: target for name, target in TARGETS.items() if name in seconds},
        "extra_ms_of_a_step_that_saves": {name: extra_of_saving(steps, setting.save_every) for name, steps in turns.seconds.items()},
        "tokens_per_step": setting.tokens_per_step,
        "d_model": setting.d_model,
        "rounds": len(rounds),
        "threads": torch.get_num_threads(),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }


def thirds(ours: list[float], theirs: list[float]) -> list[float]:
    """The ratio in each third of the rounds: what the machine's other work makes of it."""
    third = max(1, len(ours) // 3)
    parts = [slice(start, start + third) for start in (0, third, 2 * third)]
    return [round(statistics.median(theirs[part]) / statistics.median(ours[part]), 3) for part in parts if ours[part]]


def extra_of_saving(steps: list[float], save_every: int) -> float | None:
    """Milliseconds by which the step that saves is longer than the median; None if none saved.

    A trainer that fetches one batch ahead saves a turn later.
    """
    saving = [max(steps[place - 1 : place + 1]) for place in range(save_every, len(steps) + 1, save_every)]
    return round(1000 * (statistics.median(saving) - statistics.median(steps)), 1) if saving else None


def main() -> None:
    """Measure and write ``results/fit_speed.json``."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 70
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        result = measure(sides.Setting(Path(folder), num_steps))
    write_result("fit_speed", result)
    if not sides.has_trainer():
        print("Without Hugging Face's Trainer: pip install transformers accelerate")


if __name__ == "__main__":
    main()
