"""Three ways to show one line that changes: on a terminal, in a notebook, and as plain lines in a file or a pipe.

A display asks for the line when it draws it. The terminal's draws four times a second from a thread of its own; what is printed meanwhile,
to standard output or error, stands above the line. Others that write to the terminal by handles of their own ask :func:`live_console`.
"""

from __future__ import annotations

import html
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from musictrain.runs.standing import GAP, Standing, joined
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)

STYLES = ("auto", "live", "notebook", "plain")
REDRAWS_PER_SECOND = 4
NARROWEST_BAR, WIDEST_BAR = 6, 24
BAR, PLAIN_BAR = "━─", "#-"

Look = Callable[[], "Standing | None"]
"""What there is to show now; None for nothing."""

_live: list[TerminalLine] = []


def live_console() -> Any:
    """The rich Console on which a line is drawn at present, None if there is none; what is printed with it stands above the line."""
    return _live[-1].console if _live else None


class Display(Protocol):
    """Shows the line."""

    redraw_seconds: float
    """How often the training should call ``redraw``."""
    redraws_stay: bool
    """Whether each redraw leaves a line for good."""

    def redraw(self) -> None:
        """Show the line as it is now."""

    def keep(self) -> None:
        """Leave a line for good, as it is now."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print something else, as ``print`` does."""

    def close(self) -> None:
        """Draw no more; twice is once."""


def new_display(look: Look, stream: TextIO | None = None, style: str = "auto", every_seconds: float | None = None) -> Display:
    """The display for where the line is to be shown.

    Args:
        look: asked for what there is to show.
        stream: where to, standard output if left out.
        style: one of ``STYLES``; ``auto`` takes a notebook's cell, a terminal that can move its cursor, or plain lines.
        every_seconds: least time between two plain lines or two changes in a notebook; None for what suits.
    """
    out = stream or sys.stdout
    if style == "notebook" or (style == "auto" and stream is None and in_notebook()):
        return NotebookLine(look, every_seconds)
    if style == "live" or (style == "auto" and _draws(out)):
        return TerminalLine(look, out, redirect=stream is None)
    return PlainLines(look, stream, every_seconds)


def check_style(style: str, who: str) -> None:
    """Refuse a style that there is not.

    Raises:
        ValueError: if it is not one of ``STYLES``.
    """
    if style not in STYLES:
        raise ValueError(f"{who} got style={style!r}; it knows {', '.join(STYLES)}. {did_you_mean(style, STYLES)}".rstrip())


def in_notebook() -> bool:
    """Whether this is a kernel that a notebook talks to."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def _draws(out: TextIO) -> bool:
    return out.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


class PlainLines:
    """A new line each time; on a terminal a line is written over itself until one is kept."""

    def __init__(self, look: Look, stream: TextIO | None = None, every_seconds: float | None = None) -> None:
        self._look, self._stream = look, stream
        self._overwrites = _draws(self._out)
        self.redraws_stay = not self._overwrites
        self.redraw_seconds = every_seconds if every_seconds is not None else (0.5 if self._overwrites else 10.0)

    @property
    def _out(self) -> TextIO:
        return self._stream or sys.stdout

    def redraw(self) -> None:
        """A line; on a terminal one that the next is written over."""
        self._write(lasting=not self._overwrites)

    def keep(self) -> None:
        """A line."""
        self._write(lasting=True)

    def _write(self, lasting: bool) -> None:
        standing = self._look()
        if standing is None:
            return
        if not self._overwrites:
            self.print(standing.line())
            return
        columns = terminal_columns(self._out)
        # Back to the margin, and erase what an earlier, longer line left.
        self.print(f"\r{standing.line(columns - 1)}\033[K", end="\n" if lasting else "")

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print."""
        print(*args, **{"file": self._out, "flush": True, **kwargs})

    def close(self) -> None:
        """Nothing to give back."""


