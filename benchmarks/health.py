"""What it costs to watch over a training: AnomalyAlerts with every detector on, against the same training without.

Both train in one process, a step each in turn, so that whatever else the machine does slows both alike. Steps at which AnomalyAlerts looks
at weights, layers, predictions, time and memory take longer than the others; both kinds are measured by the median of their rounds' ratios,
and count as often as they come.

    python -m benchmarks.health [steps]
"""

from __future__ import annotations

import functools
import logging
import os
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from benchmarks.fit_sides import InTurn, asking
from benchmarks.recording import quiet
from benchmarks.results_file import write_result
from benchmarks.turns import Turns
from musictrain import Decoder, MusicDataModule, MusicModule, VoiceFrames, VoiceGrid
from musictrain.callbacks import AnomalyAlerts
from musictrain.loggers.run_logger import RunLogger

WARM_UP, EVERY = 10, 10
ON, OFF = "on", "off"
TARGET = 0.02
NETWORKS: dict[str, tuple[Callable[[int], torch.nn.Module], dict[str, Any]]] = {
    "recipe_chorales": (lambda size: VoiceFrames(size, 36, 81), {"window": 768, "batch_size": 12, "packing": False, "align": 64}),
    "decoder_of_6_layers": (lambda size: Decoder(size, 256, 6, 4), {"window": 512, "batch_size": 8}),
}


class InTurns(MusicDataModule):
    """The chorales; a batch is made when this training has its turn."""

    name = ON

    def train_dataloader(self) -> Any:
        return InTurn(super().train_dataloader(), self.name)


def training(name: str, network: str, num_steps: int, folder: Path) -> Callable[[], object]:
    """One of the two, on the chorales."""
    seed_everything(1)
    make, options = NETWORKS[network]
    data = InTurns(tokenizer=VoiceGrid(36, 81), **options)
    data.name = name
    trainer = Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=num_steps,
        max_epochs=-1,
        log_every_n_steps=EVERY,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        logger=RunLogger(folder),
        callbacks=[AnomalyAlerts(every_n_steps=EVERY)] if name == ON else [],
    )
    return functools.partial(trainer.fit, MusicModule(make(data.vocab_size)), data)


def measure(network: str, num_steps: int, folder: Path) -> dict[str, Any]:
    """The cost as a share of the tokens per second."""
    turns = Turns([OFF, ON])
    trainings = {name: training(name, network, num_steps, folder / network / name) for name in (OFF, ON)}
    with asking(turns):
        turns.run(trainings)
    pairs = list(zip(turns.seconds[ON], turns.seconds[OFF], strict=False))
    # Turn number k, from 0, is optimizer step k + 1.
    looked = [pair for turn, pair in enumerate(pairs) if turn >= WARM_UP and (turn + 1) % EVERY == 0]
    others = [pair for turn, pair in enumerate(pairs) if turn >= WARM_UP and (turn + 1) % EVERY]
    usual, look = slowdown(others), slowdown(looked)
    return {
        "cost": round(1 - 1 / ((usual * (EVERY - 1) + look) / EVERY), 4),
        "slower_at_a_step_that_is_looked_at": round(look - 1, 4),
        "slower_at_every_other_step": round(usual - 1, 4),
        "milliseconds_of_a_step": round(1000 * statistics.median(off for _, off in others), 1),
        "rounds": len(looked) + len(others),
    }


def slowdown(pairs: Sequence[tuple[float, float]]) -> float:
    """How many times as long steps with it take."""
    return statistics.median(on / off for on, off in pairs)


def main() -> None:
    """Measure and write ``results/health.json``."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    num_steps, load_before = int(sys.argv[1]) if len(sys.argv) > 1 else 120, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, quiet():
        costs = {network: measure(network, num_steps, Path(folder)) for network in NETWORKS}
    load = [round(load_before, 1), round(os.getloadavg()[0], 1)]
    write_result(
        "health", {"costs": costs, "target": TARGET, "looks_every": EVERY, "threads": torch.get_num_threads(), "load_average": load}
    )


if __name__ == "__main__":
    main()
