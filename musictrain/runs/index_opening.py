"""How the index is opened, and what happens to one that cannot be used: set aside and made again, or replaced by one in memory."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

from musictrain.runs.index_schema import ForeignIndexError, connect
from musictrain.runs.one_at_a_time import one_at_a_time

log = logging.getLogger(__name__)

INDEX = "index.sqlite"
TRIES = 5
MEMORY = ":memory:"


def open_index(path: Path, wait_seconds: float) -> tuple[sqlite3.Connection, bool]:
    """An open index, and whether it lives in memory.

    Args:
        path: of the file. One that is broken or somebody else's is set aside; where none can be, the index lives in memory.
        wait_seconds: how long to wait for a process that holds the file.
    """
    if not path.parent.is_dir():
        return connect(MEMORY), True
    for _ in range(TRIES):
        inode = inode_of(path)
        try:
            return connect(path, wait_seconds), False
        except (sqlite3.DatabaseError, ForeignIndexError) as error:
            if isinstance(error, sqlite3.OperationalError) and not is_broken(error):
                return copied_into_memory(path, str(error)), True
            set_aside(path, str(error), inode)
    return copied_into_memory(path, "it is broken again and again"), True


def copied_into_memory(path: Path, why: str) -> sqlite3.Connection:
    """An index in memory, with what the file holds as far as that can be read: so much need not be read again."""
    log.warning("The index %s cannot be used (%s): working from memory, which is slower.", path, why)
    memory = connect(MEMORY)
    with contextlib.suppress(sqlite3.Error, ValueError, OSError):
        source = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1)
        with contextlib.closing(source):
            if _kind(source) == _kind(memory):
                source.backup(memory)
    return memory


def _kind(connection: sqlite3.Connection) -> list[int]:
    return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]


def set_aside(path: Path, why: str, inode: int) -> None:
    """Rename an index that cannot be used, unless another process has done so: then the file is not ``inode`` any more."""
    with contextlib.suppress(OSError, TimeoutError), one_at_a_time(path):
        if inode_of(path) != inode or not inode:
            return
        aside = path.with_name(f"{path.name}.{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.aside")
        path.rename(aside)
        for ending in ("-journal", "-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        log.warning("The index %s could not be used (%s). It was set aside as %s and is made again.", path, why, aside.name)


def inode_of(path: Path) -> int:
    """The file's number; 0 if there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def is_broken(error: sqlite3.Error | ForeignIndexError) -> bool:
    """Whether the file is no index, or not any more."""
    lost = "no such table" in str(error) or "no such column" in str(error)
    return lost or _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unusable(error: sqlite3.Error) -> bool:
    """Whether the file is held by somebody, or lies where nothing can be read or written."""
    return _code(error) in _UNUSABLE


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


_UNUSABLE = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS),
}
