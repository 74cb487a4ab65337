"""Threads for each process, so that several on one machine do not fight for its cores."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

VARIABLE = "OMP_NUM_THREADS"


def threads_for(processes: int, cores: int) -> int:
    """An equal share of the cores, one at least.

    >>> threads_for(2, 8), threads_for(3, 8), threads_for(4, 2)
    (4, 2, 1)
    """
    return max(1, cores // max(1, processes))


def settle_threads(processes: int, cores: int, environment: Mapping[str, str] | None = None) -> str:
    """Give this process its share of the cores, unless ``OMP_NUM_THREADS`` is set; gives back a warning, or nothing.

    Args:
        processes: on this machine.
        cores: that it may use.
        environment: ``os.environ`` if left out.
    """
    given = (os.environ if environment is None else environment).get(VARIABLE, "")
    threads = int(given) if given.isdigit() and int(given) else threads_for(processes, cores)
    if processes > 1 and not given:
        torch.set_num_threads(threads)
    return crowding(processes, threads, cores)


def crowding(processes: int, threads: int, cores: int) -> str:
    """What to say where processes would fight for cores; nothing where they do not."""
    if processes == 1 or processes * threads <= cores:
        return ""
    if processes > cores:
        return f"{processes} processes share {cores} cores: they take turns, and training is no faster for them. Use {cores} at most."
    return (
        f"{processes} processes of {threads} threads each fight for {cores} cores, which can halve the speed. Set {VARIABLE}="
        f"{threads_for(processes, cores)}, or leave it unset."
    )
