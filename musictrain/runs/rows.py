"""The rows of ``metrics.jsonl``, and which of them count.

Conventions:

- A row holds ``time`` (seconds since 1970), ``step`` (optimizer steps done), ``epoch``, ``attempt`` and the logged values. Rows are only
  ever added. An attempt is one start of the training: 1, and one more with every resume.
- An attempt that begins at step S adds a marker first, ``{"time", "attempt", "from_step": S}``. It withdraws every row above that step
  before it: those steps will be done again.
- Of one value of one step, the one recorded last counts. So nothing is doubled in files without markers either.
- A row with ``vetoed`` (why, in words) says that its step is never to be called best, whatever it was logged with: what the validation has
  shown is judged after its values are logged. An empty text takes that back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

VETOED = "vetoed"
ABOUT = ("time", "step", "epoch", "attempt", VETOED)
"""What a row says besides the logged values."""

BLOCK_BYTES = 1 << 20
REMEMBERED_BYTES = 64


def marker(attempt: int, from_step: int, time: float) -> dict[str, Any]:
    """The row with which an attempt begins."""
    return {"time": time, "attempt": attempt, "from_step": from_step}


def is_marker(row: Mapping[str, Any]) -> bool:
    """Whether an attempt begins here."""
    return "step" not in row and isinstance(row.get("from_step"), int)


def values_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The logged values of a row.

    >>> values_of({"time": 1.5, "step": 2, "epoch": 0, "attempt": 1, "val/loss": 0.5})
    {'val/loss': 0.5}
    """
    return {key: value for key, value in row.items() if key not in ABOUT}


def step_of(row: Mapping[str, Any]) -> int | None:
    """The step of a row; None if it has none, or none that is a whole number."""
    step = row.get("step")
    if isinstance(step, float) and step.is_integer():
        return int(step)
    return step if isinstance(step, int) and not isinstance(step, bool) else None


def vetoed_steps(rows: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """The steps that are never to be called best, by rows that count, and why.

    >>> vetoed_steps([{"step": 2, "val/loss": 0.5}, {"step": 2, "vetoed": "it loops"}])
    {2: 'it loops'}
    """
    found: dict[int, str] = {}
    for row in rows:
        if VETOED in row and (step := step_of(row)) is not None:
            found[step] = str(row[VETOED] or "")
    return {step: why for step, why in found.items() if why}


class CountingRows:
    """The rows that count among those added so far.

    A million rows take some hundred MB; who shows them only should keep less of each.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self._by_step: dict[int, list[dict[str, Any]]] = {}
        self._without_step: list[dict[str, Any]] = []
        self._highest = 0
        self.add(rows)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take more rows and markers, in the order of the file. The rows given are left as they are."""
        for row in rows:
            if is_marker(row):
                self._withdraw_above(row["from_step"])
            else:
                self._add(row)

    def rows(self) -> list[dict[str, Any]]:
        """The rows that count: those without a step, then by step, and of one step in the order in which they were recorded."""
        return [*self._without_step, *(row for step in sorted(self._by_step) for row in self._by_step[step])]

    def _add(self, row: dict[str, Any]) -> None:
        step = step_of(row)
        if step is None:
            self._without_step.append(row)
            return
        self._highest = max(self._highest, step)
        earlier = self._by_step.get(step)
        if earlier is None:
            self._by_step[step] = [row]
        else:
            self._by_step[step] = [*_without(earlier, row), row]

    def _withdraw_above(self, step: int) -> None:
        if self._highest > step:
            self._by_step = {kept: rows for kept, rows in self._by_step.items() if kept <= step}
            self._highest = step


def _without(rows: list[dict[str, Any]], later: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows without the values that a later row has too; a row that had no others is gone."""
    for row in rows:
        again = [key for key in row if key in later and key not in ABOUT]
        if not again:
            yield row
        elif len(values_of(row)) > len(again):
            yield {key: value for key, value in row.items() if key not in again}


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl`` that count, by step, without markers; none if the file is missing.

    A torn last line is passed over in silence, an unreadable line before it with a warning.
    """
    reader, rows = RowReader(path), CountingRows()
    while new := reader.read_new(BLOCK_BYTES):
        rows.add(new)
    return rows.rows()


class RowReader:
    """Reads a growing ``metrics.jsonl`` again and again, each time only what is new.

    ``restarts`` counts how often the file turned out to be another one than before (it shrank, or its old part changed): it is then read
    from its beginning, and whatever was made of its rows must be made anew.

    Args:
        path: the file; it need not be there yet.
        offset, before: the ``place`` where an earlier reader stopped, to go on there.
    """

    def __init__(self, path: str | Path, offset: int = 0, before: bytes = b"") -> None:
        self.path = Path(path)
        self.restarts = 0
        self._offset = offset
        self._before = before

    @property
    def place(self) -> tuple[int, bytes]:
        """Bytes read so far, and the last of them, by which a later reader knows the file again."""
        return self._offset, self._before

    def read_new(self, most_bytes: int | None = None) -> list[dict[str, Any]]:
        """Rows and markers since the last call, in the order of the file; empty if there is nothing new, or no file.

        A last line without its end is left for a later call. An unreadable line is passed over with a warning.

        Args:
            most_bytes: read about so much at most, for files that should not be in memory as a whole; call again until nothing comes.
        """
        rows: list[dict[str, Any]] = []
        while not rows and (lines := self._new_lines(most_bytes)):
            rows = [row for line in lines.split(b"\n") if line.strip() and (row := self._read(line)) is not None]
        return rows

    def _new_lines(self, most_bytes: int | None) -> bytes:
        try:
            with self.path.open("rb") as file:
                self._find_place(file)
                lines = _whole_lines(file, most_bytes)
        except FileNotFoundError:
            lines = b""
        self._offset += len(lines)
        self._before = (self._before + lines[-REMEMBERED_BYTES:])[-REMEMBERED_BYTES:]
        return lines

    def _find_place(self, file: Any) -> None:
        # By content, not by inode: a folder that is copied here again and again has a new file each time, which goes on all the same.
        file.seek(self._offset - len(self._before))
        if file.read(len(self._before)) != self._before:
            self.restarts += 1
            self._offset, self._before = 0, b""
            file.seek(0)

    def _read(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            log.warning("%s: a line that is no JSON object was skipped: %.60r", self.path, line)
            return None
        return row


def _whole_lines(file: Any, most_bytes: int | None) -> bytes:
    """What follows in a file up to its last line break, or up to one somewhere behind ``most_bytes``."""
    read: bytes = file.read(-1 if most_bytes is None else most_bytes)
    if b"\n" not in read and most_bytes is not None:
        read += file.readline()  # of a line that is longer than that
    return read[: read.rfind(b"\n") + 1]
