"""A curriculum against none at the same token budget: tokens to a given validation loss, and the final loss, on Bach's chorales.

A small transformer learns the chorales in eighths, always from as many tokens; each arm with the same seeds, so that arms are compared seed
by seed (same first weights, same order of the windows, but for what the curriculum changes):

- ``none``
- ``difficulty``: from the easiest tenth of the windows, by surprisal, to all of them over the first half of the budget (root)
- ``hard first``: the same with the order turned round, by which an effect of the order is told from one of repetition
- ``length``: rows grow from an eighth of the window to all of it over the first third of the budget, in more and shorter steps
- ``both``: difficulty and length
- ``by value``: difficulty, as far as the validation loss has come on its way

The losses that are to be reached are those that ``none`` has, on average over the seeds, after a half, three quarters and all of the
budget.
Intervals are 95 % (Student's t) over the seeds, of the difference to ``none``.

    python -m benchmarks.curriculum [arm ...] [--seeds 3] [--size 1.0] [--output FILE]

Each training is written down as soon as it is done; those that were done with the same settings are not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch import Callback

from benchmarks.results_file import RESULTS, machine
from musictrain.callbacks import CurriculumSchedule
from musictrain.curriculum import Dial
from musictrain.data.orderings import Ordering, difficulty_of
from musictrain.data.tokenizers import VoiceGrid
from musictrain.datamodule import MusicDataModule
from musictrain.models.decoder import Decoder
from musictrain.module import MusicModule
from musictrain.optim import WarmupCosine

TOKENS = 1_000_000
WINDOW, ROWS = 256, 8
VALIDATIONS = 20
SETTINGS = {"d_model": 96, "num_layers": 3, "num_heads": 4, "dropout": 0.1, "window": WINDOW, "rows": ROWS, "lr": 0.003}
ARMS = ("none", "difficulty", "hard first", "length", "both", "by value")
# Student's t, two-sided 95 %, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def curriculum(arm: str, tokens: int) -> CurriculumSchedule | None:
    """The callback of an arm, None for none."""
    difficulty = {"until": tokens // 2, "shape": "root", "start": 0.1}
    orderings = {"surprisal": 1.0}
    length = {"until": tokens // 3, "start": 0.125}
    arms: dict[str, dict[str, Any]] = {
        "difficulty": {"difficulty": difficulty, "orderings": orderings},
        "hard first": {"difficulty": difficulty, "orderings": {"reference_loss": 1.0}},
        "length": {"length": length},
        "both": {"difficulty": difficulty, "orderings": orderings, "length": length},
        # What "none" had after a half of the budget when this was written.
        "by value": {"by": "value", "goal": 1.22, "difficulty": {"start": 0.1}, "orderings": orderings},
    }
    return CurriculumSchedule(**{"by": "tokens", **arms[arm]}) if arm in arms else None


def data_of(seed: int) -> MusicDataModule:
    """The chorales in eighths."""
    tokenizer = VoiceGrid(lowest=36, highest=81, steps_per_beat=2)
    return MusicDataModule("chorales", tokenizer, window=WINDOW, batch_size=ROWS, valid_batch_size=32, seed=seed)


def turned_round(data: MusicDataModule) -> None:
    """Hand in surprisal with its sign changed, in the place of an ordering that is computed elsewhere."""
    known = difficulty_of(data.store, data.tokenizer, data.corpus, {"surprisal": 1.0}, {})
    assert known is not None
    ordering = known.orderings["surprisal"]
    data.take_in("reference_loss", "surprisal turned round", lambda _: Ordering(-ordering.value, ordering.weight))


class Tokens(Callback):
    """Counts tokens, keeps the loss of every validation, and ends the training when the budget is spent."""

    def __init__(self, budget: int) -> None:
        self.budget, self.tokens = budget, 0
        self.course: list[tuple[int, float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.tokens += batch["tokens"][:, 1:].numel()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.course.append((self.tokens, float(trainer.callback_metrics["val/loss"])))


def steps_for(tokens: int, schedule: CurriculumSchedule | None, data: MusicDataModule) -> int:
    """Batches that hold so many tokens, as the curriculum cuts their rows."""
    course = None if schedule is None else schedule.lead(lightning.Trainer(logger=False, enable_checkpointing=False), data)
    plan, seen, number = data.train_plan(), 0, 0
    while seen < tokens:
        seen += ROWS * plan.row_targets(Dial() if course is None or course.by == "value" else course.at(number))
        number += 1
    return number


def train(arm: str, seed: int, tokens: int) -> dict[str, Any]:
    """One training: the course of its validation loss over tokens."""
    torch.manual_seed(seed)
    data = data_of(seed)
    data.setup("fit")
    if arm == "hard first":
        turned_round(data)
    schedule, counted = curriculum(arm, tokens), Tokens(tokens)
    steps = steps_for(tokens, schedule, data)
    network = Decoder(data.vocab_size, d_model=96, num_layers=3, num_heads=4, dropout=0.1, max_context=WINDOW)
    optimizer = lambda groups: torch.optim.AdamW(groups, lr=SETTINGS["lr"], betas=(0.9, 0.95))  # noqa: E731
    module = MusicModule(network, optimizer=optimizer, schedule=WarmupCosine(warmup_steps=max(1, steps // 20), final_fraction=0.05))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        lightning.Trainer(
            accelerator="cpu",
            max_steps=steps,
            max_epochs=-1,
            val_check_interval=max(1, steps // VALIDATIONS),
            check_val_every_n_epoch=None,
            gradient_clip_val=1.0,
            callbacks=[counted, *([] if schedule is None else [schedule])],
            default_root_dir=folder,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, datamodule=data)
    course = [[seen, round(loss, 5)] for seen, loss in counted.course]
    return {
        "arm": arm,
        "seed": seed,
        "steps": steps,
        "tokens": counted.tokens,
        "seconds": round(time.perf_counter() - began, 1),
        "course": course,
    }


# What comes of it.


def tokens_to(course: list[list[float]], loss: float) -> float | None:
    """Tokens after which the validation loss was first as low, in a line between two validations; None if it never was."""
    for (before, high), (after, low) in zip([course[0], *course], course, strict=False):
        if low <= loss:
            return after if high <= low else before + (after - before) * max(0.0, min(1.0, (high - loss) / (high - low)))
    return None


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean}
    half = STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summed_up(trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each arm the final loss and the tokens to each target, and their difference to ``none`` by seed."""
    by_arm: dict[str, dict[int, list[list[float]]]] = {}
    for each in trainings:
        by_arm.setdefault(each["arm"], {})[each["seed"]] = each["course"]
    none = by_arm.get("none", {})
    if not none:
        return {}
    places = {"half": 0.5, "three quarters": 0.75, "all": 1.0}
    targets = {name: float(np.mean([loss_at(course, place) for course in none.values()])) for name, place in places.items()}
    return {"targets": targets, "arms": {arm: compared(courses, none, targets) for arm, courses in by_arm.items()}}


