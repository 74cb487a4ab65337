"""AccumulationSchedule: how many batches an optimizer step gathers, by a number or by tokens, changing over training.

    Trainer(callbacks=[AccumulationSchedule(batches={0: 1, 500: 4})])
    Trainer(callbacks=[AccumulationSchedule(global_batch_tokens={0: 16384, 1000: 65536})])

When: a batch that grows over training, or one that is told in tokens whatever the number of processes; in any Trainer that optimizes
automatically. Cost: none. Lightning's GradientAccumulationScheduler changes by epochs alone, and Lightning asks whether the batch's
number divides by the factor: after a change in mid-epoch, windows would begin anywhere and keep gradients of the window before. Here the
batches of a window are counted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch import Tensor
from torch.optim import Optimizer

from musictrain.data.accumulation import AccumulationRule, check_schedule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """The batches of one step.

    Args:
        step: optimizer steps before it.
        begin: batches of the epoch before it.
        batches: how many it gathers.
    """

    step: int
    begin: int
    batches: int

    def is_open(self, batches: int) -> bool:
        """Whether it has begun and wants more, after so many batches of the epoch."""
        return 0 < batches - self.begin < self.batches


class AccumulationSchedule(Callback):
    """Gathers so many batches, or so many tokens, in an optimizer step.

    Windows are whole, whatever changes when, but for the last of an epoch, of which Lightning makes a step as it is; MusicDataModule rounds
    its epochs up to whole windows of every number here, or if those do not fit into the corpus, of the last. Logs
    ``train/batches_per_step``, and a change in words.

    Args:
        batches: batches of a step; or such numbers by the optimizer step from which each holds, ``{0: 1, 500: 4}``.
        global_batch_tokens: tokens of a step over all processes, padding included, likewise. The tokens of a batch are the data module's
            ``tokens_per_batch``; without one they are measured on the first batch. With neither argument every batch is a step.

    Raises:
        ValueError: if both are given or one is no such schedule; when a fit starts, if tokens are no whole number of batches, or the module
            or Trainer cannot accumulate by it.
    """

    def __init__(self, batches: int | dict[int, int] | None = None, global_batch_tokens: int | dict[int, int] | None = None) -> None:
        if batches is not None and global_batch_tokens is not None:
            raise ValueError(f"AccumulationSchedule got batches={batches} and global_batch_tokens={global_batch_tokens}: give one of them.")
        self.tokens = None if global_batch_tokens is None else _schedule("global_batch_tokens", global_batch_tokens)
        self.rule = AccumulationRule(_schedule("batches", 1 if batches is None else batches)) if self.tokens is None else None
        self._window: Window | None = None
        self._give_back: Callable[[], None] | None = None

    # Before the first batch.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work, and make the rule out of tokens where the data module tells them."""
        if stage != "fit":
            return
        self.teardown(trainer, pl_module, stage)  # of a fit that an error has ended
        _check(trainer, pl_module)
        self._window = None
        if self.tokens is not None:
            tokens_per_batch = getattr(getattr(trainer, "datamodule", None), "tokens_per_batch", None)
            self.rule = None if tokens_per_batch is None else AccumulationRule.of_tokens(self.tokens, tokens_per_batch)
        self._give_back = _count_windows(trainer, lambda: self._window)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the Trainer be as it was."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count an open window in batches of this run: those of the checkpoint may have been larger or smaller."""
        window = self._window
        if window is None or self.rule is None or window.step != trainer.global_step:
            return
        batches = self.rule.at(window.step)
        begin, uneven = divmod(window.begin * batches, window.batches)
        self._window = None if uneven else Window(window.step, begin, batches)

    # Every batch.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin a window if the last one has become a step."""
        if self.rule is None:
            assert self.tokens is not None
            self.rule = AccumulationRule.of_tokens(self.tokens, _tokens_everywhere(trainer, _tokens_in(batch)))
        before, step, done = self._window, trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
        now = before if before is not None and before.step == step and before.is_open(done) else Window(step, done, self.rule.at(step))
        if before is None or before.batches != now.batches:
            log.info("From optimizer step %d on each gathers %d batches.", step, now.batches)
        # By this number Lightning divides the loss.
        self._window, trainer.accumulate_grad_batches = now, now.batches

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log how many batches the step gathers, when other values are logged."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:
            pl_module.log("train/batches_per_step", float(trainer.accumulate_grad_batches))

    # A window that is open when the state is saved is finished after a resume.

    def state_dict(self) -> dict[str, Any]:
        """The last window, as plain numbers."""
        return {} if self._window is None else {"window": asdict(self._window)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the window, if it is open."""
        self._window = Window(**state_dict["window"]) if "window" in state_dict else None


def _schedule(name: str, given: int | Mapping[int, int]) -> dict[int, int]:
    schedule = dict(given) if isinstance(given, Mapping) else {0: given}
    check_schedule(name, schedule)
    return schedule


def _check(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a module or Trainer whose steps cannot be scheduled."""
    if not module.automatic_optimization:
        raise ValueError(
            f"AccumulationSchedule needs automatic optimization, and {type(module).__name__} steps its optimizers itself. "
            "Leave the callback out, or let the module count its batches."
        )
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"The Trainer has accumulate_grad_batches={trainer.accumulate_grad_batches} and an AccumulationSchedule, which sets it. "
            "Leave one of them out."
        )
    if trainer.strategy.handles_gradient_accumulation:
        raise ValueError(f"{type(trainer.strategy).__name__} accumulates gradients itself: leave AccumulationSchedule out.")
    if any(isinstance(each, GradientAccumulationScheduler) for each in trainer.callbacks):  # type: ignore[attr-defined]
        raise ValueError("Both AccumulationSchedule and GradientAccumulationScheduler would set the accumulation: leave one of them out.")


