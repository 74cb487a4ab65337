"""A log record as one line: of JSON for ``events.jsonl``, of words for ``train.log``.

Conventions:

- One record is one line whatever its message holds: line breaks are shown as ``\\n``, colours of a terminal are dropped, every other
  control character is shown by its number. A message whose arguments do not fit is shown with them beside it.
- Only tracebacks, and tables of Lightning's and ours, have further lines in ``train.log``. Each begins with ``    | ``, and no record
  does, so that nothing inside a message can pass for a record.
- Secrets are hidden before anything else.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from typing import Any

from musictrain.runs.alerts import alert_of
from musictrain.runs.records import plain
from musictrain.runs.secrets import hidden, hide

MOST_CHARACTERS = 20_000
# Looked at beyond a cut, so that it goes through no secret before that is found.
LONGEST_SECRET = 20_000
INDENT = "    | "
WITH_TABLES = ("lightning", "musictrain.module")
"""Loggers that log tables."""
TERMINAL_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,4000}(?:\x07|\x1b\\)|\x1b[@-Z\\^_]")
# Also what turns the direction of reading around, and what other programs take for the end of a line.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
PYTHON_WARNING = re.compile(r"(?P<file>[^\n]+?):(?P<line>\d+): (?P<text>\w+(?:\.\w+)*: [\s\S]*)")


class EventFormatter(logging.Formatter):
    """A record as one line of JSON: an event ``alert`` or ``log``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line break."""
        return json.dumps(hidden(plain(facts_of(record))), allow_nan=False)


class LineFormatter(logging.Formatter):
    """A record as a line for people: when, how grave, rank, step, who, what; its traceback indented below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line and those of its traceback, without the last line break."""
        facts = facts_of(record)
        step = f"step {facts['step']:,}" if isinstance(facts["step"], int) else "step -"
        block, message = block_and_message(record, str(facts["message"]))
        advice = f" {facts['advice']}" if facts.get("advice") else ""
        kind = f" [{facts['kind']}]" if facts["event"] == "alert" else ""
        head = f"{self.formatTime(record)} {facts['level']:<8} rank {facts['rank']}  {step}  {facts['logger']}: "
        below = [*block, *str(facts.get("traceback") or "").splitlines()]
        return "\n".join([head + one_line(hide(f"{message}{advice}{kind}")), *(INDENT + one_line(line) for line in below)])


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """What an event says of a record: ``event``, ``time``, ``level``, ``rank``, ``step``, ``logger``, ``message`` and, if there is one,
    ``traceback``; of an alert also ``kind``, ``advice`` and its details. Texts are without secrets."""
    alert = alert_of(record)
    facts: dict[str, Any] = {
        "time": round(record.created, 3),
        "event": "log" if alert is None else "alert",
        "level": record.levelname,
        "rank": getattr(record, "rank", 0),
        "step": getattr(record, "step", None),
        "logger": record.name,
        "message": cleaned(shortened(message_of(record))),
    }
    if alert is not None:
        details = {str(key): cleaned(shortened(value)) if isinstance(value, str) else value for key, value in hidden(plain(alert)).items()}
        details = {key: value for key, value in details.items() if value is not None or key not in facts}
        facts |= {key: value for key, value in details.items() if key in ("kind", "message", "advice", "step", "rank") or key not in facts}
        facts["message"] = f"{facts['message']}{getattr(record, 'repeats', '')}"
    if text := traceback_of(record):
        facts["traceback"] = cleaned(_end_of(text))
    return facts


def message_of(record: logging.LogRecord) -> str:
    """What a record says, also if its arguments do not fit or cannot be shown."""
    if isinstance(told := getattr(record, "told", None), str):
        return told
    try:
        text = record.getMessage()
    except Exception:
        text = f"{_shown(record.msg)} (with arguments that do not fit: {_shown(record.args)})"
    if record.name == "py.warnings" and (found := PYTHON_WARNING.match(text)):
        text = f"{_without_source(found['text'])} ({short_path(found['file'])}:{found['line']})"
    return text


def _shown(value: object) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"


def _without_source(text: str) -> str:
    """A warning without the line of source below it."""
    first, line_break, last = text.rstrip("\n").rpartition("\n")
    return first if line_break and last.startswith("  ") else text.rstrip("\n")


def short_path(path: str) -> str:
    """A module's file without where packages are installed.

    >>> short_path("lib/python3.11/site-packages/torch/optim/adam.py")
    'torch/optim/adam.py'
    """
    return re.split(r"(?:site|dist)-packages/", path)[-1]


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """The beginning of a text without secrets; they are hidden before it is cut, so that none is cut in two."""
    told = hide(text[: most + LONGEST_SECRET])[:most]
    return told if len(text) <= most else f"{told} ... ({len(text) - most:,} characters more)"


def _end_of(text: str, most: int = MOST_CHARACTERS) -> str:
    """The end of a traceback without secrets: there it says how it ended."""
    told = hide(text[-most - LONGEST_SECRET :])[-most:]
    return told if len(text) <= most else f"... ({len(text) - most:,} characters before)\n{told}"


def traceback_of(record: logging.LogRecord) -> str:
    """The traceback of a record, and the stack if one was asked for; empty for most records."""
    if not record.exc_text and record.exc_info and record.exc_info[1] is not None:
        try:
            record.exc_text = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
        except Exception:
            record.exc_text = f"{type(record.exc_info[1]).__name__}, which cannot be shown"
    return "\n".join(filter(None, (record.exc_text, record.stack_info)))


def cleaned(text: str) -> str:
    r"""A text without terminal codes, its control characters and lone surrogates shown by their numbers; line breaks and tabs stay.

    >>> cleaned("\x1b[31mred\x1b[0m\x07\ud800")
    'red\\x07\\ud800'
    """
    return CONTROLS.sub(_numbered, TERMINAL_CODES.sub("", text).replace("\r\n", "\n")).encode("utf-8", "backslashreplace").decode()


def _numbered(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def one_line(text: str) -> str:
    r"""A cleaned text on one line.

    >>> one_line("two\nlines\tand a tab")
    'two\\nlines and a tab'
    """
    return cleaned(text).replace("\n", "\\n").replace("\t", " ")


def block_and_message(record: logging.LogRecord, message: str) -> tuple[list[str], str]:
    """The lines of a table that is logged behind an empty first line, and what to say instead; no lines for any other record."""
    if record.levelno < logging.WARNING and record.name.startswith(WITH_TABLES) and message.startswith("\n"):
        return message.strip("\n").splitlines(), "(below)"
    return [], message
