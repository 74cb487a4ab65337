"""Running out of memory on purpose, and only so far that it can be caught."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from musictrain.cli.exits import CommandError
from musictrain.micro_batches import MicroBatches

SHARE = 0.8
"""Of the memory that is there, so much may be used before it counts as full."""


class Undivided(MicroBatches):
    """Does not work on a batch in more parts when memory runs out: that it does is what is asked."""

    def until_it_fits(self, rows: int, work: Callable[[int], Any], *args: Any, **kwargs: Any) -> Any:
        """What ``work`` gives back.

        Raises:
            RuntimeError: torch's, and the same for what Python calls a MemoryError.
        """
        try:
            return work(self.parts)
        except MemoryError as error:
            raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory for {rows} rows") from error


@contextlib.contextmanager
def run_out_of_memory(model: Any) -> Iterator[None]:
    """Inside, a module that would divide a batch which does not fit fails instead."""
    own = {name: part for name, part in vars(model).items() if isinstance(part, MicroBatches)}
    for name, part in own.items():
        setattr(model, name, Undivided(part.parts, part.of))
    try:
        yield
    finally:
        for name, part in own.items():
            setattr(model, name, part)


@contextlib.contextmanager
def count_rows(datamodule: Any) -> Iterator[list[int]]:
    """Inside, a loader of ready batches is as long as it has rows, which is what batch sizes are held against; gives those asked for.

    Raises:
        CommandError: when the loader is asked for, if there is no room for a single row.
    """
    own = getattr(datamodule, "train_dataloader", None)
    sizes: list[int] = []
    if own is None:
        yield sizes
        return

    def counted() -> Any:
        size = getattr(datamodule, "batch_size", None)
        if size == 0:  # what Lightning tries when one row does not fit
            raise CommandError("No batch size was found: not even one row fits into memory. Take a shorter window or a smaller network.")
        loader = own()
        if isinstance(size, int):
            sizes.append(size)
        return Rows(loader, size) if isinstance(size, int) and getattr(loader, "batch_size", 0) is None else loader

    datamodule.train_dataloader = counted
    try:
        yield sizes
    finally:
        del datamodule.train_dataloader


class Rows:
    """A loader of ready batches whose data set is counted in rows."""

    def __init__(self, loader: Any, size: int) -> None:
        self._loader = loader
        self.dataset = range(len(loader) * size)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader)


@contextlib.contextmanager
def bounded_memory(device: str, share: float = SHARE) -> Iterator[int | None]:
    """Inside, a process on CPUs may use a share of the memory that is there: what is beyond fails, instead of the whole machine.

    Gives the bytes it may hold; None, and no bound, on other devices and where the system does not tell.
    """
    there = available_bytes() if device == "cpu" and sys.platform == "linux" else None
    if there is None:
        yield None
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _kilobytes(Path("/proc/self/status"), "VmData") * 1024 + int(share * there)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if before[1] < 0 else min(limit, before[1]), before[1]))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def available_bytes() -> int | None:
    """Memory that can still be had, by the machine and by the container it may stand for; None if nobody tells."""
    try:
        found = [1024 * _kilobytes(Path("/proc/meminfo"), "MemAvailable")]
    except (OSError, ValueError):
        return None
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found))


def _kilobytes(path: Path, key: str) -> int:
    line = next((line for line in path.read_text().splitlines() if line.startswith(f"{key}:")), "")
    if not line:
        raise ValueError(f"{path} does not tell {key}")
    return int(line.split()[1])
