"""Where a checkpoint lies: a path of this machine, or a URL of a file system that fsspec knows.

Conventions: names are taken as they are. fsspec's own ``put``, ``get`` and ``rm`` take brackets in a name for a pattern.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec

from musictrain.checkpoints import disk


def place_of(path: str | Path) -> tuple[Any, str]:
    """The file system of a URL and the path in it, or None and the local path."""
    text = str(path)
    if "://" not in text or text.startswith(("file://", "local://")):
        return None, text.partition("://")[2] or text
    return fsspec.core.url_to_fs(text)


def put(file: Path, filesystem: Any, place: str) -> None:
    """Copy a local file there; folders on the way are made."""
    filesystem.makedirs(filesystem._parent(place), exist_ok=True)
    filesystem.put_file(str(file), place)


def remove(path: str | Path) -> None:
    """Remove a file or a directory, if it is there."""
    filesystem, place = place_of(path)
    if filesystem is None:
        disk.remove(Path(place))
    elif filesystem.isdir(place):
        filesystem.rm(place, recursive=True)
    elif filesystem.exists(place):
        filesystem.rm_file(place)
