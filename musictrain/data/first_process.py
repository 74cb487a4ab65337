"""The first process of each machine makes what all of them need; the others wait, say so, and learn at once if it failed.

What is made lies on a disk, so that the others only open it. They wait with a time limit and a line now and then, which a barrier does not
give: there an error of one process leaves the others where they are until the network gives up on it.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

FIRST_WORD_SECONDS = 15.0
NEXT_WORD_SECONDS = 60.0
# What gloo says when the limit is reached, and not when a process has ended.
TIMED_OUT = re.compile(r"Timed out|timeout", re.IGNORECASE)
ADVICE = "Start it once as a single process, which makes it for all that see the same disk; or wait longer: --data.wait_minutes."


def is_spread() -> bool:
    """Whether this process is one of several that have found each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def build_first(
    build: Callable[[], Any],
    *,
    is_builder: bool,
    what: str,
    wait_minutes: float = 60.0,
    says: bool = True,
    say: Callable[[str], None] | None = None,
) -> None:
    """Let the builders build while the others wait; returns when all builders are done.

    Every process has to call it, equally often. Alone, a process just builds.

    Args:
        build: makes it, on disk.
        is_builder: whether this process does: the first one of each machine.
        what: is made, after "to": ``read the corpus``.
        wait_minutes: how long the others wait at most.
        says: whether this process is one of those that say whom they wait for.
        say: takes such a line; standard error if left out.

    Raises:
        ValueError: in every process where nothing was wrong, if a builder failed, with its reason; or if the time is up.
        RuntimeError: if a process has ended meanwhile.
        Exception: in a builder, what it failed with.
    """
    if not is_spread():
        build()
        return
    # Of its own, since the run's group waits as long as a step may take, and on GPUs cannot wait for a process that computes on the CPU.
    group = dist.new_group(backend="gloo", timeout=timedelta(minutes=wait_minutes))
    builders = [rank for rank, builds in enumerate(_gathered(group, is_builder)) if builds]
    fault = _fault_of(build) if is_builder else None
    others = [rank for rank in builders if rank != dist.get_rank()]
    wait = f"rank {dist.get_rank()} waits for {_named(others)} to {what}"
    with _said_now_and_then(wait, wait_minutes, (say or _to_stderr) if says and others else None):
        reasons = _reasons(group, fault, f"{wait}: longer than {wait_minutes:g} minutes, the most it may. {ADVICE}")
    if fault is not None:
        raise fault
    if failed := [f"rank {rank} could not {what}: {reason}" for rank, reason in enumerate(reasons) if reason]:
        raise ValueError("\n".join(failed))
    dist.destroy_process_group(group)


def _fault_of(build: Callable[[], Any]) -> Exception | None:
    try:
        build()
    except Exception as error:
        return error
    return None


def _gathered(group: Any, value: Any) -> list[Any]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value, group=group)
    return everyone


def _reasons(group: Any, fault: Exception | None, too_long: str) -> list[str]:
    """Of each rank, what it failed with; empty where nothing was wrong."""
    mine = "" if fault is None else (isinstance(fault, ValueError) and str(fault)) or f"{type(fault).__name__}: {fault}"
    try:
        return _gathered(group, mine)
    except RuntimeError as error:
        if fault is not None:
            raise fault from error
        if TIMED_OUT.search(str(error)):
            raise ValueError(too_long) from error
        raise


def _named(ranks: Sequence[int]) -> str:
    """Whom somebody waits for.

    >>> _named([0]), _named([0, 4]), _named([0, 4, 8, 12])
    ('rank 0', 'ranks 0 and 4', 'rank 0 and 3 others')
    """
    if len(ranks) > 3:
        return f"rank {ranks[0]} and {len(ranks) - 1} others"
    *most, last = [str(rank) for rank in ranks] or ["0"]
    return f"ranks {', '.join(most)} and {last}" if most else f"rank {last}"


@contextmanager
def _said_now_and_then(wait: str, wait_minutes: float, say: Callable[[str], None] | None) -> Iterator[None]:
    """While the block runs, a line after some seconds and then every minute."""
    done, began = threading.Event(), time.monotonic()

    def speak() -> None:
        pause = FIRST_WORD_SECONDS
        while say is not None and not done.wait(pause):
            say(f"{wait} ({time.monotonic() - began:.0f} s; at most {wait_minutes:g} minutes)")
            pause = NEXT_WORD_SECONDS

    thread = threading.Thread(target=speak, name="waiting for the first process", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