def _count_windows(trainer: Trainer, window: Callable[[], Window | None]) -> Callable[[], None]:
    """Let Lightning's loops ask the window instead of dividing the batch's number; gives back what ends that."""
    loop = trainer.fit_loop.epoch_loop
    optimization = loop.automatic_optimization

    def reached() -> bool:
        now = window()
        return now is None or now.step != trainer.global_step or not now.is_open(loop.batch_progress.current.ready)

    def zero_grad(batch_idx: int, optimizer: Optimizer) -> Callable[[], None] | None:
        now = window()
        begins = now is None or now.begin == loop.batch_progress.current.ready - 1
        if optimization._skip_backward or not begins:
            return None

        def clear() -> None:
            optimization._on_before_zero_grad(optimizer)
            optimization._optimizer_zero_grad(batch_idx, optimizer)

        return clear

    loop.__dict__["_accumulated_batches_reached"] = reached
    optimization.__dict__["_make_zero_grad_fn"] = zero_grad

    def end() -> None:
        loop.__dict__.pop("_accumulated_batches_reached", None)
        optimization.__dict__.pop("_make_zero_grad_fn", None)
        trainer.accumulate_grad_batches = 1

    return end


def _tokens_in(batch: Any) -> int:
    """Targets of one process's rows: of tokens (rows, time + 1) all but the first of each.

    Raises:
        ValueError: if the batch shows no tokens.
    """
    tokens = batch.get("tokens", batch.get("input_ids")) if isinstance(batch, Mapping) else batch
    if isinstance(tokens, list | tuple) and len(tokens) == 1:
        tokens = tokens[0]
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        raise ValueError(
            f"AccumulationSchedule cannot tell how many tokens a {type(batch).__name__} has: it knows integer tensors (rows, time + 1), "
            "and mappings that hold one as 'tokens' or 'input_ids'. Give the data module an attribute tokens_per_batch (of a batch over "
            "all processes), or say batches= instead of global_batch_tokens=."
        )
    return tokens.shape[0] * (tokens.shape[1] - 1)


def _tokens_everywhere(trainer: Trainer, tokens: int) -> int:
    """The sum over the processes, those that read the same rows counted once: one and the same number on all."""
    shares = (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)
    total = trainer.strategy.reduce(torch.tensor(float(tokens), device=trainer.strategy.root_device), reduce_op="sum")
    return round(float(total) * shares / trainer.world_size)
