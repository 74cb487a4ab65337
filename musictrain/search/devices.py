"""Which GPU a trial gets: each sits on one of its machine's, as few as possible on the same.

A seat is a file that the trial's process holds, as it does its own lock: whoever dies leaves it, and drivers, workers and leftovers of
earlier ones on a machine need not know each other.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from musictrain.runs.processes import Slot

VISIBLE = "CUDA_VISIBLE_DEVICES"
DRIVER = Path("/proc/driver/nvidia/gpus")
MOST_ON_ONE = 64


def devices_here(environment: Mapping[str, str] = os.environ, driver: Path = DRIVER) -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` may name here: what it names already, else every GPU of NVIDIA's driver; none without.

    >>> devices_here({"CUDA_VISIBLE_DEVICES": "2,GPU-1a"})
    ['2', 'GPU-1a']
    """
    if VISIBLE in environment:
        return [each for each in environment[VISIBLE].replace(" ", "").split(",") if each and each != "-1"]
    return [str(number) for number in range(len(list(driver.iterdir())))] if driver.is_dir() else []


class Seat:
    """A place on a GPU for the process that is about to be started.

    Args:
        folder: of the locks of a search.
        devices: of this machine.
    """

    def __init__(self, folder: Path, devices: Sequence[str]) -> None:
        self._folder, self._devices = folder, devices
        self._slot: Slot | None = None
        self.device = ""

    def take(self) -> int | None:
        """The descriptor of the seat on the device with the fewest trials; None where there are no devices."""
        for row in range(MOST_ON_ONE if self._devices else 0):
            for device in self._devices:
                slot = Slot(self._folder / f"{socket.gethostname()}-gpu{device}-{row}")
                if (descriptor := slot.take()) is not None:
                    self._slot, self.device = slot, device
                    return descriptor
        return None

    def give(self) -> None:
        """Leave it to the process that was started, or to the next one."""
        if self._slot is not None:
            self._slot.give()
            self._slot = None
