"""Computing as a run did, and without a word: the number of threads on which the last bits depend, and no alerts about what is past."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def threads(wanted: Any) -> Iterator[list[str]]:
    """Compute with as many threads as the run did, on which the last bits depend; gives what is to be said of it."""
    before = torch.get_num_threads()
    if not isinstance(wanted, int) or wanted < 1 or wanted == before:
        yield []
        return
    torch.set_num_threads(wanted)
    try:
        yield [f"Computed with {wanted} {'thread' if wanted == 1 else 'threads'}, as the run was."]
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_records() -> Iterator[None]:
    """What is logged while old steps are done again was said when they were done first."""
    logger = logging.getLogger("musictrain")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
