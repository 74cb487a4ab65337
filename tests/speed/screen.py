"""What a person sees on a terminal: the bytes that were written, with their escapes applied."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

ESCAPE = re.compile(r"\033\[([?\d;]*)([A-Za-z])")


def screen_of(written: str, columns: int) -> list[str]:
    """The rows of the screen from the top, without blanks at their ends; knows what a line that changes needs and refuses the rest."""
    rows: list[str] = [""]
    row = column = position = 0
    while position < len(written):
        sign = written[position]
        if found := ESCAPE.match(written, position):
            position = found.end()
            row, column = _apply(found[1], found[2], rows, row, column)
            continue
        position += 1
        if sign == "\r":
            column = 0
        elif sign == "\n" or column == columns:
            row, column = row + 1, column if sign == "\n" else 0
            rows += [""] * (row + 1 - len(rows))
        if sign not in "\r\n":
            assert sign >= " ", f"an unknown control sign {sign!r}"
            rows[row] = rows[row].ljust(column)[:column] + sign + rows[row][column + 1 :]
            column += 1
    return [text.rstrip() for text in rows]


def _apply(number: str, command: str, rows: list[str], row: int, column: int) -> tuple[int, int]:
    if command == "A":
        return max(row - int(number or 1), 0), column
    if command == "K":
        rows[row] = "" if number == "2" else rows[row][:column]
    else:
        assert command in "mhl", f"an unknown escape {number}{command}"
    return row, column


def written_on_a_terminal(
    command: Sequence[str],
    columns: int = 100,
    environment: Mapping[str, str] | None = None,
    seconds: float = 600,
    meanwhile: Callable[[str, subprocess.Popen[bytes]], None] = lambda written, program: None,
) -> str:
    """What a program writes whose standard streams are a terminal of so many columns.

    ``meanwhile`` is called with what was written so far, and the program, whenever that has become more.

    Raises:
        TimeoutError: if it has not ended after so many seconds.
    """
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    program = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env={**kept, "TERM": "xterm-256color", **(environment or {})})
    os.close(its)
    until, parts = time.monotonic() + seconds, []
    try:
        while time.monotonic() < until:
            if not select.select([mine], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(mine, 65536)
            except OSError:  # its end is closed
                part = b""
            if not part:
                program.wait(timeout=120)
                return b"".join(parts).decode()
            parts.append(part)
            meanwhile(b"".join(parts).decode(errors="replace"), program)
        raise TimeoutError(f"{command} wrote {b''.join(parts)[-500:]!r} and did not end.")
    finally:
        program.kill()
        program.wait(timeout=120)
        os.close(mine)
