"""Tokens per second of ``musictrain fit``, all callbacks on, against four other ways to train the same decoder on the same chorales.

- a bare PyTorch loop in bf16, batches ready in memory, the same fused AdamW and clipping
- plain Lightning with its ModelCheckpoint, TensorBoard logger and progress bar, in bf16
- Hugging Face's Trainer in bf16 with fused AdamW, logging and saving as often
- Hugging Face's Trainer with its defaults (32 bits), against ``fit`` with ours (precision ``auto``)

All five train in one process, a step each in turn; a ratio is the median of the rounds' ratios. The last two need ``pip install
transformers accelerate`` and are left out without. What a step that logs or saves takes more is told apart.

    python -m benchmarks.fit_speed [steps [threads]]
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import fit_sides as sides
from benchmarks.results_file import write_result
from benchmarks.turns import Turns

TARGETS = {sides.BARE: 0.97, sides.LIGHTNING: 1.0, sides.TRAINER: 1.0, sides.TRAINER_DEFAULTS: 2.0}
WARM_UP = 5
SECONDS = 200.0


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
    ours, others = columns[sides.FIT], {name: steps for name, steps in columns.items() if name != sides.FIT}
    return {
        "ratio_of_fit_to": {name: round(paired(ours, steps), 4) for name, steps in others.items()},
        "ratio_in_each_third": {name: thirds(ours, steps) for name, steps in others.items()},
        "ratio_of_the_fastest_steps": {name: round(min(steps) / min(ours), 4) for name, steps in others.items()},
        "target": {name: target for name, target in TARGETS.items() if name in others},
        "tokens_per_second": {name: round(setting.tokens_per_step / statistics.median(steps)) for name, steps in columns.items()},
        "tokens_per_second_of_the_fastest_step": {name: round(setting.tokens_per_step / min(steps)) for name, steps in columns.items()},
        "extra_ms_of_a_step_that_logs": {name: extra_of_logging(steps) for name, steps in turns.seconds.items()},
        "extra_ms_of_a_step_that_saves": {name: extra_of_saving(steps, setting.save_every) for name, steps in turns.seconds.items()},
        "tokens_per_step": setting.tokens_per_step,
        "d_model": setting.d_model,
        "rounds": len(rounds),
        "threads": torch.get_num_threads(),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }


def paired(ours: list[float], theirs: list[float]) -> float:
    """How much faster ours is: the median over the rounds, in each of which both took one step."""
    return statistics.median(their / our for our, their in zip(ours, theirs, strict=True))


def thirds(ours: list[float], theirs: list[float]) -> list[float]:
    """The ratio in each third of the rounds: what the machine's other work makes of it."""
    third = max(1, len(ours) // 3)
    parts = [slice(start, start + third) for start in (0, third, 2 * third)]
    return [round(paired(ours[part], theirs[part]), 3) for part in parts if ours[part]]


def extra_of_logging(steps: list[float]) -> float | None:
    """Milliseconds by which the fastest step that logs is longer than the fastest of the step before it."""
    logging_steps = [max(steps[place - 1 : place + 1]) for place in range(2 * sides.LOG_EVERY, len(steps) + 1, sides.LOG_EVERY)]
    before = [steps[place - 2] for place in range(2 * sides.LOG_EVERY, len(steps) + 1, sides.LOG_EVERY)]
    return round(1000 * (min(logging_steps) - min(before)), 1) if before else None


def rounds_for(setting: sides.Setting, seconds: float, num_trainings: int) -> int:
    """So many rounds as fit into the time here and now, by a few steps of the bare loop."""
    rows, vocab_size = setting.rows_of_music()
    start = time.perf_counter()
    sides.bare_loop(replace(setting, num_steps=3), rows, vocab_size)()
    return max(22, min(80, round(seconds / (num_trainings + 1) / ((time.perf_counter() - start) / 4))))


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
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else min(2, os.cpu_count() or 1))
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        setting = sides.Setting(Path(folder))
        num_steps = int(sys.argv[1]) if len(sys.argv) > 1 else rounds_for(setting, SECONDS, 5 if sides.has_trainer() else 3)
        result = measure(replace(setting, num_steps=num_steps))
    write_result("fit_speed", result)
    if not sides.has_trainer():
        print("Without Hugging Face's Trainer: pip install transformers accelerate")


if __name__ == "__main__":
    main()
