"""How a run ended, in words for a person: the state, the reason, and what to do about it."""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass, field
from typing import Any

PAUSED_AFTER = "musictrain_paused_after"
MEMORY = ("out of memory", "cannot allocate memory", "can't allocate memory", "defaultcpuallocator")


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Args:
        state: ``finished``, ``stopped``, ``failed``, ``interrupted`` or ``paused``.
        reason: why, empty if it simply finished.
        advice: what to do, empty if nothing.
        by_guard: whether it was stopped for its health.
    """

    state: str
    reason: str = ""
    advice: str = ""
    by_guard: bool = field(default=False, repr=False)


def ending_of(error: BaseException, run: str, resume: str = "musictrain resume") -> Ending:
    """What an exception that ended the training amounts to.

    Args:
        error: whatever came out.
        run: name of the run.
        resume: the command to go on with.

    >>> ending_of(KeyboardInterrupt(), "a-run")
    Ending(state='interrupted', reason='Ctrl-C', advice='Go on with: musictrain resume a-run')
    """
    go_on = f"{resume} {run}"
    if (step := paused_after(error)) is not None:
        return Ending("paused", f"It was asked to rest after {step:,} steps.", f"Go on with: {go_on}")
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return Ending("interrupted", _signal_of(error), f"Go on with: {go_on}")
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in MEMORY):
        return Ending("failed", reason, f"Halve batch_size, and double trainer.accumulate_grad_batches to train the same. Then: {go_on}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Ending("failed", reason, f"Make room on the disk. Then: {go_on}")
    return Ending("failed", reason, f"The traceback is in train.log. Once the cause is mended: {go_on}")


def mark_paused(error: BaseException, step: int) -> None:
    """Note on the exception by which a fit leaves that it was only asked to rest after ``step`` optimizer steps."""
    marked: Any = error
    setattr(marked, PAUSED_AFTER, step)


def paused_after(error: BaseException) -> int | None:
    """The optimizer steps after which a fit that left by this exception rests; None if it does not."""
    step = getattr(error, PAUSED_AFTER, None)
    return step if isinstance(step, int) else None


def _signal_of(error: BaseException) -> str:
    number = getattr(error, "signum", None) or (error.code if isinstance(error, SystemExit) else None)
    if isinstance(error, KeyboardInterrupt) or number in (signal.SIGINT, 128 + signal.SIGINT):
        return "Ctrl-C"
    if "SIGTERM" in type(error).__name__ or number in (signal.SIGTERM, 128 + signal.SIGTERM):
        return "SIGTERM: the machine, the scheduler or a person asked it to stop"
    return f"{type(error).__name__}: {error}"
