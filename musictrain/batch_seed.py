"""Random numbers as a function of the batch: what a resumed run draws is what the uninterrupted one would have drawn."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import torch


def seed_torch(device: torch.device, seed: int, number: int, share: int) -> None:
    """Seed torch's generators for one share of batch ``number``, unlike for any other."""
    digest = hashlib.blake2b(f"{seed},{number},{share}".encode(), digest_size=8).digest()
    mixed = int.from_bytes(digest, "little")
    if device.type == "cpu":
        # torch.manual_seed also writes a traceback for devices that may come up later: 140 microseconds against 1.
        torch.default_generator.manual_seed(mixed)
    else:
        torch.manual_seed(mixed)


def run_seed(datamodule: Any) -> int:
    """The seed of a run: the data module's ``seed``, else that of Lightning's ``seed_everything``, else 0."""
    seed = getattr(datamodule, "seed", None)
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else int(seed)


def number_of_batch(trainer: Any, index: int | None = None) -> int:
    """The number in the stream of the batch that a Lightning Trainer counts as ``index``, from 0; None is the one it is working on.

    A data module that passes batches over says it by its method ``number_of_batch``; of any other the Trainer's count is the number.
    """
    index = int(trainer.fit_loop.total_batch_idx) if index is None else index
    tell = getattr(getattr(trainer, "datamodule", None), "number_of_batch", None)
    return index if tell is None else int(tell(index))
