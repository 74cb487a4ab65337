"""A small network with a teacher and without: what it comes to on Bach's chorales after the same steps on the same batches.

The teacher is trained once and kept, and so is the result of every student: what was interrupted goes on where it was. A pair of students
shares its seed, and with it the first weights, the batches and dropout; the interval is of the difference within pairs, 95 % by Student's
t over the seeds. Everything is reported as it is.

    python -m benchmarks.distillation                     about 17 core-minutes
    python -m benchmarks.distillation --size long         three times the students' steps: about 26 more for 3 seeds
    python -m benchmarks.distillation --size toy          seconds: does it run?
    python -m benchmarks.distillation --only teacher      or: students, summary
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback

from benchmarks.results_file import write_result
from musictrain import MusicDataModule, MusicModule, VoiceFrames, VoiceGrid
from musictrain.data.corpora import cache_root
from musictrain.distillation import Distillation
from musictrain.optim import AdamW, WarmupCosine
from musictrain.runs.atomic import atomic_write

LOWEST, HIGHEST = 36, 81
ARMS: dict[str, dict[str, Any] | None] = {
    "without": None,
    "with": {"temperature": 2.0, "weight": 0.7},
    "milder": {"temperature": 1.0, "weight": 0.5},
}
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
T_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Size:
    """How much is done."""

    name: str
    teacher: dict[str, int]
    student: dict[str, int]
    teacher_steps: int
    steps: int
    validations: int
    window: int
    batch_size: int


SIZES = {
    "real": Size(
        "real",
        teacher={"embedding": 192, "hidden": 256, "head_hidden": 256},
        student={"embedding": 64, "hidden": 80, "head_hidden": 80, "num_layers": 1},
        teacher_steps=900,
        steps=400,
        validations=5,
        window=512,
        batch_size=8,
    ),
    "toy": Size(
        "toy",
        teacher={"embedding": 32, "hidden": 48, "head_hidden": 48},
        student={"embedding": 8, "hidden": 8, "head_hidden": 8, "num_layers": 1},
        teacher_steps=4,
        steps=4,
        validations=2,
        window=64,
        batch_size=2,
    ),
}
SIZES["long"] = replace(SIZES["real"], name="long", steps=1200)
# The longer students have the same teacher.
TEACHER_OF = {"long": "real"}


class Curve(Callback):
    """What each validation of a fit gave."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Note the step and the likelihood."""
        values = {key: float(trainer.callback_metrics[key]) for key in ("val/loss", "val/nats_per_note")}
        self.rows.append({"step": trainer.global_step, **values})


def data_of(size: Size, seed: int) -> MusicDataModule:
    """The chorales as the recipe reads them, in shorter rows; the toy measures on them all the same."""
    return MusicDataModule(
        "chorales",
        VoiceGrid(lowest=LOWEST, highest=HIGHEST),
        window=size.window,
        batch_size=size.batch_size,
        packing=False,
        align=64,
        valid_window=64 if size.name == "toy" else 4096,
        transpose=(-6, 6),
        seed=seed,
    )


def network_of(sizes: dict[str, int], dropout: float) -> VoiceFrames:
    """For that tokenizer."""
    return VoiceFrames(
        VoiceGrid(lowest=LOWEST, highest=HIGHEST).vocab_size,
        lowest=LOWEST,
        highest=HIGHEST,
        dropout=dropout,
        input_dropout=dropout / 2,
        **sizes,
    )


