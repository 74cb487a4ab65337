"""Whether every token of a large store was read and found right before, and the file has not been touched since.

Reading it anew takes 1.5 s for a GB (SHA-256 at 700 MB/s, measured on one core that has instructions for it): too long for a store of tens
of GB at every start. So the file's size, times and number on the disk are noted beside it when it was found
right. Whatever writes to a file changes its times; a disk that decays by itself does not, and ``TokenStore.verify`` finds that.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from musictrain.data.token_store import TokenStore
from musictrain.runs.atomic import atomic_write

NOTE = "verified.json"
SMALL_BYTES = 2**26
"""A tenth of a second: such a store is read at every start."""
SETTLED_SECONDS = 2.0
"""A file written to more recently might be so again without its times telling."""


def verify_once(store: TokenStore) -> None:
    """Read every token, unless the file is large and as it was when that was last done.

    Raises:
        StoreError: if the tokens are not those that were written.
    """
    path, note = store.folder / "tokens.bin", store.folder / NOTE
    before = path.stat()
    if before.st_size > SMALL_BYTES and _noted(note) == _marks_of(before):
        return
    store.verify()
    if before.st_size > SMALL_BYTES and before.st_mtime < time.time() - SETTLED_SECONDS:
        # A store that nobody may write to is read again.
        with contextlib.suppress(OSError):
            atomic_write(note, json.dumps(_marks_of(before)))


def _marks_of(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _noted(note: Path) -> object:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
