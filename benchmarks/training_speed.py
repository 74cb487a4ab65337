"""Training speed: tokens per second of ``fit`` with MusicModule and a logger, against a bare PyTorch loop.

Both train the same network on the same batches with the same optimizer, clipping and precision, in one process. Their steps alternate:
whenever Lightning asks its loader for the next batch, the loader first takes one step of the bare loop, so that whatever else this machine
does slows both alike. A step of ``fit`` is all the time between two requests: hooks, sums, gradient norm, logging, progress included.
Ten steps are a block, the last of which logs; each of the ten places counts with its median over the blocks.

    python -m benchmarks.training_speed
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from benchmarks.results_file import write_result
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant, parameter_groups

LOG_EVERY = 10
TARGET = 0.97


@dataclass(frozen=True)
class Setting:
    """What both loops train: rows x window tokens a step through a decoder."""

    vocab_size: int = 512
    d_model: int = 256
    num_layers: int = 6
    num_heads: int = 4
    rows: int = 8
    window: int = 512
    dropout: float = 0.1
    blocks: int = 10
    longest_seconds: float = 120.0

    @property
    def tokens_per_step(self) -> int:
        """Targets of one step."""
        return self.rows * self.window

    def network(self) -> nn.Module:
        """The network, the same at every call."""
        torch.manual_seed(0)
        return Decoder(self.vocab_size, self.d_model, self.num_layers, self.num_heads, max_context=self.window, dropout=self.dropout)

    def batches(self) -> list[dict[str, Tensor]]:
        """Ready batches as MusicDataModule gives them."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, self.vocab_size, (4, self.rows, self.window + 1), generator=generator)
        counts = torch.full((self.rows,), 100.0)
        return [{"tokens": rows, "notes": counts, "beats": counts} for rows in tokens]


class BareLoop:
    """The loop one would write by hand: forward, cross-entropy, backward, clip, step."""

    def __init__(self, network: nn.Module, *, bf16: bool) -> None:
        self.network = network.train()
        self.bf16 = bf16
        self.optimizer = AdamW(parameter_groups(network))

    def step(self, tokens: Tensor) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.network(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()


@dataclass(frozen=True)
class Clocks:
    """Seconds by the wall, and seconds the processors worked for this process."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Clocks:
        """Both clocks as they stand."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, earlier: Clocks) -> Clocks:
        return Clocks(self.wall - earlier.wall, self.processor - earlier.processor)


@dataclass
class Alternating:
    """A loader that takes a step of the bare loop before it hands out a batch, and keeps the seconds of both.

    On a busy machine it ends early, after a whole number of blocks, two at least.
    """

    loop: BareLoop
    batches: list[dict[str, Tensor]]
    num_steps: int
    longest_seconds: float
    bare: list[Clocks] = field(default_factory=list)
    fit: list[Clocks] = field(default_factory=list)

    def __len__(self) -> int:
        # One more than there are, so that the Trainer comes back after the last step too, and its time is taken.
        return self.num_steps + 1

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        end = time.perf_counter() + self.longest_seconds
        for number in range(self.num_steps):
            if number % LOG_EVERY == 0 and number >= 2 * LOG_EVERY and time.perf_counter() > end:
                return
            batch = self.batches[number % len(self.batches)]
            start = Clocks.now()
            self.loop.step(batch["tokens"])
            handed_out = Clocks.now()
            yield batch
            self.bare.append(handed_out - start)
            self.fit.append(Clocks.now() - handed_out)


def train(setting: Setting, precision: str) -> tuple[MusicModule, Alternating]:
    """Both loops, step by step in turn: the module that ``fit`` trained, and the loader that trained the other network and kept time."""
    bare_loop = BareLoop(setting.network(), bf16=precision == "bf16-mixed")
    loader = Alternating(bare_loop, setting.batches(), LOG_EVERY * (setting.blocks + 1), setting.longest_seconds)
    module = MusicModule(setting.network(), schedule=Constant(), pad_id=0)
    with tempfile.TemporaryDirectory() as folder:
        _trainer(folder, precision).fit(module, loader)
    return module, loader


def measure(setting: Setting = Setting(), *, precision: str = "32-true") -> dict[str, Any]:
    """Tokens per second of both loops, and the ratio of ``fit`` to bare.

    The first block of ten steps warms up and is not counted. The ratio by processor time leaves out what other programs did meanwhile;
    with several threads it holds their waiting for each other too. ``load_average`` above 1 tells of other programs: repeat it then.
    """
    load_average = os.getloadavg()[0]
    module, loader = train(setting, precision)
    bare, fit = loader.bare[LOG_EVERY:], loader.fit[LOG_EVERY:]
    bare_seconds, fit_seconds = (_seconds_per_step([step.wall for step in steps]) for steps in (bare, fit))
    bare_work, fit_work = (_seconds_per_step([step.processor for step in steps]) for steps in (bare, fit))
    return {
        "ratio": round(bare_seconds / fit_seconds, 4),
        "ratio_by_processor_time": round(bare_work / fit_work, 4),
        "fit_tokens_per_second": round(setting.tokens_per_step / fit_seconds),
        "bare_tokens_per_second": round(setting.tokens_per_step / bare_seconds),
        "overhead_ms_per_step": round(1000 * (fit_seconds - bare_seconds), 2),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "tokens_per_step": setting.tokens_per_step,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "load_average": round(load_average, 1),
        "steps": len(fit),
    }


def _seconds_per_step(steps: list[float]) -> float:
    """Mean over the ten steps of a block, the last of which logs, of each one's median over the blocks: what a hiccup cannot move."""
    return statistics.mean(statistics.median(steps[place::LOG_EVERY]) for place in range(LOG_EVERY))


def _trainer(folder: str, precision: Any) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        logger=CSVLogger(folder, flush_logs_every_n_steps=LOG_EVERY),
        log_every_n_steps=LOG_EVERY,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    """Measure a realistic and a tiny network, and write ``results/training_speed.json``."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    tiny = Setting(vocab_size=128, d_model=32, num_layers=2, num_heads=2, rows=2, window=64, blocks=30, longest_seconds=20.0)
    results = {
        "target_ratio": TARGET,
        "6 layers, d_model 256": measure(precision="bf16-mixed"),
        "tiny, to show the cost of a step": measure(tiny),
    }
    write_result("training_speed", results)


if __name__ == "__main__":
    main()
