"""Going from a version to a step with a Trainer, exactly and quietly: two callbacks, which write nothing.

follow, versions = FollowStep(step=1234, until=1240), ReadVersions()
trainer = Trainer(callbacks=[follow, versions], logger=False, enable_checkpointing=True, limit_val_batches=0)
trainer.fit(module, datamodule, ckpt_path=version)
follow.result.not_finite, follow.result.batches[0].nll
"""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from musictrain.callbacks import VersionedCheckpoint
from musictrain.checkpoints.circumstances import circumstances_of, fingerprints_of
from musictrain.checkpoints.folder_checkpoint import FolderCheckpoint
from musictrain.checkpoints.resume_check import check_fits
from musictrain.checkpoints.resume_report import Found, report_of
from musictrain.checkpoints.trainer_state import loss_of, plugin_of
from musictrain.optim.gradients import gradient_norm, gradients_of
from musictrain.replay.found import Layer, NotFinite, Replayed, StepTrace, WorkedBatch, count_not_finite
from musictrain.replay.probe import AnswerEar, StepProbe


class ReadVersions(VersionedCheckpoint):
    """Takes up a version as a resumed run does, half-gathered gradients included, and saves none.

    Args:
        dirpath: any folder; nothing is written there.
        reseed: as in the run's own ``VersionedCheckpoint``.
        config: the run's configuration as YAML, for the resume report.
    """

    def __init__(self, dirpath: str, reseed: bool = True, config: str | None = None) -> None:
        super().__init__(
            dirpath=dirpath, every_n_minutes=0.0, after_validation=False, at_start=False, signals=False, reseed=reseed, config=config
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the plugin that reads, and refuse a version that does not fit; no folder is taken."""
        FolderCheckpoint.setup(self, trainer, pl_module, stage)
        self._io = plugin_of(trainer, self.packing)
        self._io.before_use = lambda path, tree: check_fits(path, tree, trainer, fingerprints_of(trainer))
        self._optimizers = None
        self._circumstances = circumstances_of(trainer, self.config)
        self._io.begin()

    def _save(self, trainer: Trainer, reason: str, wait: bool = False) -> None:
        """Nothing is saved."""

    def _report(self, trainer: Trainer) -> None:
        """Kept in ``report``, and not printed."""
        self.report = report_of(Path(str(trainer.ckpt_path)).name, trainer.global_step, self._found or Found(), self._circumstances)


class FollowStep(Callback):
    """Lets a Trainer come as far as ``until`` and finds out all about ``step``.

    Args:
        step: number of the optimizer step, from 1.
        until: after which step to stop: the one whose line in the records holds ``step``.
        since: from which step on losses and gradient norms are kept.
    """

    def __init__(self, step: int, until: int | None = None, since: int | None = None) -> None:
        self.step, self.until = step, max(step, until or step)
        self.since = step if since is None else min(since, step)
        self.result = Replayed(step)
        self._now = 0
        self._probe: StepProbe | None = None
        self._ear: AnswerEar | None = None
        self._worked: list[WorkedBatch] = []
        self._norm = self._rate = math.nan
        self._norms: dict[str, float] = {}
        self._gathered: dict[str, float] = {}
        self._unheard: list[NotFinite] = []
        self._began = 0.0
        self._batch: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to the network, and to the gradients before they are clipped."""
        self._began = time.perf_counter()
        self.result.began_at = trainer.global_step
        loop: Any = trainer.fit_loop
        loop.min_epochs, loop.epoch_loop.min_steps = 0, None
        network = getattr(pl_module, "network", None)
        # Of a step in two passes the first one's answers are those at the weights of the run.
        again = functools.partial(getattr, pl_module, "_passes_again", False)
        self._ear = AnswerEar(network if isinstance(network, nn.Module) else pl_module, pad_id_of(pl_module), deaf=again)
        own = pl_module.configure_gradient_clipping

        def measured(optimizer: Any, *args: Any, **options: Any) -> None:
            self._measure(pl_module, optimizer)
            own(optimizer, *args, **options)

        pl_module.__dict__["configure_gradient_clipping"] = measured

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch of the step that comes after those done."""
        now = self._now = trainer.global_step + 1
        self._batch = batch
        if self._ear is not None and now >= self.since:
            self._ear.begin(tokens_in(batch))
        if now == self.step and self._probe is None:
            self._probe = StepProbe(pl_module, now, inside=not getattr(pl_module, "compile_network", False))
            self._norm, self._norms = math.nan, {}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss is known, and the network has answered."""
        if self._probe is not None:
            self._probe.loss(loss)
        elif trainer.global_step < self.step and (values := count_not_finite(loss)):
            self._unheard.append(NotFinite("loss", "loss", values, loss.numel(), trainer.global_step + 1))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """The gradients are here; a guard may take them away before they are a step's mean."""
        if trainer.global_step + 1 == self.step:
            self._gathered = {name: norm_of(each.grad) for name, each in pl_module.named_parameters() if each.grad is not None}

    def _measure(self, pl_module: LightningModule, optimizer: Any) -> None:
        step = pl_module.global_step + 1
        self._rate = float(optimizer.param_groups[0]["lr"])
        if step < self.since:
            return
        gradients = gradients_of(each for group in optimizer.param_groups for each in group["params"])
        gathered = math.hypot(*self._gathered.values()) if step == self.step and self._gathered else math.nan
        self._norm = float(gradient_norm(gradients)) if gradients else gathered
        if step == self.step:
            named = pl_module.named_parameters()
            self._norms |= {name: norm_of(each.grad) for name, each in named if each.grad is not None}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the batch; after a step, note the step, and stop when there is no more to see."""
        if self._ear is not None and self._now >= self.since:
            loss = loss_of(outputs)
            self._worked.append(self._ear.end(batch, math.nan if loss is None else float(loss)))
        done = trainer.global_step
        if done < self._now:
            return  # inside an accumulation window
        self._note_step(trainer, pl_module, done)
        if done >= self.until:
            trainer.should_stop = True

    def _note_step(self, trainer: Trainer, pl_module: LightningModule, done: int) -> None:
        worked, self._worked = self._worked, []
        if done < self.since:
            return
        self.result.traces.append(StepTrace(done, numbers_of(worked), mean_nll(worked), self._norm, self._rate))
        self.result.logged[done] = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        if done == self.step:
            self._finish(trainer, pl_module, worked)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, worked: list[WorkedBatch]) -> None:
        probe, self._probe = self._probe, None
        assert probe is not None
        probe.after_step(pl_module, trainer.optimizers)
        probe.close()
        now = dict(pl_module.named_parameters())
        norms = self._norms or self._gathered
        self.result.layers = [
            Layer(name, norms.get(name), norm_of(before), norm_of(now[name].detach() - before)) for name, before in probe.before.items()
        ]
        self.result.batches = worked
        self.result.not_finite = self._unheard[0] if self._unheard else probe.first.found
        self.result.optimizer_stepped = bool(self._norms)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was."""
        self._let_go(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what was found of a step that came to nothing, and leave the module as it was."""
        if self._probe is not None and self._ear is not None and not self.result.batches:
            self._worked.append(self._ear.end(self._batch, math.nan))
            self._finish(trainer, pl_module, self._worked)
            self.result.traces.append(StepTrace(self.step, numbers_of(self._worked), mean_nll(self._worked), self._norm, self._rate))
        self._let_go(pl_module)

    def _let_go(self, pl_module: LightningModule) -> None:
        self.result.seconds = time.perf_counter() - self._began if self._began else 0.0
        pl_module.__dict__.pop("configure_gradient_clipping", None)
        for each in (self._ear, self._probe):
            if each is not None:
                each.close()
        self._ear = self._probe = None


def tokens_in(batch: Any) -> Tensor | None:
    """The tokens (rows, time + 1) of a batch, None if it has none."""
    tokens = batch.get("tokens") if isinstance(batch, dict) else batch
    return tokens if isinstance(tokens, Tensor) and tokens.ndim == 2 and not tokens.is_floating_point() else None


def pad_id_of(module: LightningModule) -> int | None:
    """The token that does not count: what the module settled on with its data module, or has of its own."""
    for name in ("_pad_id", "pad_id"):
        if isinstance(value := getattr(module, name, None), int):
            return value
    return getattr(getattr(getattr(module.trainer, "datamodule", None), "tokenizer", None), "pad_id", None)


def numbers_of(worked: list[WorkedBatch]) -> tuple[int, ...]:
    """The numbers of some batches."""
    return tuple(each.number for each in worked if each.number is not None)


def norm_of(tensor: Tensor) -> float:
    """L2 norm in 64 bits."""
    whole = tensor.detach()
    return float(torch.linalg.vector_norm(whole, dtype=torch.float64)) if whole.is_floating_point() else math.nan


def mean_nll(worked: list[WorkedBatch]) -> float:
    """Nats per token of some batches, padding left out; nan if there are none, or they are not known."""
    known = [each.nll[each.counted].double() for each in worked if each.nll is not None and each.counted is not None]
    flat = torch.cat(known) if known and len(known) == len(worked) else torch.zeros(0)
    return float(flat.mean()) if len(flat) else math.nan
