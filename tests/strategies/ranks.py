"""Several processes at the price of one: everything is imported once, then the ranks are forked with torchrun's environment variables."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from tests.ports import free_port

PARENT_DEATH_SIGNAL = 1


def run_ranks(number: int, function: Callable[..., Any], *arguments: Any, timeout_seconds: float = 600.0) -> None:
    """Call a function in ``number`` forked processes, each one rank of a group; to be called before torch has started threads.

    Raises:
        RuntimeError: if one of them failed or did not come to an end; its traceback stands on standard error.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    children = [fork(function, arguments, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(number)]
    failed = wait_for(children, time.monotonic() + timeout_seconds)
    if failed:
        raise RuntimeError(f"Of {number} ranks these failed or hung: {failed}.")


def fork(function: Callable[..., Any], arguments: tuple[Any, ...], variables: dict[str, str]) -> int:
    """One child that calls the function and ends; gives back its process number."""
    sys.stdout.flush()
    sys.stderr.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        die_with_parent()
        os.environ.update({"GROUP_RANK": "0", "NODE_RANK": "0", "TORCHELASTIC_RUN_ID": "test", **variables})
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def die_with_parent() -> None:
    """Leave no process behind when the program that forked it is killed; Linux alone knows how."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def wait_for(children: list[int], end: float) -> list[int]:
    """Which of the children, by their rank, failed or had to be killed when time was up or another had failed."""
    left, failed = dict(enumerate(children)), []
    while left:
        for rank, child in list(left.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                del left[rank]
                failed += [rank] if status else []
        if left and (time.monotonic() > end or failed):
            # The others wait for what no longer comes.
            time.sleep(0.5)
            failed += [rank for rank in left if time.monotonic() > end]
            for child in left.values():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            break
        time.sleep(0.02)
    return sorted(failed)
