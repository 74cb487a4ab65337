"""``--pause_at STEP``: a run saves after that step, rests and ends with status 0; ``resume`` goes on as if it had never rested.

It leaves by the way that a SIGTERM takes, which finds the very place again, only that every process knows the step beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import SIGTERMException

from musictrain.callbacks import VersionedCheckpoint
from musictrain.checkpoints.trainer_state import run_ends
from musictrain.cli.exits import UsageError
from musictrain.cli.resume import step_of
from musictrain.runs.endings import mark_paused

PAUSE_AT = "pause_at"


class PauseAt(Callback):
    """Lets a run rest after a step, its validation included, unless it ends there.

    Args:
        step: optimizer steps.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self._asked = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A fit begins, perhaps again."""
        self._asked = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """One that goes on from that very step, killed before it could say that it rests, has nothing to do but to say so.

        Raises:
            SIGTERMException: then.
        """
        if trainer.global_step >= self.step:
            self._asked = True
            raise SIGTERMException

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Ask the callback that saves."""
        if self._asked or trainer.global_step < self.step or run_ends(trainer):
            return
        self._asked = True
        next(each for each in trainer.callbacks if isinstance(each, VersionedCheckpoint)).pause()  # type: ignore[attr-defined]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say to those who come after, and to the command line, that this is no interruption."""
        if self._asked and isinstance(exception, SystemExit):
            mark_paused(exception, trainer.global_step)


def add_pausing_argument(parser: LightningArgumentParser) -> None:
    """The option of ``fit`` and ``resume``."""
    parser.add_argument(
        f"--{PAUSE_AT}",
        type=PositiveInt | None,
        default=None,
        help="Save after this optimizer step, and end with status 0; `musictrain resume` goes on as if nothing had been.",
    )


def pauses_of(step: int | None, callbacks: Sequence[Callback], checkpoint: str | Path | None) -> list[Callback]:
    """The callback that lets a run rest, to stand before all others; none without a step.

    Args:
        step: after which, None for never.
        callbacks: of the run.
        checkpoint: the version that it goes on from, if any.

    Raises:
        UsageError: if nobody saves, or the run is beyond that step already.
    """
    if step is None:
        return []
    if not any(isinstance(callback, VersionedCheckpoint) for callback in callbacks):
        raise UsageError("--pause_at needs versions to go on from: leave trainer.enable_checkpointing and its own checkpoint callback out.")
    if checkpoint is not None and Path(checkpoint).exists() and step_of(Path(checkpoint)) > step:
        raise UsageError(f"--pause_at {step}: the run has done {step_of(Path(checkpoint)):,} steps already. Say a later one.")
    return [PauseAt(step)]
