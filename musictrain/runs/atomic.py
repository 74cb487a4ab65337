"""A file that is either the old one or the new one, whole, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


def atomic_write(path: str | Path, content: bytes | str, *, durable: bool = True) -> None:
    """Put ``content`` (text as UTF-8) at ``path`` so that a reader, a crash or a power cut sees the old file or the new one.

    The temporary file stands beside the target, since a rename is atomic only within one file system. ``durable=False`` does not wait for
    the disk: for what is written again in a moment anyway, and may be torn by a power cut alone.

    Raises:
        OSError: if the folder is missing, read-only or full; the old file is then untouched and no temporary file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        _write(temporary, content.encode() if isinstance(content, str) else content, through=durable)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def _write(path: Path, content: bytes, *, through: bool) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if through:
            os.fsync(file.fileno())


def sync_folder(folder: str | Path) -> None:
    """Make renames and new names in ``folder`` survive a power cut; does nothing where folders cannot be synced."""
    # Windows cannot open a folder and some network file systems refuse to sync one: the rename itself is done by then.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
