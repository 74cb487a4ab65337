"""Tiny trainings in which something goes wrong at a known step, and what is heard of it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from musictrain.callbacks import AnomalyAlerts
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant
from musictrain.runs.alerts import AlertWatch

VOCAB = 12
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Learner(nn.Module):
    """Two layers with an activation, that learn which token follows which."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(VOCAB, 16)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.embedding(tokens)
        return self.head(stream + self.second(torch.relu(self.first(stream))))


class Numbers(nn.Module):
    """Reads numbers, and says which of two they are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, values: Tensor) -> Tensor:
        return self.layers(values)


class PlainModule(lightning.LightningModule):
    """Somebody's module, who has never heard of music."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.numbers = Numbers()
        self.lr = lr

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        values, wanted = batch[:, :8], batch[:, 8:]
        return nn.functional.mse_loss(self.numbers(values), wanted)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def token_batches(count: int, rows: int = 4, time: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Walks over the vocabulary: each token is the one before it, one more or one less."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randint(-1, 2, (count, rows, time + 1), generator=generator)
    return [{"tokens": walk.cumsum(1).remainder(VOCAB), "number": number} for number, walk in enumerate(steps)]


def number_batches(count: int, seed: int = 0) -> list[Tensor]:
    """Values, and a sum of them."""
    values = torch.randn(count, 16, 8, generator=torch.Generator().manual_seed(seed))
    return list(torch.cat([values, values[..., :3].sum(-1, keepdim=True)], -1))


def music_module(lr: float = 0.01, **options: Any) -> MusicModule:
    """A MusicModule around a Learner."""
    return MusicModule(Learner(), functools.partial(AdamW, lr=lr), Constant(), **options)


class AtStep(Callback):
    """Does something to the training at some steps, counted from 1.

    Args:
        steps: at which.
        harm: is told trainer and module.
        when: name of the hook.
    """

    def __init__(self, steps: Sequence[int], harm: Callable[[Any, Any], None], when: str = "on_train_batch_start") -> None:
        def hook(trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step + 1 in steps and trainer.training:
                harm(trainer, pl_module)

        setattr(self, when, hook)


class NanAtStep(Callback):
    """One gradient of the first parameter is nan in one step, from 1; a class that a configuration can name."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step + 1 == self.step:
            next(pl_module.parameters()).grad.view(-1)[0] = float("nan")


def set_gradient(name: str, value: float) -> Callable[[Any, Any], None]:
    """One value of a parameter's gradient."""

    def harm(trainer: Any, pl_module: Any) -> None:
        pl_module.get_parameter(name).grad.view(-1)[0] = value

    return harm


def set_weight(name: str, value: float) -> Callable[[Any, Any], None]:
    """One weight."""

    def harm(trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.get_parameter(name).view(-1)[0] = value

    return harm


@contextmanager
def heard() -> Iterator[list[dict[str, Any]]]:
    """The alerts that are raised meanwhile."""
    alerts: list[dict[str, Any]] = []
    watch = AlertWatch(alerts.append)
    level = logging.getLogger("musictrain").level
    watch.listen()
    try:
        yield alerts
    finally:
        watch.stop()
        logging.getLogger("musictrain").setLevel(level)


def fit(
    module: lightning.LightningModule,
    batches: Sequence[Any],
    *callbacks: Callback,
    steps: int | None = None,
    ckpt_path: Path | None = None,
    **options: Any,
) -> lightning.Trainer:
    """Train once through the batches, or so many steps; the callbacks are called in this order."""
    trainer = lightning.Trainer(max_steps=steps or len(batches), max_epochs=-1, callbacks=list(callbacks), **{**QUIET, **options})
    trainer.fit(module, DataLoader(list(batches), batch_size=None), ckpt_path=ckpt_path, weights_only=True)
    return trainer


def weights_of(module: nn.Module) -> list[Tensor]:
    """Copies."""
    return [parameter.detach().clone() for parameter in module.parameters()]


def steps_of(alerts: Sequence[dict[str, Any]], kind: str) -> list[int]:
    """At which an alert of this kind was raised."""
    return [alert["step"] for alert in alerts if alert["kind"] == kind]


MACHINE = {name: {"action": "off"} for name in ("throughput", "data_wait", "memory", "slow_rank")}
"""What a loaded machine may be wrong with while a test runs."""


class Quiet(AnomalyAlerts):
    """With every detector off but those that are named: what a test is about."""

    def __init__(self, **settings: Any) -> None:
        own = {name: value for name, value in settings.items() if name in ("every_n_steps", "lr_factor", "lr_steps")}
        given = {name: value for name, value in settings.items() if name not in own}
        from musictrain.health import DETECTORS

        super().__init__(**{name: given.get(name, {"action": "off"}) for name in DETECTORS}, **own)
