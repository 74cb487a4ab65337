"""The memory that a process holds now."""

from __future__ import annotations

import os
from pathlib import Path

import torch

STATM = Path("/proc/self/statm")


def memory_held(device: torch.device) -> float:
    """Bytes: on CUDA what torch has allocated on the device, elsewhere what is resident of this process; nan where nobody tells.

    Neither waits for anything.
    """
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    try:
        return float(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return float("nan")
