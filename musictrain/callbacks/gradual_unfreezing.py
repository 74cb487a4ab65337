"""GradualUnfreezing: weights that begin to train later than the others, by patterns on their names.

    Trainer(callbacks=[GradualUnfreezing({"embedding": 600, "blocks.0": 400, "blocks.1": 200})])

When: fine-tuning, so that new layers settle before they send their gradients through what was learned before. Cost: what is held back is
in the optimizer from the start and has its gradients computed; states of an optimizer are made when a weight first trains.

Lightning's BackboneFinetuning adds a group to the optimizer when an epoch begins. A schedule that was made before does not know of it:
with a LambdaLR, as MusicModule's, its next step fails, in a run that was resumed too. And what it unfreezes has no place in the buckets of
DDP or the shares of FSDP2, which were laid out without. Here everything stands in the optimizer from the start, and which weights train is
a pure function of the number of optimizer steps: a run that is resumed, replayed or has gone back trains the very same ones.

Source: gradual unfreezing of Howard & Ruder, ULMFiT (ACL 2018), by steps instead of epochs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from musictrain.checkpoints.sharded_saving import local
from musictrain.optim.freezing import chosen
from musictrain.optim.two_weights import has_two_weights
from musictrain.runs import RunFolder
from musictrain.runs.records import read_records
from musictrain.runs.writer import RecordWriter

log = logging.getLogger(__name__)

EVENT = "unfrozen"


class GradualUnfreezing(Callback):
    """Holds weights back until so many optimizer steps are done: no gradient, no clipping, no decay, no state in the optimizer.

    Logs ``train/trained_share``, the share of the weights that train; tells the run, and its page, when more begin to. Works under DDP,
    FSDP2 and tensor parallelism, in all of which every process holds the same weights back.

    Args:
        schedule: from a pattern to the optimizer steps, as ``trainer.global_step`` counts them, after which its weights begin to train. A
            pattern is a glob on names or the name of a part, see ``musictrain.optim.freezing``; of several that stand for a weight the last
            one counts. What none stands for trains from the start.
        warmup_steps: so many steps over which the updates of weights that have just begun grow to their size, as if the learning rate
            did; costs a copy of them meanwhile.

    Raises:
        ValueError: for a negative number of steps; when a fit starts: if a pattern stands for nothing or for weights that never train,
            nothing would train at first, or updates are to grow and the optimizer is schedule-free.
    """

    def __init__(self, schedule: dict[str, int] | None = None, warmup_steps: int = 0) -> None:
        self.schedule = dict(schedule or {})
        self.warmup_steps = warmup_steps
        for pattern, step in self.schedule.items():
            if isinstance(step, bool) or not isinstance(step, int) or step < 0:
                raise ValueError(f"GradualUnfreezing got {pattern!r}: {step!r}, expected after how many optimizer steps: 0 or more.")
        if warmup_steps < 0:
            raise ValueError(f"GradualUnfreezing got warmup_steps={warmup_steps}, expected 0 or more optimizer steps.")
        self._held: list[tuple[nn.Parameter, int]] = []
        self._growing: list[tuple[Tensor, Tensor, float]] = []
        self._num_weights = 0
        self._told_at = -1
        self._undo: list[Callable[[], None]] = []
        self._events: RecordWriter | None = None
        self._known: set[Any] = set()

    # Before the first step.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse patterns that cannot work, before anything is computed."""
        if stage == "fit" and any(True for _ in pl_module.parameters()):
            self._first_steps(pl_module)

    def _first_steps(self, module: nn.Module) -> list[tuple[nn.Parameter, int]]:
        """Every parameter that is held back, and the steps before it trains."""
        found = chosen(module, self.schedule, "GradualUnfreezing")
        first: dict[int, tuple[nn.Parameter, int]] = {}
        for pattern, parameters in found.items():
            for name, parameter in parameters.items():
                if not parameter.requires_grad:
                    raise ValueError(
                        f"GradualUnfreezing names {pattern!r}, but {name} does not train at all: requires_grad is off. "
                        "Leave it out of `frozen`, or out of this schedule."
                    )
                first[id(parameter)] = parameter, self.schedule[pattern]
        held = [(parameter, step) for parameter, step in first.values() if step > 0]
        if held and all(first.get(id(each), (each, 0))[1] > 0 for each in module.parameters() if each.requires_grad):
            raise ValueError(
                f"GradualUnfreezing holds back every weight, so that nothing would train before step {min(step for _, step in held):,}. "
                "Leave a part out, such as the head."
            )
        return held

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the weights: a strategy may have put others into their places."""
        self._let_go()
        self._held = self._first_steps(pl_module)
        self._num_weights = sum(each.numel() for each in pl_module.parameters() if each.requires_grad)
        if not self.schedule:
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # a collective call: every process makes it
        if trainer.is_global_zero and (run := RunFolder(folder)).environment.is_file():
            self._known = {each.get("step") for each in read_records(run.events) if each.get("event") == EVENT}
            self._events = RecordWriter(run.events)
        for pattern, step in self.schedule.items():
            log.info("%s trains %s.", pattern, f"from step {step:,} on" if step > trainer.global_step else "already")
        if self.warmup_steps:
            self._refuse_two_weights(trainer)
            self._undo = [optimizer.register_step_post_hook(lambda *_: self._grow()).remove for optimizer in trainer.optimizers]

    def _refuse_two_weights(self, trainer: Trainer) -> None:
        for optimizer in trainer.optimizers:
            if has_two_weights(optimizer):
                raise ValueError(
                    f"GradualUnfreezing with warmup_steps={self.warmup_steps} makes updates smaller, and {type(optimizer).__name__} keeps "
                    "a second copy of the weights, which would not know. Set warmup_steps to 0."
                )

    # Every step.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Say what begins to train with this step."""
        step = trainer.global_step
        begins = [pattern for pattern, first in self.schedule.items() if first == step > 0]
        if begins and self._told_at != step:
            self._told_at = step
            log.info("From step %d on %s train too: %.1f %% of the weights.", step, ", ".join(begins), 100 * self._share(step))
            self._record(step, begins)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take the gradients of what is held back: before they are clipped, and an optimizer passes over what has none."""
        step = trainer.global_step
        self._growing = []
        for parameter, first in self._held:
            if step < first:
                parameter.grad = None
            elif step - first < self.warmup_steps and parameter.grad is not None:
                weights = local(parameter.detach())
                self._growing.append((weights, weights.clone(), (step - first + 1) / (self.warmup_steps + 1)))
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self.schedule and every and (step + 1) % every == 0:
            pl_module.log("train/trained_share", self._share(step))

    @torch.no_grad()
    def _grow(self) -> None:
        """Of an update that has just been made, leave so much as is due."""
        for weights, before, share in self._growing:
            weights.copy_(before.lerp_(weights, share))
        self._growing = []

    def _share(self, step: int) -> float:
        held = sum(parameter.numel() for parameter, first in self._held if step < first)
        return 1.0 - held / max(1, self._num_weights)

    def training_stage(self, step: int) -> float:
        """For ``AnomalyAlerts``: how many parts have begun to train before optimizer step ``step``, from 1, that had been held back."""
        return float(sum(0 < first < step for first in set(self.schedule.values())))

    def _record(self, step: int, patterns: list[str]) -> None:
        if self._events is not None and step not in self._known:
            told = {"patterns": ", ".join(patterns), "trained_share": round(self._share(step), 4)}
            self._events.append({"time": round(time.time(), 3), "event": EVENT, "step": step, **told})

    # Which weights train follows from the step. What is kept serves to notice that the schedule was changed.

    def state_dict(self) -> dict[str, Any]:
        """The schedule, as plain values."""
        return {"schedule": dict(self.schedule), "warmup_steps": self.warmup_steps} if self.schedule else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Say it if the run was begun with another one."""
        if state_dict and state_dict != self.state_dict():
            log.warning(
                "GradualUnfreezing goes on by %s with warmup_steps=%d, and the checkpoint was trained by %s with %s: from here on not the "
                "weights of the uninterrupted run train.", self.schedule, self.warmup_steps, state_dict.get("schedule"),
                state_dict.get("warmup_steps"),
            )  # fmt: skip

    # The end.

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Give everything back."""
        self._let_go()

    on_exception = teardown

    def _let_go(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._held, self._growing, self._told_at = [], [], -1
        if self._events is not None:
            self._events.close()
            self._events = None
