"""Checkpoints: how long a save holds training up, and what storing, verifying, loading and listing take.

A decoder of 14.7 million parameters with AdamW (weights and two moments, 176 MB) is trained for some steps by a Lightning Trainer that
saves a version after each. The stall is all the time between the callback's first line and its last; it is held against a plain copy of
the same tensors into memory that is already there, and against ``torch.save`` of the same checkpoint, all in one run and by turns. The
listing is of 1,000 small versions, by the command in a process of its own.

    python -m benchmarks.checkpoints
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from benchmarks.results_file import write_result
from benchmarks.training_speed import Setting
from musictrain.callbacks import VersionedCheckpoint
from musictrain.checkpoints import verify
from musictrain.checkpoints.catalog import version_path
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.snapshot import plain_size, tensors
from musictrain.checkpoints.storing import load, store
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import Constant

STEPS = 12
LISTED = 1000
SETTING = Setting(d_model=448, num_layers=6, num_heads=7, rows=2, window=64)


class Compare(Callback):
    """After each step and before the save: what a plain copy and ``torch.save`` of the same state take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copies: list[float] = []
        self.saves: list[float] = []
        self._memory: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Measure both, once the writer's thread has nothing to do: two cores would share the work otherwise."""
        trainer.strategy.checkpoint_io.wait()  # type: ignore[attr-defined]
        state: Any = {"state_dict": pl_module.state_dict(), "optimizer_states": [each.state_dict() for each in trainer.optimizers]}
        found = [tensor.detach() for tensor in tensors(state)]
        self._memory = self._memory or [torch.zeros_like(tensor) for tensor in found]
        self.copies.append(seconds(lambda: [old.copy_(new) for old, new in zip(self._memory, found, strict=True)]))
        self.saves.append(seconds(lambda: torch.save(state, self.folder / "plain.pt")))


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def train(folder: Path) -> tuple[VersionedCheckpoint, Compare]:
    """Save after each step, with everything else turned off."""
    torch.manual_seed(0)
    network = Decoder(SETTING.vocab_size, SETTING.d_model, SETTING.num_layers, SETTING.num_heads, max_context=SETTING.window)
    compare = Compare(folder)
    saving = VersionedCheckpoint(dirpath=folder / "run" / "checkpoints", every_n_train_steps=1, newest=3)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=STEPS, max_epochs=-1, callbacks=[compare, saving], logger=False, limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(MusicModule(network, schedule=Constant()), torch.utils.data.DataLoader(SETTING.batches(), batch_size=None))  # type: ignore[arg-type]
    return saving, compare


def of_a_version(path: Path) -> dict[str, Any]:
    """What one stored version takes."""
    tree = load(path)
    folder = path.parent
    stored: dict[str, float] = {}
    for packing in ("none", "optimizer", "all"):
        target = folder / f"{packing}.pt"
        stored[f"store_{packing}_ms"] = round(1000 * seconds(lambda packing=packing, target=target: store(tree, target, packing=packing)))  # type: ignore[misc]  # fmt: skip
        stored[f"size_{packing}_mb"] = round(target.stat().st_size / 1e6, 1)
    return {
        **stored,
        "verify_ms": round(1000 * min(seconds(lambda: verify(path)) for _ in range(3))),
        "load_ms": round(1000 * min(seconds(lambda: load(path)) for _ in range(3))),
        "load_unpacked_ms": round(1000 * min(seconds(lambda: load(folder / "none.pt")) for _ in range(3))),
        "torch_load_unpacked_ms": round(1000 * min(seconds(lambda: torch.load(folder / "none.pt", weights_only=True)) for _ in range(3))),
    }


def list_many(folder: Path) -> float:
    """Seconds of ``checkpoints list`` over 1,000 versions, start of the program included."""
    versions = folder / "many" / "checkpoints"
    versions.mkdir(parents=True)
    (folder / "many" / "config.yaml").write_text("{}\n")
    for number in range(1, LISTED + 1):
        facts = Seal("", 0, number=number, step=number, created=time.time(), metrics={"val/loss": 1 / number})
        store({"state_dict": {"weight": torch.zeros(8)}}, version_path(versions, number, number), facts)
    words = [sys.executable, "-m", "musictrain", "checkpoints", "list", str(folder / "many")]
    return min(seconds(lambda: subprocess.run(words, check=True, capture_output=True)) for _ in range(3))


def main() -> None:
    """Measure and write the result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saving, compare = train(folder)
        stall, copy, save = (statistics.median(values[1:]) for values in (saving.stalls, compare.copies, compare.saves))
        newest = Path(saving.last_model_path)
        values = {
            "state_mb": round(plain_size(load(newest)) / 1e6, 1),
            "threads": torch.get_num_threads(),
            "stall_ms": round(1000 * stall, 1),
            "memory_copy_ms": round(1000 * copy, 1),
            "torch_save_ms": round(1000 * save, 1),
            "stall_over_memory_copy": round(stall / copy, 2),
            "stall_over_torch_save": round(stall / save, 3),
            **of_a_version(newest),
            "list_1000_versions_seconds": round(list_many(folder), 2),
            "cpu_count": os.cpu_count(),
        }
    write_result("checkpoints", values)


if __name__ == "__main__":
    main()