def loss_at(course: list[list[float]], place: float) -> float:
    """The loss after a part of the tokens."""
    tokens, losses = np.array(course).T
    return float(np.interp(place * tokens[-1], tokens, losses))


def compared(courses: dict[int, list[list[float]]], none: dict[int, list[list[float]]], targets: dict[str, float]) -> dict[str, Any]:
    """One arm."""
    both = sorted(set(courses) & set(none))
    told: dict[str, Any] = {
        "final_loss": interval([courses[seed][-1][1] for seed in courses]),
        "final_loss_against_none": interval([courses[seed][-1][1] - none[seed][-1][1] for seed in both]),
        "seeds": len(courses),
    }
    for name, loss in targets.items():
        needed = {seed: tokens_to(courses[seed], loss) for seed in courses}
        pairs = [(needed[seed], tokens_to(none[seed], loss)) for seed in both]
        shares = [mine / theirs - 1.0 for mine, theirs in pairs if mine is not None and theirs is not None]
        told[f"tokens_to_{name.replace(' ', '_')}"] = {
            "reached": sum(each is not None for each in needed.values()),
            "tokens": [None if each is None else round(each) for each in needed.values()],
            **({"more_than_none": interval(shares)} if shares else {}),
        }
    return told


def main() -> None:
    """Train what has not been trained yet, and write down what comes of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("arms", nargs="*", metavar="arm", help=f"some of: {', '.join(ARMS)} (all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=float, default=1.0, help="a share of the tokens, to try it out")
    parser.add_argument("--output", type=Path, default=RESULTS / "curriculum.json")
    options = parser.parse_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"no such arm: {', '.join(sorted(unknown))}; there are: {', '.join(ARMS)}")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    tokens = round(TOKENS * options.size)
    settings = {**SETTINGS, "tokens": tokens, "validations": VALIDATIONS}
    before = json.loads(options.output.read_text()) if options.output.is_file() else {}
    trainings = before["trainings"] if before.get("settings") == settings else []
    done = {(each["arm"], each["seed"]) for each in trainings}
    for seed in range(options.seeds):
        for arm in options.arms or ARMS:
            if (arm, seed) in done:
                continue
            trainings.append(train(arm, seed, tokens))
            print(f"{arm}, seed {seed}: {trainings[-1]['course'][-1][1]:.4f} after {trainings[-1]['seconds']:.0f} s", flush=True)
            result = {"settings": settings, **summed_up(trainings), "trainings": trainings, "machine": machine()}
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summed_up(trainings), indent=1))


if __name__ == "__main__":
    main()
