"""The same warning over and over: written a few times, then counted."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from musictrain.runs.alerts import alert_of
from musictrain.runs.log_lines import message_of

WRITTEN_WARNINGS = 10
WRITTEN_ALERTS = 100
MOST_KINDS = 1_000
NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?|0x[0-9a-f]+")


@dataclass
class Repeat:
    """How often something was said.

    Args:
        record: the first time.
        count: times in all.
        written: how many of them, and the one that is told in the end.
    """

    record: logging.LogRecord
    count: int = 0
    written: int = 0


class Repeats:
    """Decides which of many equal warnings is written: the first ones, then the hundredth, the thousandth and so on.

    Two warnings are equal if they come from the same logger with the same words, whatever the numbers in them. Messages below a warning
    are all written. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._repeats: dict[tuple[str, int, str], Repeat] = {}

    def note(self, record: logging.LogRecord) -> str | None:
        """What to add to the message, mostly nothing; None if it is not to be written."""
        if record.levelno < logging.WARNING:
            return ""
        key = (record.name, record.levelno, NUMBER.sub("0", message_of(record)[:400]))
        most = WRITTEN_WARNINGS if alert_of(record) is None else WRITTEN_ALERTS
        if key not in self._repeats and len(self._repeats) >= MOST_KINDS:
            del self._repeats[next(iter(self._repeats))]
        repeat = self._repeats.setdefault(key, Repeat(record))
        repeat.count += 1
        if not _is_written(repeat.count, most):
            return None
        repeat.written += 1
        if repeat.count < most:
            return ""
        return " (again and again: from here on only counted)" if repeat.count == most else f" (said {repeat.count:,} times by now)"

    def unwritten(self) -> list[Repeat]:
        """What was said more often than it was written; afterwards everything counts from 0 again."""
        repeats, self._repeats = list(self._repeats.values()), {}
        return [repeat for repeat in repeats if repeat.count > repeat.written]


def _is_written(count: int, most: int) -> bool:
    return count <= most or (count >= 100 and set(str(count)[1:]) == {"0"} and str(count)[0] == "1")
