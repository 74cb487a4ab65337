"""What reaches the terminal while a run goes on: own warnings and alerts, and nothing that is said elsewhere."""

from __future__ import annotations

import importlib
import io
import logging
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from musictrain.callbacks.notifications import alerts_are_shown
from musictrain.cli.console import quiet_terminal
from musictrain.cli.terminal_messages import TerminalMessages
from musictrain.runs.alerts import alert

ours = logging.getLogger("musictrain.some.part")
others = logging.getLogger("somebody.else")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[TerminalMessages]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setitem(sys.modules, "musictrain.speed.live_line", None)
    handler = TerminalMessages()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From here on standard error is a terminal: not in a fixture, since pytest sets it anew for each test."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_elsewhere_a_warning_is_one_plain_line(messages: TerminalMessages, capsys: pytest.CaptureFixture[str]) -> None:
    ours.warning("two\nlines \x1b[31mred")
    alert(ours, "The loss is nan.", kind="loss_nan", advice="Lower lr.", level=logging.ERROR)
    assert capsys.readouterr().err == "warning: two\\nlines red\nerror: The loss is nan. Lower lr.\n"


def test_on_a_terminal_it_is_coloured_and_the_advice_has_a_line_of_its_own(
    messages: TerminalMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = on_terminal(monkeypatch)
    alert(others, "The loss is nan.", kind="loss_nan", advice="Lower lr.")
    told = terminal.getvalue()
    assert told.startswith("\r\033[K\x1b[33mwarning: \x1b[0mThe loss is nan.")
    assert "\n\x1b[36m" in told
    assert told.count("Lower lr.") == 1
    assert told.endswith("\n")


def test_without_colour_if_so_asked(messages: TerminalMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    ours.warning("slow disk")
    assert terminal.getvalue() == "\r\033[Kwarning: slow disk\n"


def test_square_brackets_are_no_markup(messages: TerminalMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    ours.warning("[bold]x[/bold] [/] :smile:")
    assert terminal.getvalue().endswith("warning: [bold]x[/bold] [/] :smile:\n")


def test_a_line_that_is_being_drawn_stays_below(messages: TerminalMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    live_line = types.ModuleType("live_line")
    live_line.live_console = lambda: Console(file=drawn, no_color=True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "musictrain.speed.live_line", live_line)
    ours.warning("slow disk")
    assert drawn.getvalue() == "warning: slow disk\n"


def test_what_is_for_the_file_stays_off_the_terminal(messages: TerminalMessages, capsys: pytest.CaptureFixture[str]) -> None:
    ours.info("all is well")
    others.warning("not ours")
    logging.getLogger("musictrain.cli.console").error("said by a short line of its own")
    logging.getLogger("musictrain.callbacks.run_recorder").error("said by a short line of its own")
    assert capsys.readouterr().err == ""


def test_the_same_over_and_over_is_counted(messages: TerminalMessages, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(99):
        ours.warning("batch %d was slow", number)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 10
    assert told[-1].endswith("only counted)")


def test_other_processes_tell_their_errors_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "3")
    handler = TerminalMessages()
    for level in (logging.WARNING, logging.ERROR):
        handler.handle(logging.LogRecord("musictrain", level, __file__, 1, "it broke", None, None))
    assert capsys.readouterr().err == "error on rank 3: it broke\n"


def test_whoever_else_shows_alerts_can_see_that_they_are_shown(messages: TerminalMessages) -> None:
    assert alerts_are_shown()
    logging.getLogger().removeHandler(messages)
    assert not alerts_are_shown()


def test_secrets_are_hidden_there_too(
    messages: TerminalMessages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "canary-of-the-terminal")
    ours.warning("login with %s failed", "canary-of-the-terminal")
    assert capsys.readouterr().err == "warning: login with *** failed\n"


def test_a_terminal_that_is_gone_ends_nothing(messages: TerminalMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Terminal()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    ours.warning("nobody reads this")
    assert closed.closed


def test_within_a_run_handlers_come_and_go(capsys: Any, caplog: Any) -> None:
    importlib.import_module("lightning.pytorch")
    for name in ("lightning.pytorch", "torch"):
        caplog.set_level(logging.WARNING, logger=name)  # a benchmark may have made it quiet
    before = {name: list(logging.getLogger(name).handlers) for name in ("", "lightning.pytorch", "torch", "wandb")}
    with quiet_terminal() as train_log:
        ours.warning("for both")
        logging.getLogger("lightning.pytorch").warning("for the file")
        logging.getLogger("torch").warning("for the file")
    assert {name: list(logging.getLogger(name).handlers) for name in before} == before
    assert capsys.readouterr().err == "warning: for both\n"
    assert [record.getMessage() for record in train_log._held] == ["for both", "for the file", "for the file"]
