"""Asking for a going back, from a callback, in all processes alike."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from musictrain.batch_seed import number_of_batch
from musictrain.checkpoints.folder_checkpoint import FolderCheckpoint
from musictrain.data.accumulation import rule_of
from musictrain.rolling_back.choosing import last_trusted
from musictrain.runs.rollbacks import FILE_NAME, Rollback, RolledBack, ask, read_rollbacks

log = logging.getLogger(__name__)

MOST = "_musictrain_most_rollbacks"
"""Attribute of a Trainer whose fit somebody drives that can go back: how often the run may."""


def roll_back(trainer: Trainer, *, reason: str, step: int, batches: tuple[int, int] | None = None, delay: int = 0, kind: str = "") -> str:
    """End this fit and go on from the last good version; to be called by every process at the same place, from a hook that is called
    before anything of the spoiled state is saved: ``on_train_batch_end`` or ``on_validation_end`` of a callback that is no ``Checkpoint``.

    What is decided is durable before this raises.

    Args:
        trainer: whose fit it is.
        reason: in a sentence, for people.
        step: the optimizer step, from 1, that went wrong first: only versions from before it are gone back to.
        batches: first and last number of the batches to pass over, see ``StepTrail``; None if the same ones shall come again.
        delay: so many steps before that one may be spoiled already.
        kind: of what went wrong, in a word; see ``rolled_back_before``.

    Returns:
        Why it cannot be done, in a sentence; the fit then goes on, and the caller does what comes next.

    Raises:
        RolledBack: if it can be done. Nobody should catch it but the one who called fit.
    """
    decided: Any = None
    if trainer.is_global_zero:
        try:
            decided = _decided(trainer, reason, step, batches, delay, kind)
        except OSError as error:
            decided = f"It cannot go back, since the disk refuses: {error}"
    decided = trainer.strategy.broadcast(decided)
    if isinstance(decided, str):
        return decided
    raise RolledBack(decided)


def why_not(trainer: Trainer, *, passing_over: bool = True) -> str:
    """Why this fit can never go back, in a sentence with what to do about it; empty if it can, as far as this process knows.

    Args:
        trainer: whose fit it is.
        passing_over: whether batches are to be passed over.
    """
    if getattr(trainer, MOST, None) is None:
        return (
            "This Trainer cannot go back: fit was called directly. Call musictrain.rolling_back.fit(trainer, model, ...) instead of "
            "trainer.fit(model, ...), or train by the command line."
        )
    if versions_of(trainer) is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "There are no versions to go back to: add musictrain.callbacks.VersionedCheckpoint() to the Trainer's callbacks."
    datamodule = getattr(trainer, "datamodule", None)
    if passing_over and not (hasattr(datamodule, "pass_over") and hasattr(datamodule, "number_of_batch")):
        what = type(datamodule).__name__ if datamodule is not None else "A Trainer without a data module"
        return (
            f"{what} cannot pass over batches, and the same ones would come again: take MusicDataModule, give the data module the methods "
            "pass_over(first, last) and number_of_batch(index), or allow going back without passing anything over."
        )
    return ""


def rolled_back_before(trainer: Trainer) -> list[Rollback]:
    """The goings back of this run so far, oldest first, also those that no checkpoint knows of; the same in every process, which all call
    it, from ``on_fit_start`` on."""
    folder = versions_of(trainer)
    found = read_rollbacks(folder.parent / FILE_NAME) if folder is not None and trainer.is_global_zero else []
    return list(trainer.strategy.broadcast(found))


def attempt_of(trainer: Trainer) -> int | None:
    """Which start of a recorded run this is, from 1; None if nobody counts."""
    return next((attempt for logger in trainer.loggers if (attempt := getattr(logger, "attempt", None))), None)


def versions_of(trainer: Trainer) -> Path | None:
    """The folder of versions that a VersionedCheckpoint of this Trainer writes; None without one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    folders = [callback.dirpath for callback in callbacks if isinstance(callback, FolderCheckpoint)]
    return Path(str(folders[0])) if folders and folders[0] is not None else None


