"""The trainings that ``benchmarks.fit_speed`` compares: the same decoder on the same chorales, as five people would train it."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import turns
from musictrain import MusicDataModule
from musictrain.models import Decoder
from musictrain.optim import AdamW, parameter_groups

LOG_EVERY = 10
FIT, BARE, LIGHTNING, TRAINER, TRAINER_DEFAULTS = "fit", "bare loop", "plain Lightning", "Hugging Face Trainer", "Hugging Face defaults"


@dataclass(frozen=True)
class Setting:
    """What all of them train: the network, the rows of a step, how many steps, and where they may write."""

    folder: Path
    num_steps: int = 70
    d_model: int = 256
    num_layers: int = 6
    num_heads: int = 4
    rows: int = 8
    window: int = 512
    save_every: int = 20

    @property
    def tokens_per_step(self) -> int:
        """Targets of a step."""
        return self.rows * self.window

    def network(self, vocab_size: int) -> Decoder:
        """The network, the same at every call."""
        torch.manual_seed(0)
        return Decoder(vocab_size, self.d_model, self.num_layers, self.num_heads)

    def rows_of_music(self) -> tuple[Tensor, int]:
        """Windows of the chorales (rows, window + 1) for some dozen steps, and the size of the vocabulary."""
        data = MusicDataModule(window=self.window, batch_size=self.rows)
        plan = data.train_plan()
        return torch.cat([plan.batch(number)["tokens"] for number in range(min(self.num_steps, 40))]), data.vocab_size


class ChoralesInTurn(MusicDataModule):
    """The data module as it is; its loader waits for its turn before it makes a batch."""

    def train_dataloader(self) -> Any:
        return InTurn(super().train_dataloader(), FIT)


class InTurn:
    """A loader whose every batch is fetched in a turn of its own."""

    def __init__(self, loader: Any, name: str) -> None:
        self.loader, self.name = loader, name

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            turns.take_turn(self.name)
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch


def fit(setting: Setting) -> Callable[[], object]:
    """``musictrain fit`` with every callback, precision left to itself."""
    from musictrain.cli.training import train

    saving = ["--trainer.callbacks+=musictrain.callbacks.VersionedCheckpoint"]
    saving += [f"--trainer.callbacks.every_n_train_steps={setting.save_every}"]
    samples = ["--trainer.callbacks+=musictrain.callbacks.WriteSamples", "--trainer.callbacks.num=1"]
    samples += ["--trainer.callbacks.continuations=0", "--trainer.callbacks.beats=4"]
    trainer = {"accelerator": "cpu", "max_steps": setting.num_steps, "max_epochs": -1, "log_every_n_steps": LOG_EVERY}
    trainer |= {"gradient_clip_val": 1.0, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    network = {"d_model": setting.d_model, "num_layers": setting.num_layers, "num_heads": setting.num_heads}
    words = [*saving, *samples, *(f"--trainer.{key}={value}" for key, value in trainer.items())]
    words += ["--model.network=musictrain.Decoder", *(f"--model.network.{key}={value}" for key, value in network.items())]
    words += ["--data=benchmarks.fit_sides.ChoralesInTurn", f"--data.window={setting.window}", f"--data.batch_size={setting.rows}"]

    def run() -> None:
        if code := train("fit", [*words, f"--runs={setting.folder / 'runs'}", "--name=speed"]):
            raise RuntimeError(f"musictrain fit ended with {code}.")

    return run


def in_turn(name: str, rows: list[Any]) -> Any:
    """A batch of rows, made when this training has its turn."""
    turns.take_turn(name)
    return torch.utils.data.default_collate(rows)


def loader_of(setting: Setting, name: str, rows: Tensor) -> DataLoader[Tensor]:
    """The rows in order, some to a step, over and over: enough for all steps of one epoch."""
    repeats = -(-(setting.num_steps + 2) * setting.rows // len(rows))
    return DataLoader(rows.repeat(repeats, 1), batch_size=setting.rows, collate_fn=lambda batch: in_turn(name, batch))  # type: ignore[arg-type]


def loss_of(network: nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy as one writes it by hand."""
    return F.cross_entropy(network(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)


def bare_loop(setting: Setting, rows: Tensor, vocab_size: int) -> Callable[[], object]:
    """The loop one would write by hand: forward, cross-entropy, backward, clip, step."""

    def run() -> None:
        network = setting.network(vocab_size).train()
        optimizer = AdamW(parameter_groups(network))
        for _, tokens in zip(range(setting.num_steps + 1), loader_of(setting, BARE, rows), strict=False):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(network, tokens)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()

    return run


class PlainModule(lightning.LightningModule):
    """The least a LightningModule needs, and the loss logged as Lightning's documentation shows it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, tokens: Tensor, _: int) -> Tensor:
        loss = loss_of(self.network, tokens)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return AdamW(parameter_groups(self.network))


def plain_lightning(setting: Setting, rows: Tensor, vocab_size: int) -> Callable[[], object]:
    """Lightning with its own checkpoints, logger and progress bar."""

    def run() -> None:
        trainer = lightning.Trainer(
            accelerator="cpu",
            precision="bf16-mixed",
            max_steps=setting.num_steps,
            logger=TensorBoardLogger(str(setting.folder), name="lightning"),
            log_every_n_steps=LOG_EVERY,
            gradient_clip_val=1.0,
            callbacks=[ModelCheckpoint(every_n_train_steps=setting.save_every)],
            enable_model_summary=False,
        )
        trainer.fit(PlainModule(setting.network(vocab_size)), loader_of(setting, LIGHTNING, rows))

    return run


class WithLoss(nn.Module):
    """What Hugging Face's Trainer expects of a model: it computes its own loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.network(input_ids)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=0), "logits": logits}


def has_trainer() -> bool:
    """Whether Hugging Face's Trainer is installed: pip install transformers accelerate."""
    return all(importlib.util.find_spec(name) for name in ("transformers", "accelerate"))


def hugging_face(setting: Setting, name: str, rows: Tensor, vocab_size: int, **options: Any) -> Callable[[], object]:
    """Hugging Face's Trainer; ``options`` are those of its TrainingArguments beside the number of rows and steps."""
    from accelerate.state import AcceleratorState, PartialState
    from transformers import Trainer, TrainingArguments

    def collate(batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        turns.take_turn(name)
        return {key: torch.stack([row[key] for row in batch]) for key in batch[0]}

    # Two of them in one process: each keeps what its accelerator was told, which accelerate means to be the same for all.
    AcceleratorState._shared_state, PartialState._shared_state = {}, {}
    arguments = TrainingArguments(
        output_dir=str(setting.folder / name.replace(" ", "-")),
        max_steps=setting.num_steps,
        per_device_train_batch_size=setting.rows,
        use_cpu=True,
        **options,
    )
    dataset: Any = [{"input_ids": row[:-1], "labels": row[1:]} for row in rows]

    trainer = Trainer(WithLoss(setting.network(vocab_size)), arguments, train_dataset=dataset, data_collator=collate)
    assert trainer.accelerator.mixed_precision == ("bf16" if options.get("bf16") else "no")
    return trainer.train


@contextlib.contextmanager
def asking(asked: turns.Turns) -> Iterator[None]:
    """Within it, loaders ask these turns."""
    turns.ASKED = asked
    try:
        yield
    finally:
        turns.ASKED = None
