"""Which version is the last good one: whole, healthy, and from before anything went wrong."""

from __future__ import annotations

import re
from pathlib import Path

from musictrain.checkpoints.catalog import Version, first_that_verifies, list_versions
from musictrain.checkpoints.resume_report import GRADIENTS
from musictrain.checkpoints.storing import load

NOT_FINITE = re.compile(r"\bnot finite\b|\bis -?(?:nan|inf)\b")


def last_trusted(folder: str | Path, trusted: int, *, windows: bool = False) -> Version | None:
    """The version of the highest step that training can go back to, every byte of it verified; None if there is none.

    Left out is what cannot be resumed, was found ill when it was saved (weights or optimizer not finite, inside a loss spike), or was
    vetoed since a value of its validation was not finite; and with ``windows`` what was saved inside an accumulation window after that
    step, whose gradients may hold the offending batch.

    Args:
        folder: of the versions.
        trusted: no more optimizer steps than these.
        windows: whether steps gather several batches.
    """
    able = [version for version in list_versions(folder) if is_trusted(version, trusted)]
    for version in sorted(able, key=lambda version: (version.step, version.number), reverse=True):
        whole, _ = first_that_verifies([version])
        if whole is not None and not (windows and version.step == trusted and _inside_window(version.path)):
            return whole
    return None


def is_trusted(version: Version, trusted: int) -> bool:
    """Whether its name and its seal speak for it."""
    sound = version.good and version.resumable and not version.thin
    return sound and version.step <= trusted and not NOT_FINITE.search(version.vetoed)


def _inside_window(path: Path) -> bool:
    return bool(load(path, map_location="meta").get(GRADIENTS))