def train(size: Size, sizes: dict[str, int], steps: int, seed: int, dropout: float, distillation: Distillation | None) -> dict[str, Any]:
    """One fit; gives back its curve, its seconds and, under ``module``, what was trained."""
    lightning.seed_everything(seed, verbose=False)
    module = MusicModule(
        network_of(sizes, dropout),
        lambda groups: AdamW(groups, lr=3e-3, betas=(0.9, 0.99), weight_decay=0.05),
        WarmupCosine(warmup_steps=max(1, steps // 20), final_fraction=0.02),
        distillation=distillation,
    )
    curve = Curve()
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1,
        check_val_every_n_epoch=None, val_check_interval=max(1, steps // size.validations), gradient_clip_val=1.0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, limit_val_batches=1 if size.name == "toy" else 1.0, callbacks=[curve], use_distributed_sampler=False,
    )  # fmt: skip
    began = time.process_time()
    trainer.fit(module, data_of(size, seed))
    parameters = sum(each.numel() for each in module.network.parameters())
    told = {"parameters": parameters, "steps": steps, "seconds_of_cpu": round(time.process_time() - began, 1), "curve": curve.rows}
    return {**told, "module": module}


def trained_teacher(size: Size, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The teacher's file, and what it came to; trained if it is not there."""
    path, told = folder / "teacher.ckpt", folder / "teacher.json"
    if not told.is_file():
        result = train(size, size.teacher, size.teacher_steps, seed=1, dropout=0.2, distillation=None)
        network = result.pop("module").network
        sizes = {"vocab_size": network.vocab_size, "lowest": LOWEST, "highest": HIGHEST, **size.teacher}
        described = {"class_path": "musictrain.VoiceFrames", "init_args": sizes}
        state = {f"network.{name}": value for name, value in network.state_dict().items()}
        tokenizer = VoiceGrid(lowest=LOWEST, highest=HIGHEST)
        data = {"tokenizer": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint}}
        torch.save({"state_dict": state, "hyper_parameters": {"network": described}, "global_step": size.teacher_steps, "data": data}, path)
        atomic_write(told, json.dumps(result, indent=1))
        print("teacher", result["curve"][-1], flush=True)
    return path, json.loads(told.read_text())


def students(size: Size, folder: Path, teacher: Path, seeds: int) -> list[dict[str, Any]]:
    """Every student, seed by seed; those whose result is kept are not trained again."""
    found = []
    for seed in range(1, seeds + 1):
        for arm, settings in ARMS.items():
            told = folder / f"student-{arm}-{seed}.json"
            if not told.is_file():
                distillation = None if settings is None else Distillation(str(teacher), **settings)
                result = train(size, size.student, size.steps, seed, dropout=0.1, distillation=distillation)
                del result["module"]
                atomic_write(told, json.dumps({"arm": arm, "seed": seed, **result}, indent=1))
                print(arm, seed, result["curve"][-1], flush=True)
            found.append(json.loads(told.read_text()))
    return found


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95 % interval over the seeds."""
    mean = statistics.fmean(values)
    half = T_QUANTILES[min(len(values) - 1, 9)] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": round(mean, 5), "low": round(mean - half, 5), "high": round(mean + half, 5)}


def at(student: dict[str, Any], place: int) -> float:
    """What a student had at one validation, counted from 0."""
    return float(student["curve"][place]["val/nats_per_note"])


def summary(size: Size, teacher: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """What there is to read: each arm, the difference within pairs at the end and on the way, and what the teacher costs."""
    by = {(each["arm"], each["seed"]): each for each in found}
    seeds = sorted({each["seed"] for each in found})
    ends = {arm: [by[arm, seed]["curve"][-1]["val/nats_per_note"] for seed in seeds] for arm in ARMS}
    gaps = [
        {
            "step": by["without", seeds[0]]["curve"][place]["step"],
            **{
                f"{arm}_minus_without": interval([at(by[arm, s], place) - at(by["without", s], place) for s in seeds])
                for arm in ARMS
                if arm != "without"
            },
        }
        for place in range(min(len(each["curve"]) for each in found))
    ]
    parameters = found[0]["parameters"]
    seconds = {arm: statistics.fmean(by[arm, seed]["seconds_of_cpu"] for seed in seeds) for arm in ARMS}
    return {
        "size": size.name,
        "unit": "nats per note on the validation chorales, in their own key",
        "seeds": seeds,
        "teacher": {
            "parameters": teacher["parameters"],
            "nats_per_note": teacher["curve"][-1]["val/nats_per_note"],
            "steps": teacher["steps"],
        },
        "student": {"parameters": parameters, "share_of_teacher": round(parameters / teacher["parameters"], 3), "steps": size.steps},
        "settings": ARMS,
        "at_the_end": {arm: {"each": [round(value, 5) for value in values], **interval(values)} for arm, values in ends.items()},
        "on_the_way": gaps,
        "seconds_of_cpu": {arm: round(value, 1) for arm, value in seconds.items()},
    }


def main() -> None:
    """Train what is missing, and write ``results/distillation.json``, that of longer students beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="real")
    parser.add_argument("--only", choices=("teacher", "students", "summary"), default=None)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--keep", type=Path, default=None, help="folder of what is kept between calls")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    size = SIZES[options.size]
    root = cache_root() / "benchmarks"
    folder = options.keep or root / f"distillation-{size.name}"
    folder.mkdir(parents=True, exist_ok=True)
    path, teacher = trained_teacher(size, options.keep or root / f"distillation-{TEACHER_OF.get(size.name, size.name)}")
    if options.only == "teacher":
        return
    found = students(size, folder, path, options.seeds)
    if options.only == "students":
        return
    told = summary(size, teacher, found)
    if size.name == "toy":
        print(json.dumps(told, indent=1))
    else:
        write_result("distillation" if size.name == "real" else f"distillation_{size.name}", told)


if __name__ == "__main__":
    main()
