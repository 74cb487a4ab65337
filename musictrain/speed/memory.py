"""The most memory a process has held."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

MIB = 2**20


def peak_memory_mib(device: torch.device) -> float:
    """MiB: on CUDA the most that torch has held on the device, elsewhere the most that has been resident of this process since it began.

    nan where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: what it says of a process that was started by a larger one is the size of that one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