def terminal_columns(out: TextIO) -> int:
    """Columns of the terminal that ``out`` writes to, as ``$COLUMNS`` or the terminal itself say; 80 if neither does."""
    if (told := os.environ.get("COLUMNS", "")).isdigit() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class TerminalLine:
    """A line with a bar, drawn over itself by rich, in colour unless ``NO_COLOR`` is set."""

    redraw_seconds = float("inf")  # its own thread does
    redraws_stay = False

    def __init__(self, look: Look, out: TextIO, redirect: bool = True) -> None:
        from rich.console import Console
        from rich.live import Live

        self._look = look
        self.console = Console(file=None if redirect else out, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._signs = bar_signs(self.console.encoding)
        self._live = Live(
            console=self.console,
            get_renderable=self._render,
            refresh_per_second=REDRAWS_PER_SECOND,
            transient=True,
            redirect_stdout=redirect,
            redirect_stderr=redirect,
        )
        _leave_forks_alone()
        _live.append(self)
        earlier = (sys.stdout, sys.stderr)
        self._live.start(refresh=True)
        self._give_back = lead_handlers_above(earlier) if redirect else lambda: None

    def _render(self) -> Any:
        from rich.text import Text

        try:
            standing = self._look()
            # The last column stays free: a full line would make some terminals begin another.
            return Text("") if standing is None else with_bar(standing, self.console.width - 1, self._signs)
        except Exception:
            log.debug("The progress line could not be drawn.", exc_info=True)
            return Text("")

    def redraw(self) -> None:
        """Draw now."""
        self._live.refresh()

    def keep(self) -> None:
        """A line above the one that is drawn over."""
        standing = self._look()
        if standing is not None:
            self.print(standing.line(self.console.width - 1))

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the line."""
        if "file" in kwargs:
            print(*args, **kwargs)
            return
        from rich.text import Text

        words = kwargs.get("sep", " ").join(str(each) for each in args)
        self.console.print(Text.from_ansi(words), end=kwargs.get("end", "\n"), soft_wrap=True)

    def close(self) -> None:
        """Erase the line and give the terminal back."""
        self._give_back()
        if self in _live:
            _live.remove(self)
        self._live.stop()


def lead_handlers_above(earlier: tuple[Any, Any]) -> Callable[[], None]:
    """Let log handlers that hold an earlier standard output or error write to the present one; gives back how to undo it."""
    present = (sys.stdout, sys.stderr)
    loggers = [logging.getLogger(), *(each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    handlers = {handler for logger in loggers for handler in logger.handlers if isinstance(handler, logging.StreamHandler)}
    moved = [
        (handler, handler.stream, now) for handler in handlers for was, now in zip(earlier, present, strict=True) if handler.stream is was
    ]
    for handler, _, now in moved:
        handler.setStream(now)

    def undo() -> None:
        for handler, was, now in moved:
            if handler.stream is now:
                handler.setStream(was)

    return undo


_watching_forks: list[bool] = []


def _leave_forks_alone() -> None:
    """A worker that is forked while the line is being drawn inherits a lock that nobody opens: it prints past the line."""
    if not _watching_forks and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_print_past_the_line)
        _watching_forks.append(True)


def _print_past_the_line() -> None:
    _live.clear()
    for name in ("stdout", "stderr"):
        setattr(sys, name, getattr(getattr(sys, name), "rich_proxied_file", getattr(sys, name)))


def with_bar(standing: Standing, width: int, signs: str = BAR) -> Any:
    """The line in colours as rich's Text, with a bar of two signs as long as there is room for."""
    from rich.text import Text

    parts = standing.fitting(width)
    room = width - len(joined(parts)) - len(GAP)
    bar = "" if standing.share is None or room < NARROWEST_BAR else bar_of(standing.share, min(room, WIDEST_BAR), signs)
    text = Text(no_wrap=True, overflow="crop")
    gaps = {"bounds": " ", "end": ", "}
    for position, (name, words) in enumerate(parts.items()):
        text.append((gaps.get(name, GAP) if position else "") + words, style=STYLE_OF.get(name, ""))
        if name == "percent" and bar:
            filled = len(bar.rstrip(signs[1]))
            text.append(GAP + bar[:filled], style="green").append(bar[filled:], style="bright_black")
    return text


STYLE_OF = {"step": "bold", "loss": "cyan", "score": "cyan", "state": "bold yellow", "left": "green", "bounds": "bright_black"}


def bar_of(share: float, width: int, signs: str = BAR) -> str:
    """A share in [0, 1] as a bar.

    >>> bar_of(0.5, 8)
    '━━━━────'
    """
    filled = int(share * width)
    return signs[0] * filled + signs[1] * (width - filled)


def bar_signs(encoding: str) -> str:
    """Two signs of a bar that can be written in this encoding."""
    try:
        BAR.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return PLAIN_BAR
    return BAR


class NotebookLine:
    """A line in the cell's output that changes in place; without widgets, so that it is kept with the notebook."""

    redraws_stay = False

    def __init__(self, look: Look, every_seconds: float | None = None) -> None:
        self._look = look
        self.redraw_seconds = 1.0 if every_seconds is None else every_seconds
        self._handle: Any = None

    def redraw(self) -> None:
        """Change the line."""
        from IPython.display import display

        standing = self._look()
        if standing is None:
            return
        content = {"text/plain": standing.line(), "text/html": as_html(standing)}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)

    def keep(self) -> None:
        """Change the line: a cell keeps no earlier ones."""
        self.redraw()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print below the line."""
        print(*args, **kwargs)

    def close(self) -> None:
        """The line stays as it is."""


def as_html(standing: Standing) -> str:
    """The line with a bar, for a notebook; every word is escaped."""
    bar = "" if standing.share is None else f'<progress value="{standing.share:.4f}" max="1"></progress> '
    return f'<div style="font-family: monospace">{bar}{html.escape(standing.line())}</div>'
