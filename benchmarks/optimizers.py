"""AdamW, Muon, SOAP and schedule-free AdamW, each at its own searched learning rate: steps and seconds to the same validation loss.

A small transformer learns Bach's chorales in eighths. For each optimizer the learning rate is searched first, on a seed that is not
counted later: three rates, each three times the one before, and further ones as long as the best is the last of them on a side. Then it is
trained with that rate for several seeds; the same seed has the same first weights and the same batches under every optimizer. Warm-up and
cosine for all but schedule-free, which warms up and stays. Weight decay is each optimizer's usual one; nothing else was searched.

The losses that are to be reached are those that AdamW has, on average over the seeds, after a half, three quarters and all of its steps.
Seconds are CPU seconds of training steps alone, on one thread; what is compared by them is this machine and this size, at which an
optimizer's own work weighs more than in a large network. Intervals are 95 % (Student's t) over the seeds; of steps and seconds the mean
share of AdamW's, seed by seed, over the seeds in which both got there.

    python -m benchmarks.optimizers [optimizer ...] [--seeds 3] [--size 1.0] [--output FILE]

Each training is written down as soon as it is done; those that were done with the same settings are not done again.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from scipy import stats

import musictrain.optim
from benchmarks.results_file import RESULTS, machine
from musictrain.data.tokenizers import VoiceGrid
from musictrain.datamodule import MusicDataModule
from musictrain.models.decoder import Decoder
from musictrain.module import MusicModule
from musictrain.optim import Constant, WarmupCosine

STEPS, VALIDATIONS, VALID_BATCHES = 400, 20, 4
WINDOW, ROWS = 128, 8
NETWORK = {"d_model": 96, "num_layers": 3, "num_heads": 4, "dropout": 0.1}
SETTINGS: dict[str, Any] = {**NETWORK, "window": WINDOW, "rows": ROWS, "valid_batches": VALID_BATCHES, "validations": VALIDATIONS}
ARMS: dict[str, dict[str, Any]] = {
    "AdamW": {"rates": (1e-3, 3e-3, 1e-2)},
    "Muon": {"rates": (1e-3, 3e-3, 1e-2)},
    "SOAP": {"rates": (1e-3, 3e-3, 1e-2)},
    "ScheduleFreeAdamW": {"rates": (3e-3, 1e-2, 3e-2), "betas": (0.9, 0.99)},
}
SEARCH_SEED = 1_000
MOST_FURTHER = 2
LEVEL = 0.95


def data_of(seed: int) -> MusicDataModule:
    """The chorales in eighths."""
    tokenizer = VoiceGrid(lowest=36, highest=81, steps_per_beat=2)
    return MusicDataModule("chorales", tokenizer, window=WINDOW, batch_size=ROWS, valid_batch_size=32, seed=seed)


def made_by(arm: str, rate: float) -> Callable[[Iterable], Any]:
    """What makes an optimizer."""
    options = {name: value for name, value in ARMS[arm].items() if name != "rates"}
    return functools.partial(getattr(musictrain.optim, arm), lr=rate, **options)


class Course(Callback):
    """The validation loss by steps and by seconds of training."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0
        self.course: list[tuple[int, float, float]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self._began = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds += time.process_time() - self._began

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.course.append((trainer.global_step, round(self.seconds, 3), round(float(trainer.callback_metrics["val/loss"]), 5)))


def train(arm: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """One training."""
    torch.manual_seed(seed)
    data = data_of(seed)
    data.setup("fit")
    warmup = max(1, steps // 20)
    schedule = Constant(warmup) if arm.startswith("ScheduleFree") else WarmupCosine(warmup, final_fraction=0.05)
    network = Decoder(data.vocab_size, max_context=WINDOW, **NETWORK)  # type: ignore[arg-type]
    counted = Course()
    with tempfile.TemporaryDirectory() as folder:
        lightning.Trainer(
            accelerator="cpu",
            max_steps=steps,
            max_epochs=-1,
            val_check_interval=max(1, steps // VALIDATIONS),
            check_val_every_n_epoch=None,
            limit_val_batches=VALID_BATCHES,
            gradient_clip_val=1.0,
            callbacks=[counted],
            default_root_dir=folder,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(MusicModule(network, optimizer=made_by(arm, rate), schedule=schedule), datamodule=data)
    return {"arm": arm, "rate": rate, "seed": seed, "seconds": round(counted.seconds, 1), "course": [list(each) for each in counted.course]}


# The search.


def final_loss(training: dict[str, Any]) -> float:
    """Of a training; infinite if it has burst."""
    loss = float(training["course"][-1][2])
    return loss if math.isfinite(loss) else math.inf


def next_rate(rates: tuple[float, ...], found: dict[float, float]) -> float | None:
    """The next learning rate to try, None when the search is done.

    Args:
        rates: to begin with.
        found: the losses so far, by rate.
    """
    if left := [rate for rate in rates if rate not in found]:
        return left[0]
    best = min(found, key=lambda rate: (found[rate], rate))
    if len(found) >= len(rates) + MOST_FURTHER or min(found) < best < max(found):
        return None
    return float(f"{best * 3 if best == max(found) else best / 3:.2g}")


# What comes of it.


def reached(course: list[list[float]], loss: float, column: int) -> float | None:
    """Steps (column 0) or seconds (column 1) after which the loss was first as low, in a line between two validations."""
    for before, after in zip([course[0], *course], course, strict=False):
        if after[2] <= loss:
            share = 1.0 if before[2] <= after[2] else min(1.0, max(0.0, (before[2] - loss) / (before[2] - after[2])))
            return before[column] + (after[column] - before[column]) * share
    return None


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean}
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summed_up(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each optimizer its rate, its final loss, and how much of AdamW's steps and seconds it needs."""
    counted = [each for each in trainings if each["seed"] != SEARCH_SEED]
    by_arm: dict[str, dict[int, dict[str, Any]]] = {}
    for each in counted:
        by_arm.setdefault(each["arm"], {})[each["seed"]] = each
    if "AdamW" not in by_arm:
        return {}
    courses = [each["course"] for each in by_arm["AdamW"].values()]
    places = {"half": 0.5, "three quarters": 0.75, "all": 1.0}
    targets = {name: statistics.fmean(course[round(place * len(course)) - 1][2] for course in courses) for name, place in places.items()}
    return {"targets": targets, "optimizers": {arm: compared(runs, by_arm["AdamW"], targets) for arm, runs in by_arm.items()}}


def compared(runs: dict[int, dict[str, Any]], adamw: dict[int, dict[str, Any]], targets: dict[str, float]) -> dict[str, Any]:
    """One optimizer."""
    some, both = next(iter(runs.values())), sorted(set(runs) & set(adamw))
    told: dict[str, Any] = {
        "rate": some["rate"],
        "seeds": len(runs),
        "final_loss": interval([final_loss(each) for each in runs.values()]),
        "final_loss_against_adamw": interval([final_loss(runs[seed]) - final_loss(adamw[seed]) for seed in both]),
        "milliseconds_a_step": interval([1_000 * each["course"][-1][1] / each["course"][-1][0] for each in runs.values()]),
    }
    for name, loss in targets.items():
        needed: dict[str, Any] = {}
        told[f"to_{name.replace(' ', '_')}"] = needed
        for column, unit in enumerate(("steps", "seconds")):
            mine = {seed: reached(each["course"], loss, column) for seed, each in runs.items()}
            theirs = {seed: reached(adamw[seed]["course"], loss, column) for seed in both}
            shares = [one / other for seed in both if (one := mine[seed]) is not None and (other := theirs[seed])]
            needed[unit] = [None if each is None else round(each, 1) for each in mine.values()]
            needed[f"{unit}_of_adamws"] = interval(shares) if shares else None
    return told


def main() -> None:
    """Train what has not been trained yet, and write down what comes of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("optimizers", nargs="*", metavar="optimizer", help=f"some of: {', '.join(ARMS)} (all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=float, default=1.0, help="a share of the steps, to try it out")
    parser.add_argument("--output", type=Path, default=RESULTS / "optimizers.json")
    options = parser.parse_args()
    if unknown := set(options.optimizers) - set(ARMS):
        parser.error(f"no such optimizer: {', '.join(sorted(unknown))}; there are: {', '.join(ARMS)}")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    steps = max(VALIDATIONS, round(STEPS * options.size))
    settings = {**SETTINGS, "steps": steps, "arms": json.loads(json.dumps(ARMS))}
    before = json.loads(options.output.read_text()) if options.output.is_file() else {}
    trainings: list[dict[str, Any]] = before["trainings"] if before.get("settings") == settings else []

    def done(arm: str, rate: float, seed: int) -> dict[str, Any]:
        key = (arm, rate, seed)
        for each in trainings:
            if (each["arm"], each["rate"], each["seed"]) == key:
                return each
        trainings.append(found := train(arm, rate, seed, steps))
        print(f"{arm} at {rate:g}, seed {seed}: {final_loss(found):.4f} after {found['seconds']:.0f} s", flush=True)
        result = {"settings": settings, **summed_up(trainings), "trainings": trainings, "machine": machine()}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")
        return found

    for arm in options.optimizers or ARMS:
        losses: dict[float, float] = {}
        while (rate := next_rate(ARMS[arm]["rates"], losses)) is not None:
            losses[rate] = final_loss(done(arm, rate, SEARCH_SEED))
        best = min(losses, key=lambda each: (losses[each], each))
        for seed in range(options.seeds):
            done(arm, best, seed)
    print(json.dumps(summed_up(trainings), indent=1))


if __name__ == "__main__":
    main()
