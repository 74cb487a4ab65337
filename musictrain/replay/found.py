"""What is found when a step is done again, as plain values and tensors on the CPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class WorkedBatch:
    """A batch of the step, as it was worked on.

    Args:
        batch: what the data module gave, on the CPU.
        nll: nats of every target, (rows, time); nan for padding; None where the network's answer was no (rows, time, vocab).
        counted: which targets are no padding, (rows, time).
        likeliest: the token found likeliest for each target, (rows, time).
        likeliest_nll: its nats.
        misread: which of the tokens read were not those of the music (hidden, or dropped), (rows, time); None if that is not known.
        loss: what the training step gave back.
    """

    batch: Mapping[str, Any]
    nll: Tensor | None
    counted: Tensor | None
    likeliest: Tensor | None
    likeliest_nll: Tensor | None
    misread: Tensor | None
    loss: float

    @property
    def number(self) -> int | None:
        """Number of the batch, None if it bears none."""
        return int(self.batch["number"]) if isinstance(self.batch, Mapping) and "number" in self.batch else None


@dataclass(frozen=True)
class StepTrace:
    """One optimizer step.

    Args:
        step: its number, from 1.
        batches: numbers of the batches it gathered.
        loss: nats per token, without smoothing and z-loss; nan if not known.
        gradient_norm: L2, before clipping; nan if there were no gradients.
        learning_rate: of the optimizer's first group.
    """

    step: int
    batches: tuple[int, ...]
    loss: float
    gradient_norm: float
    learning_rate: float


@dataclass(frozen=True)
class Layer:
    """One parameter in the step.

    Args:
        name: of the parameter.
        gradient: L2 norm of its gradient before clipping; None without one.
        weight: L2 norm before the step.
        update: L2 norm of what the step changed.
    """

    name: str
    gradient: float | None
    weight: float
    update: float

    @property
    def update_ratio(self) -> float:
        """The update as a share of the weight."""
        return self.update / self.weight if self.weight else math.nan


@dataclass(frozen=True)
class NotFinite:
    """The first tensor that is not finite, in the order of computation.

    Args:
        stage: ``weight``, ``activation``, ``loss``, ``gradient of an activation``, ``gradient``, ``optimizer`` or
            ``weight after the step``.
        name: of the layer or the parameter; of an optimizer's state, ``parameter: state``.
        values: how many of its values are not finite.
        of: how many it has.
        step: of which step.
    """

    stage: str
    name: str
    values: int
    of: int
    step: int

    def sentence(self) -> str:
        """In words."""
        what = {
            "weight": f"the weight {self.name}, before anything was computed with it",
            "activation": f"the output of {self.name}, on the way forward",
            "loss": "the loss, though everything before it is finite",
            "gradient of an activation": f"the gradient of the output of {self.name}, on the way back",
            "gradient": f"the gradient of {self.name}",
            "optimizer": f"the optimizer's state of {self.name}",
            "weight after the step": f"the weight {self.name}, after the optimizer's step",
        }
        return f"First not finite: {what.get(self.stage, self.name)}, in {self.values:,} of {self.of:,} values."


@dataclass
class Replayed:
    """A step that was done again.

    Args:
        step: its number, from 1.
        began_at: optimizer steps done before the first one that was done again.
        batches: of the step, in order.
        traces: of this step and its neighbours, those of one line of the run's records at least.
        logged: by step, what the module logged then.
        layers: every parameter, in the module's order.
        not_finite: the first tensor that is not, None if all are.
        optimizer_stepped: whether there was a gradient to step with; a guard may have skipped the update.
        report: of the resume: what differs from when the version was saved.
        seconds: that it took.
    """

    step: int
    began_at: int = 0
    batches: list[WorkedBatch] = field(default_factory=list)
    traces: list[StepTrace] = field(default_factory=list)
    logged: dict[int, dict[str, float]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    not_finite: NotFinite | None = None
    optimizer_stepped: bool = True
    report: Any = None
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """Nats per token of the step; nan if not known."""
        return next((trace.loss for trace in self.traces if trace.step == self.step), math.nan)

    @property
    def gradient_norm(self) -> float:
        """Before clipping; nan if not known."""
        return next((trace.gradient_norm for trace in self.traces if trace.step == self.step), math.nan)


def count_not_finite(tensor: Tensor) -> int:
    """How many values of a tensor are nan or infinite; 0 of whole numbers."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return 0
    return int(tensor.numel() - torch.isfinite(tensor.detach()).sum().item())
