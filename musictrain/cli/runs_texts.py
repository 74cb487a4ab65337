"""How runs are put into words and tables on a terminal: durations, times, states, and names that cannot do harm."""

from __future__ import annotations

import math
import os
import sys
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from musictrain.runs import standing

COLOURS = {
    **dict.fromkeys(("starting", "training", "validating", "sampling", "saving"), "36"),
    **{"finished": "32", "stopped": "33", "interrupted": "33", "paused": "33", "failed": "31", "stale": "35"},
}


def inert(value: Any) -> str:
    r"""A text with every character that could steer a terminal or hide something written out.

    >>> inert("\x1b[31mred\n\u202e")
    '\\x1b[31mred\\n\\u202e'
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def in_colour(text: str, state: str) -> str:
    """The text in the colour of a state, if this is a terminal that wants colours."""
    return f"\x1b[{COLOURS[state]}m{text}\x1b[0m" if state in COLOURS and wants_colour() else text


def wants_colour() -> bool:
    """Whether the output is a terminal, and nobody has said that it should be plain (NO_COLOR, TERM=dumb)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def duration(seconds: float | None) -> str:
    """Such as ``3 min 05 s``; empty if nobody knows.

    >>> duration(42), duration(None)
    ('42 s', '')
    """
    return "" if seconds is None or not math.isfinite(seconds) or seconds < 0 else standing.duration(seconds)


def moment(seconds: float | None, form: str = "%Y-%m-%d %H:%M") -> str:
    """A time of day in local time; empty if nobody knows."""
    try:
        return "" if seconds is None else datetime.fromtimestamp(seconds).strftime(form)
    except (ValueError, OverflowError, OSError):
        return ""


def figure(value: Any) -> str:
    """A number in four digits, anything else as it is; empty for nothing.

    >>> figure(0.412345), figure(1234567), figure(0.00001), figure(None), figure("a"), figure(900.0)
    ('0.4123', '1,234,567', '1e-05', '', 'a', '900')
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return inert(value)
    if isinstance(value, int) or (math.isfinite(value) and value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.4g}"


def progress(step: int | None, total: int | None) -> str:
    """Such as ``450/900 50 %``."""
    if step is None:
        return ""
    return f"{step:,}/{total:,} {100 * step // total:3d} %" if total and total > 0 else f"{step:,}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = (), states: int | None = None) -> list[str]:
    """Rows under their headings, in columns.

    Args:
        headings: of the columns.
        rows: their cells, inert already.
        right: which columns end at the right; the others begin at the left.
        states: the column that holds states, which are coloured on a terminal.
    """
    cells = [list(headings), *(list(row) for row in rows)]
    widths = [max(shown_width(row[column]) for row in cells) for column in range(len(headings))]
    lines = []
    for number, row in enumerate(cells):
        padded = []
        for column, cell in enumerate(row):
            blank = " " * (widths[column] - shown_width(cell))
            words = in_colour(cell, cell) if column == states and number else cell
            padded.append(blank + words if column < len(right) and right[column] else words + blank)
        lines.append("  ".join(padded).rstrip())
    return lines


def shown_width(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)
