"""Numbered batches as a torch DataLoader: the numbers travel through the sampler, so that workers hold no position.

With a curriculum the dial at each number travels with it: what is decided by how training goes is decided in the main process alone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from musictrain.curriculum.dial import Dial
from musictrain.data.batches import Batch, NumberedBatches, SteeredBatches

Numbered = int | tuple[int, Dial]


class RankBatches(Dataset[Batch]):
    """One rank's rows of numbered batches: item k is batch k, item (k, dial) is batch k with that dial.

    Args:
        plan: the batches.
        rank: whose rows, among the ranks that see different data.
        world_size: how many such ranks there are.

    Raises:
        ValueError: if the rows of a batch cannot be dealt out evenly.
    """

    def __init__(self, plan: NumberedBatches, rank: int = 0, world_size: int = 1) -> None:
        self.plan, self.rank, self.world_size = plan, rank, world_size

    def __len__(self) -> int:
        return self.plan.num_batches

    def __getitem__(self, number: Numbered) -> Batch:
        if isinstance(number, int):
            return self.plan.batch(number, self.rank, self.world_size)
        return cast(SteeredBatches, self.plan).batch(number[0], self.rank, self.world_size, number[1])


class BatchNumbers(DistributedSampler[Numbered]):
    """An epoch's batch numbers, from where training stands.

    Every rank gets the same numbers, since the batches themselves are dealt out. It is a DistributedSampler for one reason: Lightning
    leaves those as they are and would wrap any other, and then ranks would train on rows of different batches.

    Args:
        num_batches: numbers in an epoch.
        first: asked for the first number whenever an epoch begins; None means 0.
        numbers: gives so many numbers from a first one on, without those that are passed over; None passes none over.
        dial: asked for the dial at each number when that number is handed out; None hands out bare numbers.
    """

    def __init__(
        self,
        num_batches: int,
        first: Callable[[], int] | None = None,
        numbers: Callable[[int, int], Iterable[int]] | None = None,
        dial: Callable[[int], Dial] | None = None,
    ) -> None:
        self.num_batches, self.first, self.numbers, self.dial = num_batches, first, numbers, dial

    def __iter__(self) -> Iterator[Numbered]:
        start = self.first() if self.first else 0
        numbers = range(start, start + self.num_batches) if self.numbers is None else self.numbers(start, self.num_batches)
        if (dial := self.dial) is None:
            return iter(numbers)
        return ((number, dial(number)) for number in numbers)

    def __len__(self) -> int:
        return self.num_batches


class BatchLoader(DataLoader[Batch]):
    """A DataLoader that keeps no state: its sampler asks where to begin. Lightning takes it as resumable, which it is."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position is the data module's."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def batch_loader(
    plan: NumberedBatches,
    *,
    first: Callable[[], int] | None = None,
    numbers: Callable[[int, int], Iterable[int]] | None = None,
    dial: Callable[[int], Dial] | None = None,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    multiple: int = 1,
) -> BatchLoader:
    """A loader of whole batches.

    Args:
        plan: the batches.
        first: the number each epoch begins with; None means 0.
        numbers: gives so many numbers from a first one on; None gives all. See ``BatchNumbers``.
        dial: gives the dial at a number, for a plan that takes one; None steers nothing.
        rank: whose rows.
        world_size: ranks the rows are dealt out to.
        num_workers: processes that prepare batches ahead; they live as long as the loader.
        multiple: an epoch's number of batches is rounded up to a multiple of this one. Lightning makes a step of what is left at an
            epoch's end, and that would be a smaller step than the others; of a plan without end an epoch may as well be longer.

    Raises:
        ValueError: if the rows of a batch cannot be dealt out evenly.
    """
    return BatchLoader(
        RankBatches(plan, rank, world_size),
        batch_size=None,
        sampler=BatchNumbers(-(-plan.num_batches // multiple) * multiple, first, numbers, dial),
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Of its own: a loader otherwise draws from torch's generator at the start of each epoch, and a resumed run would draw once more.
        generator=torch.Generator(),
        worker_init_fn=ignore_interrupts,
    )


def ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that trains: it needs its workers until its step is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
