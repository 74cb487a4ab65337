"""Warnings and alerts on the terminal: a word in colour, the advice on a line of its own, above the progress line if there is one."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from musictrain.runs.alerts import alert_of
from musictrain.runs.log_lines import message_of, one_line, shortened
from musictrain.runs.repeats import Repeats
from musictrain.runs.secrets import hide
from musictrain.runs.train_log import rank_of_process

# How a run ended is said by whoever ran it, what was not saved by a line of its own.
SAID_ELSEWHERE = ("musictrain.callbacks.run_recorder", "musictrain.cli.console", "musictrain.checkpoints.version_folder")
MOST_CHARACTERS = 2_000
COLOURS = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}


class TerminalMessages(logging.Handler):
    """Shows this package's warnings, and everybody's alerts, on standard error; others stay in ``train.log``.

    Of several processes the first one shows all, any other its errors alone. What is said over and over is counted, as in the file.
    """

    shows_alerts = True  # whoever else would need not

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._rank = rank_of_process()
        self._repeats = Repeats()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is for the terminal."""
        ours = record.name.split(".")[0] == "musictrain" or alert_of(record) is not None
        said = record.name in SAID_ELSEWHERE and record.levelno >= logging.ERROR
        return ours and not said and (self._rank == 0 or record.levelno >= logging.ERROR) and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        try:
            repeats = self._repeats.note(record)
            if repeats is not None:
                show(*self._parts(record, repeats), level=record.levelno)
        except Exception:
            # A terminal that is gone, or takes no such letter, must not end a training.
            return

    def _parts(self, record: logging.LogRecord, repeats: str) -> tuple[str, str, str]:
        alert = alert_of(record) or {}
        who = record.levelname.lower() + (f" on rank {self._rank}" if self._rank else "")
        message = str(alert.get("message") or message_of(record)) + (" (traceback in train.log)" if record.exc_info else "")
        return who, one_line(shortened(message, MOST_CHARACTERS)) + repeats, one_line(hide(str(alert.get("advice") or "")))


def show(who: str, message: str, advice: str = "", *, level: int = logging.WARNING) -> None:
    """Put a message on the terminal; elsewhere it is one plain line."""
    if (console := console_now()) is None:
        print(f"{who}: {message}" + (f" {advice}" if advice else ""), file=sys.stderr, flush=True)
        return
    from rich.text import Text

    text = Text.assemble((f"{who}: ", COLOURS.get(level, "bold red")), message)
    if advice:
        text.append(f"\n  -> {advice}", style="cyan")
    console.print(text, soft_wrap=True)


def console_now() -> Any:
    """The rich Console to print with: that of the progress line, one of its own on a terminal, None where there is none."""
    live_line = sys.modules.get("musictrain.speed.live_line")
    if live_line is not None and (console := live_line.live_console()) is not None:
        return console
    if not sys.stderr.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return None
    from rich.console import Console

    # A line that is written over itself may stand there.
    sys.stderr.write("\r\033[K")
    return Console(stderr=True, highlight=False, markup=False, emoji=False)
