"""How a run ended, in words."""

from __future__ import annotations

import errno

import pytest

from musictrain.runs.endings import ending_of


class SIGTERMException(SystemExit):
    """As Lightning names it."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [(KeyboardInterrupt(), "Ctrl-C"), (SystemExit(130), "Ctrl-C"), (SIGTERMException(), "SIGTERM"), (SystemExit(143), "SIGTERM")],
)
def test_who_is_asked_to_stop_is_interrupted(error: BaseException, reason: str) -> None:
    ending = ending_of(error, "a-run")
    assert ending.state == "interrupted"
    assert ending.reason.startswith(reason)
    assert ending.advice == "Go on with: musictrain resume a-run"


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "Halve batch_size"),
        (MemoryError(), "Halve batch_size"),
        (OSError(errno.ENOSPC, "No space left on device"), "Make room on the disk"),
        (ValueError("no such key"), "The traceback is in train.log"),
    ],
)
def test_what_fails_says_why_and_what_to_do(error: Exception, advice: str) -> None:
    ending = ending_of(error, "a-run")
    assert ending.state == "failed"
    assert ending.reason == f"{type(error).__name__}: {error}"
    assert ending.advice.startswith(advice)
    assert ending.advice.endswith("musictrain resume a-run")
