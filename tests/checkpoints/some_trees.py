"""Checkpoints of a tiny model that was really trained, and as versions of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from musictrain.checkpoints.catalog import version_path
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.storing import store

QUIET: dict[str, Any] = {
    **dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False),
    **{"accelerator": "cpu", "max_epochs": -1, "num_sanity_val_steps": 0},
}


class Tied(lightning.LightningModule):
    """An embedding that is its own head, and a norm with an integer buffer."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(width)
        self.embedding = nn.Embedding(5, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 5, bias=False)
        self.head.weight = self.embedding.weight

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.norm(self.embedding(batch))), batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ConstantLR(optimizer)]


class Numbers(lightning.LightningDataModule):
    """A data module that says what the tokenizer was, as MusicDataModule does."""

    def train_dataloader(self) -> Any:
        return DataLoader(torch.arange(40) % 5, batch_size=4)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {"position": 7, "tokenizer": {"name": "numbers", "fingerprint": "abc"}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict["tokenizer"]["fingerprint"] == "abc"


class SaveEachStep(Callback):
    """Lightning's own checkpoints, one a step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"stock{trainer.global_step}.ckpt")


def train(folder: Path, steps: int = 3, callbacks: Any = ()) -> list[Path]:
    """Stock Lightning checkpoints after step 1, 2...; ``folder`` is made."""
    trainer = lightning.Trainer(max_steps=steps, callbacks=[*callbacks, SaveEachStep(folder)], default_root_dir=folder, **QUIET)
    trainer.fit(Tied(), Numbers())
    return [folder / f"stock{step}.ckpt" for step in range(1, steps + 1)]


def plain_load(path: Path) -> dict[str, Any]:
    """What any torch user reads."""
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def as_versions(stock: list[Path], folder: Path, packing: str = "none") -> list[Path]:
    """The same checkpoints as numbered versions."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, tree in enumerate(map(plain_load, stock), start=1):
        step = tree["global_step"]
        paths.append(version_path(folder, number, step))
        facts = Seal("", 0, number=number, step=step, epoch=3, created=9.0, run="a-run", tokenizer="abc", metrics={"val/loss": 1 / number})
        store(tree, paths[-1], facts, packing=packing)
    return paths
