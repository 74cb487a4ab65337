"""Batches that do not fit into memory: their rows are worked on in parts, for the same gradient.

A part keeps no activations: on the way back they are computed again, one part at a time. So a step in parts needs the memory of its
largest part and about a third more time, and whoever wraps the network (DDP, accumulation, precision) sees one forward and one backward
pass, as ever. Random numbers are drawn part by part: with dropout the masks are not those of the undivided batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from musictrain.runs.alerts import alert

log = logging.getLogger(__name__)

TO_BEGIN_LIKE_THIS = {
    "training": "To begin like this: --model.init_args.micro_batches {parts}; for speed, a smaller batch or window, or "
    "activation_checkpointing.",
    "validation": "For fewer rows at once: --data.init_args.valid_batch_size.",
}

Loss = TypeVar("Loss", bound="SummedLoss")
Result = TypeVar("Result")


class SummedLoss(Protocol):
    """What a loss gives back: a named tuple of scalars, the mean to be minimised and, whatever they are called, sums."""

    @property
    def loss(self) -> Tensor:
        """The mean over the counted tokens."""

    @property
    def num_tokens(self) -> Tensor:
        """How many there are."""

    @property
    def _fields(self) -> tuple[str, ...]:
        """All names."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine itself, had no memory left to give."""
    # The host's allocator raises a plain RuntimeError, and knows no other name for it.
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def in_parts(loss_of: Callable[..., Loss], parts: int, *rows: Tensor | None) -> Loss:
    """The loss of a batch, its rows worked on in ``parts``; one part is the batch as it is.

    Args:
        loss_of: from some of the rows, the mean over their counted tokens, as :func:`next_token_loss` gives it: beside ``loss``, sums.
        parts: as many as rows at most, beyond which there is one a row.
        rows: tensors of one length; None stays None.
    """
    count = next(len(each) for each in rows if each is not None)
    if parts <= 1 or count <= 1:
        return loss_of(*rows)
    pieces = [each.tensor_split(min(parts, count)) if each is not None else [None] * min(parts, count) for each in rows]
    results = [_forgetting(loss_of, *piece) for piece in zip(*pieces, strict=True)]
    num_tokens = torch.stack([result.num_tokens for result in results])
    shares = num_tokens / num_tokens.sum().clamp(min=1)
    losses = torch.stack([result.loss for result in results])
    sums = {name: torch.stack([getattr(result, name) for result in results]).sum() for name in results[0]._fields if name != "loss"}
    kind: Any = type(results[0])
    return kind(loss=(losses * shares.to(losses)).sum(), **sums)  # type: ignore[no-any-return]


def _forgetting(loss_of: Callable[..., Loss], *rows: Tensor | None) -> Loss:
    """The loss, without its activations."""
    if not torch.is_grad_enabled():
        return loss_of(*rows)
    return checkpoint(loss_of, *rows, use_reentrant=False)  # type: ignore[no-any-return]


class MicroBatches:
    """In how many parts batches are worked on: twice as many whenever memory runs out.

    Args:
        parts: to begin with.
        of: ``training`` or ``validation``, whose batches they are.

    Raises:
        ValueError: if ``parts`` is no positive number.
    """

    def __init__(self, parts: int = 1, of: str = "training") -> None:
        if parts < 1:
            raise ValueError(f"micro_batches is {parts}, expected how many parts a batch is worked on in: at least 1, which is undivided.")
        self.parts, self.of = parts, of

    def until_it_fits(
        self,
        rows: int,
        work: Callable[[int], Result],
        again: Callable[[], object] = lambda: None,
        *,
        may_divide: bool = True,
        step: int | None = None,
    ) -> Result:
        """What ``work`` gives back, called with the number of parts: again with twice as many as long as memory does not suffice.

        Args:
            rows: of the batch; more parts than rows cannot be.
            work: what to do, given the number of parts.
            again: called before ``work`` is repeated, to undo what it left behind.
            may_divide: False where other processes wait for this one in the middle of the work, so that it cannot be begun again.
            step: for the message.

        Raises:
            RuntimeError: torch's own, if one row alone does not fit or the work may not be divided.
        """
        while True:
            try:
                return work(self.parts)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = _first_line(error)
                if not may_divide or self.parts >= rows:
                    told = self._does_not_fit(rows, self.parts, reason, step)
                    alert(log, told, kind="memory_full", advice=_advice(may_divide), level=logging.ERROR, step=step)
                    raise
            # Out of the except clause: what is being handled holds the frames, and they the activations.
            again()
            self.divide(rows, reason, step)

    def divide(self, rows: int, reason: str, step: int | None = None) -> None:
        """Twice as many parts from now on, said aloud."""
        before, self.parts = self.parts, min(rows, 2 * self.parts)
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        cost = ": the same gradient, about a third more time." if self.of == "training" else "."
        alert(
            log,
            f"{self._does_not_fit(rows, before, reason, step)} It is worked on in {self.parts} parts from here on{cost}",
            kind="memory_full",
            advice=TO_BEGIN_LIKE_THIS[self.of].format(parts=self.parts),
            step=step,
            parts=self.parts,
            did="split the batch",
        )

    def _does_not_fit(self, rows: int, parts: int, reason: str, step: int | None) -> str:
        divided = f"{rows} rows" if parts == 1 else f"{rows} rows in {parts} parts"
        return f"A {self.of} batch of {divided} does not fit into memory{'' if step is None else f' at step {step}'} ({reason})."

    def learn(self, parts: int) -> None:
        """Another process needed so many."""
        if parts > self.parts:
            log.info("Another process needed %d parts to fit a batch into memory: so many here too.", parts)
            self.parts = parts

    def state_dict(self) -> dict[str, Any]:
        """As plain numbers."""
        return {"parts": self.parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """At least as many parts as before: a resumed run draws the random numbers of the uninterrupted one."""
        self.parts = max(self.parts, int(state["parts"]))


def _advice(may_divide: bool) -> str:
    if may_divide:
        return "Not even one row fits: take a shorter window or a smaller network."
    return (
        "Other processes wait in the middle of this step, so it cannot be begun again: resume with --model.init_args.micro_batches 2, "
        "a smaller batch, or activation_checkpointing."
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
