"""Holding on to versions that a run which goes on may remove at any moment: a second name of the same file, outside its checkpoints."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from musictrain.checkpoints.catalog import Version


class Hold:
    """A hidden folder of links to versions, or of copies where the disk knows no links; gone when it is closed, or with the program.

    Args:
        near: a folder on the disk of the versions, made if it is missing; where it cannot be written the system's own is taken.
    """

    def __init__(self, near: Path) -> None:
        try:
            near.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix=".held-", dir=near)
        except OSError:
            self._folder = tempfile.TemporaryDirectory(prefix="held-")

    def take(self, versions: Iterable[Version]) -> list[Version]:
        """The same versions under names that nobody removes; one that is gone already is left out."""
        held = []
        for version in versions:
            place = Path(self._folder.name) / version.path.name
            with suppress(FileNotFoundError, shutil.Error):
                if version.path.is_dir():
                    shutil.copytree(version.path, place, copy_function=_link)
                else:
                    _link(version.path, place)
                held.append(replace(version, path=place))
        return held

    def close(self) -> None:
        """Let go."""
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)
