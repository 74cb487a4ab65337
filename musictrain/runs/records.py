"""Append-only records, one JSON object a line: what ``metrics.jsonl`` and ``events.jsonl`` are made of.

Conventions:

- A record is one line whatever it contains: line breaks inside a text are escaped, everything outside ASCII too.
- Numbers that JSON lacks are the texts ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``; ``float()`` and JavaScript's ``Number()`` read them.
- A crash can leave a torn last line. Readers skip it; the next writer cuts it off before it appends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

TORN_SECONDS = 0.02


def plain(value: Any) -> Any:
    """``value`` as plain JSON values: numpy scalars and arrays by ``tolist``, what JSON does not know by ``str``.

    >>> plain({"loss": float("nan"), "files": ("a", 1)})
    {'loss': 'NaN', 'files': ['a', 1]}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _plain_float(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _plain_float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def record_line(record: Mapping[str, Any]) -> bytes:
    r"""One record as one line of ASCII that ends in a line break.

    >>> record_line({"message": "two\nlines", "step": 3})
    b'{"message": "two\\nlines", "step": 3}\n'
    """
    return json.dumps(plain(record), allow_nan=False).encode("ascii") + b"\n"


class Records:
    """The writing end of a JSON-lines file.

    Each record is one ``write`` to a descriptor opened for appending, so that two writers never mix their lines. The file is
    opened, and a torn last line cut off, at the first record.

    Raises:
        OSError: at the first record, if the folder is missing or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; it is with the operating system when this returns (a power cut may still lose it).

        Raises:
            OSError: if the disk does not take it, such as a full one; nothing of it is then left in the file.
        """
        if self._descriptor is None:
            cut_torn_line(self.path)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        line = rest = record_line(record)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            if len(rest) < len(line):
                self._cut_own_torn_line()
            raise

    def _cut_own_torn_line(self) -> None:
        self.close()
        with contextlib.suppress(OSError):  # the next record tries it again
            cut_torn_line(self.path, told=False)

    def sync(self) -> bool:
        """Wait until a power cut can take nothing of what was written; gives back whether that is so."""
        try:
            if self._descriptor is not None:
                os.fsync(self._descriptor)
        except OSError as error:
            return error.errno in (errno.EINVAL, errno.EROFS, errno.ENOTSUP)  # a pipe, a file system that cannot
        return True

    def close(self) -> None:
        """Give the file back; a later record opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def cut_torn_line(path: Path, *, told: bool = True) -> None:
    """Drop what stands after the last line break: the half record of a writer that died. What is no file is left as it is."""
    if not path.is_file():
        return
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        whole = _end_of_last_line(file, end)
        if whole < end:
            time.sleep(TORN_SECONDS)  # it may be another writer's, which is not done yet
            end = file.seek(0, os.SEEK_END)
            whole = _end_of_last_line(file, end)
        if whole < end:
            if told:
                logger.warning("%s ended in a torn record of %d bytes, which was cut off.", path, end - whole)
            file.truncate(whole)


def _end_of_last_line(file: Any, end: int, block: int = 65536) -> int:
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """All whole records of a file, oldest first; a missing file has none.

    A torn last line is skipped in silence, an unreadable line before it with a warning that names it.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        record = _read_line(line)
        if record is not None:
            records.append(record)
        elif line.strip() and number < len(lines):
            logger.warning("%s, line %d: no JSON object, skipped.", path, number)
    return records


def _read_line(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
