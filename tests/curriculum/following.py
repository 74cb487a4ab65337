"""Somebody's own data module that follows a course: a few lines, and nothing of musictrain's but numbered batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from musictrain.curriculum import Course, Dial
from musictrain.data.loading import BatchLoader, batch_loader
from tests.checkpoints.exact_runs import EPOCH, Numbered
from tests.rolling_back.going_back import StreamData
from tests.tiny_runs import VOCAB

ROWS, WINDOW = 2, 8


class OfDials(Dataset[dict[str, Any]]):
    """A batch of a number and its dial: tokens up to a share of the vocabulary, in rows of a share of the window."""

    def __getitem__(self, item: tuple[int, Dial]) -> dict[str, Any]:
        number, dial = item
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(1, 2 + round(dial.difficulty * (VOCAB - 2)), (ROWS, 1 + round(dial.length * WINDOW)), generator=generator)
        rows = torch.full((ROWS,), 2.0)
        return {"tokens": tokens, "notes": rows, "beats": rows, "number": number, "dial": [dial.difficulty, dial.length]}


class NumbersAndDials(DistributedSampler[Any]):
    """Asks for the dial of a batch when it is handed out."""

    def __init__(self, data: FollowingData) -> None:
        self.data = data

    def __len__(self) -> int:
        return EPOCH

    def __iter__(self) -> Iterator[tuple[int, Dial]]:
        course = self.data.course
        for number in self.data.passed.numbers(self.data.next_number(), EPOCH, 1):
            yield number, Dial() if course is None else course.at(number)


class FollowingData(StreamData):
    """Goes on where training stands, passes over what it is told to, and follows a course."""

    tokens_per_batch = ROWS * WINDOW

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__(num_workers)
        self.course: Course | None = None

    @property
    def passed(self) -> Any:
        return self._passed

    def next_number(self) -> int:
        return self._next()

    def follow(self, course: Course) -> None:
        self.course = course

    def train_dataloader(self) -> Any:
        return BatchLoader(OfDials(), batch_size=None, sampler=NumbersAndDials(self), num_workers=self.num_workers)

    def val_dataloader(self) -> Any:
        return batch_loader(Numbered(2, first=10_000))
