"""Tiny networks, batches and Trainers for the tests of MusicModule."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from musictrain.module import MusicModule
from musictrain.optim import Constant

VOCAB, PAD = 11, 0
QUIET = {
    "accelerator": "cpu",
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class ForeignNetwork(nn.Module):
    """Somebody's recurrent network: keeps the contract, knows nothing of musictrain, has no vocab_size. Always the same at first."""

    def __init__(self, width: int = VOCAB, dropout: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(width, 6)
        self.recurrent = nn.LSTM(6, 6, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(6, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(self.recurrent(self.embedding(tokens))[0]))


class Uniform(nn.Module):
    """Finds every token equally likely, whatever came before."""

    vocab_size = VOCAB

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(VOCAB))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits.expand(*tokens.shape, VOCAB)


class Resumable:
    """A loader of ready batches that goes on where the trainer's checkpoint left off."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches
        self.trainer: lightning.Trainer | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        processed = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed if self.trainer else 0
        yield from self.batches[processed % len(self) :]


def random_batches(count: int = 5, rows: int = 2, time: int = 8, seed: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        tokens = torch.randint(1, VOCAB, (rows, time + 1), generator=generator)
        tokens[-1, -int(torch.randint(1, time, (1,), generator=generator)) :] = PAD
        batches.append({"tokens": tokens, "notes": torch.full((rows,), 2.0), "beats": torch.full((rows,), 4.0)})
    return batches


def new_module(network: nn.Module | None = None, **options: Any) -> MusicModule:
    return MusicModule(network or ForeignNetwork(), **{"pad_id": PAD, "schedule": Constant(), **options})


def new_trainer(folder: Path, **options: Any) -> lightning.Trainer:
    defaults = {"default_root_dir": folder, "logger": CSVLogger(folder, name="log", version=""), "log_every_n_steps": 1}
    return lightning.Trainer(**{**QUIET, **defaults, **options})


def fit(
    folder: Path, module: MusicModule, batches: Any = None, valid: Any = None, ckpt_path: Any = None, **options: Any
) -> lightning.Trainer:
    trainer = new_trainer(folder, **options)
    loader = random_batches() if batches is None else batches
    loader = Resumable(loader) if isinstance(loader, list) else loader
    loader.trainer = trainer
    trainer.fit(module, loader, None if valid is None else Resumable(valid), ckpt_path=ckpt_path)
    return trainer


def logged(folder: Path, key: str) -> dict[int, float]:
    """What was logged under a key, by Lightning's step."""
    path = folder / "log" / "metrics.csv"
    if not path.exists():
        return {}
    with path.open() as file:
        return {int(row["step"]): float(row[key]) for row in csv.DictReader(file) if row.get(key)}


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == name2 and torch.equal(tensor, tensor2) for (name, tensor), (name2, tensor2) in pairs)
