"""Model FLOPs utilisation: which share of the processor's matrix products ``fit`` turns into training, at d_model 512 in bf16-mixed.

    MFU = tokens per second x FLOPs per token / GEMM peak

FLOPs per token are the matrix products of forward and backward, ``6 x weights in matrix products + 12 x layers x window x d_model``:
attention in full, as PaLM counts it (Chowdhery et al. 2022, appendix B), though a causal kernel needs half of it; the second value leaves
attention out. The formula is held against ``musictrain.speed.FlopCount``, which counts products one by one.

The peak is the best bf16 product of two square matrices, measured anew after every step: whatever else the machine does slows both alike.

    python -m benchmarks.mfu [threads]
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from benchmarks.results_file import write_result
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import Constant
from musictrain.speed.flops import FlopCount

TARGET = 0.45
PROBE_SIZES = (512, 1024, 2048)
PROBE_SECONDS = 0.06
WARM_UP = 3


@dataclass(frozen=True)
class Setting:
    """The network and the rows of a step."""

    vocab_size: int = 512
    d_model: int = 512
    num_layers: int = 6
    num_heads: int = 8
    rows: int = 8
    window: int = 512
    num_steps: int = 25
    longest_seconds: float = 75.0

    @property
    def tokens_per_step(self) -> int:
        """Targets of a step."""
        return self.rows * self.window

    def network(self) -> Decoder:
        """The decoder, the same at every call."""
        torch.manual_seed(0)
        return Decoder(self.vocab_size, self.d_model, self.num_layers, self.num_heads, max_context=self.window)


def matmul_weights(network: nn.Module) -> int:
    """Weights that meet every token in a matrix product: those of linear layers, and an embedding that is also the head."""
    linear = sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.Linear))
    tied = getattr(network, "head", None) is None
    return linear + (network.embedding.weight.numel() if tied and isinstance(network, Decoder) else 0)


def flops_per_token(weights: int, num_layers: int, d_model: int, window: int) -> int:
    """Forward and backward of one token: 6 a weight, and 12 x window x d_model a layer for attention."""
    return 6 * weights + 12 * num_layers * d_model * window


def product_seconds(size: int, seconds: float, dtype: torch.dtype = torch.bfloat16) -> float:
    """The shortest time a product of two square matrices takes, tried for so many seconds."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return best


def peak(seconds: float = PROBE_SECONDS) -> float:
    """FLOP/s of the best of some sizes of products."""
    return max(2 * size**3 / product_seconds(size, seconds) for size in PROBE_SIZES)


@dataclass
class Probing:
    """A loader that measures the peak between two steps, and the steps. On a busy machine it ends early, but after some."""

    setting: Setting
    steps: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return self.setting.num_steps + 1

    def __iter__(self) -> Iterator[Tensor]:
        shape = (self.setting.rows, self.setting.window + 1)
        end = time.perf_counter() + self.setting.longest_seconds
        for number in range(self.setting.num_steps):
            if number > 2 * WARM_UP and time.perf_counter() > end:
                return
            batch = torch.randint(1, self.setting.vocab_size, shape)
            start = time.perf_counter()
            yield batch
            self.steps.append(time.perf_counter() - start)
            self.peaks.append(peak())


def train(setting: Setting) -> tuple[MusicModule, Probing]:
    """``fit`` with probes between its steps."""
    module, loader = MusicModule(setting.network(), schedule=Constant()), Probing(setting)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            precision="bf16-mixed",
            logger=CSVLogger(folder),
            log_every_n_steps=10,
            gradient_clip_val=1.0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)
    return module, loader


def measure(setting: Setting = Setting()) -> dict[str, Any]:
    """MFU, the median over the steps of each one's against the peak measured after it, and what it is made of."""
    load_before = os.getloadavg()[0]
    module, loader = train(setting)
    weights = matmul_weights(module.network)
    per_token = flops_per_token(weights, setting.num_layers, setting.d_model, setting.window)
    counted = FlopCount(setting.network()).of_row(setting.window) / setting.window
    rates = [setting.tokens_per_step * per_token / seconds for seconds in loader.steps[WARM_UP:]]
    peaks = loader.peaks[WARM_UP:]
    mfu = statistics.median(rate / best for rate, best in zip(rates, peaks, strict=True))
    return {
        "mfu": round(mfu, 3),
        "target": TARGET,
        "mfu_without_attention": round(mfu * 6 * weights / per_token, 3),
        "mfu_against_the_best_peak_of_all": round(statistics.median(rates) / max(peaks), 3),
        "tokens_per_second": round(setting.tokens_per_step / statistics.median(loader.steps[WARM_UP:])),
        "gemm_peak_gflops": {"median": round(statistics.median(peaks) / 1e9), "best": round(max(peaks) / 1e9)},
        "mflops_per_token": round(per_token / 1e6, 1),
        "mflops_per_token_counted": round(counted / 1e6, 1),
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "d_model": setting.d_model,
        "window": setting.window,
        "tokens_per_step": setting.tokens_per_step,
        "steps": len(rates),
        "threads": torch.get_num_threads(),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> None:
    """Measure and write ``results/mfu.json``."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else min(2, os.cpu_count() or 1))
    write_result("mfu", {"d_model 512, bf16-mixed": measure(), "d_model 256, bf16-mixed": measure(Setting(d_model=256, num_heads=4))})


if __name__ == "__main__":
    main()