def _decided(trainer: Trainer, reason: str, step: int, batches: tuple[int, int] | None, delay: int, kind: str) -> Rollback | str:
    """What the first process decides, durable; or why it cannot be done."""
    if refusal := why_not(trainer, passing_over=batches is not None):
        return refusal
    folder, most = versions_of(trainer), int(getattr(trainer, MOST))
    assert folder is not None
    place = folder.parent / FILE_NAME
    before = read_rollbacks(place)
    if len(before) >= most:
        return f"This run has gone back {len(before)} times already, and may {most} times (`most` of musictrain.rolling_back.fit)."
    if callable(wait := getattr(trainer.strategy.checkpoint_io, "wait", None)):
        wait()
    trusted = max(0, step - 1 - delay)
    version = last_trusted(folder, trusted, windows=rule_of(trainer).multiple_within(float("inf")) > 1)
    if version is None:
        return (
            f"There is no good version of step {trusted:,} or before in {folder} to go back to. Keep more of them (`newest` of "
            "VersionedCheckpoint), or start a new run."
        )
    first, last = batches or (None, None)
    size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    number = 1 + max((rollback.number for rollback in before), default=0)
    rollback = Rollback(number, trainer.global_step, trusted, version.name, version.step, reason, first, last, size, kind)
    ask(place, rollback)
    return rollback


class StepTrail:
    """Remembers which batches the last optimizer steps were made of, so that a rule that speaks of steps can name batches.

    Args:
        steps: how many.
    """

    def __init__(self, steps: int = 256) -> None:
        self.steps = steps
        # By the step's number from 1: the Trainer's count of its first batch, and that batch's number.
        self._first: dict[int, tuple[int, int]] = {}
        self._batch_size: int | None = None

    def see(self, trainer: Trainer) -> None:
        """A batch begins; to be called in ``on_train_batch_start``."""
        size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
        if size != self._batch_size:
            self._batch_size, self._first = size, {}  # a resume with other batches, whose numbers say something else
        step = trainer.global_step + 1
        if self._first and step < max(self._first):
            self._first = {known: first for known, first in self._first.items() if known < step}
        self._first.setdefault(step, (trainer.fit_loop.total_batch_idx, number_of_batch(trainer)))
        while len(self._first) > self.steps:
            del self._first[next(iter(self._first))]

    def batches(self, trainer: Trainer, first: int, last: int) -> tuple[int, int]:
        """First and last number of the batches that the steps from ``first`` to ``last``, from 1, are made of: whole windows, also where
        the last one is still being gathered.

        Raises:
            ValueError: if no step was seen yet.
        """
        if not self._first:
            raise ValueError("No batch was seen yet, so that no step can be told which batches it is made of.")
        begins = max((step for step in self._first if step <= first), default=min(self._first))
        follows = min((number for step, (_, number) in self._first.items() if step > last), default=None)
        return self._first[begins][1], self._end_of_last(trainer) if follows is None else follows - 1

    def _end_of_last(self, trainer: Trainer) -> int:
        """The number of the batch with which the newest step is done: an epoch's end cuts a window short."""
        begun, now = self._first[max(self._first)][0], trainer.fit_loop.total_batch_idx
        left = trainer.num_training_batches - (trainer.fit_loop.batch_idx - (now - begun))
        return number_of_batch(trainer, max(now, begun + int(min(trainer.accumulate_grad_batches, left)) - 1))

    def state_dict(self) -> dict[str, Any]:
        """As plain values, for the checkpoint: what is noticed after a resume may have come before it."""
        return {"batch_size": self._batch_size, "steps": [[step, *first] for step, first in self._first.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._batch_size = state["batch_size"]
        self._first = {step: (count, number) for step, count, number in state["steps"]}
