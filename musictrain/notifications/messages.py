"""What is told: an event of a run, as a subject and facts. Texts hold neither secrets nor what could break a mail's header."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musictrain.runs.folder import RunFolder
from musictrain.runs.log_lines import cleaned, one_line, shortened
from musictrain.runs.secrets import hide
from musictrain.runs.status import read_status

EVENTS = ("start", "finish", "failure", "alert", "best")
LONGEST_SUBJECT = 150
LONGEST_TEXT = 4_000
SHOWN_VALUES = (("train/loss", "training loss"), ("val/loss", "validation loss"))


@dataclass(frozen=True)
class Message:
    """Word of one event.

    Args:
        event: one of ``EVENTS``.
        run: the run folder.
        what: what happened, in a sentence.
        step: optimizer steps done.
        total: steps in all, None without such a limit.
        values: what was logged last, by name; may hold tensors, which are turned into numbers only when the text is made.
        details: further facts, such as an alert's ``kind`` and ``advice``.
        time: seconds since 1970.
    """

    event: str
    run: RunFolder
    what: str
    step: int = 0
    total: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def subject(self) -> str:
        """One line, at most 150 characters: the run and what happened."""
        text = one_line(hide(f"[{self.run.name}] {self.what}"))
        return text if len(text) <= LONGEST_SUBJECT else text[: LONGEST_SUBJECT - 3] + "..."

    def text(self) -> str:
        """What happened and the facts, a line each."""
        facts = list(self.facts())
        width = max(len(label) for label, _ in facts)
        lines = [_told(self.what), "", *(f"{label:<{width}}  {value}" for label, value in facts)]
        return "\n".join(lines) + "\n"

    def facts(self) -> list[tuple[str, str]]:
        """Label and value of everything worth telling; what is unknown is left out.

        It reads ``status.json`` and turns tensors into numbers, so it is not for the training thread.
        """
        status = read_status(self.run.status)
        rows = [("run", str(self.run.path)), ("step", f"{self.step:,}" + (f" of {self.total:,}" if self.total else ""))]
        rows += [(label, f"{value:.5g}") for key, label in SHOWN_VALUES if math.isfinite(value := number_of(self.values.get(key)))]
        if self.event in ("start", "alert", "best") and status is not None and status.left_seconds is not None:
            rows.append(("time left", span(status.left_seconds)))
        rows += [(str(key).replace("_", " "), value) for key, value in self.details.items() if value not in (None, "")]
        if self.event == "failure":
            others = ", ".join(path.name for path in sorted(self.run.path.glob("train_rank*.log")))
            rows += [("log", str(self.run.log)), ("other ranks", others), ("go on with", f"musictrain resume {self.run.name}")]
        rows.append(("live page", str(self.run.dashboard)))
        rows.append(("at", time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(self.time))))
        return [(one_line(label), one_line(shortened(str(value), LONGEST_TEXT))) for label, value in rows if str(value)]

    def as_record(self) -> dict[str, Any]:
        """One line of ``notifications.jsonl``; values may still be tensors."""
        shown = {key: self.values[key] for key, _ in SHOWN_VALUES if key in self.values}
        details = {str(key): _told(str(value)) if isinstance(value, str) else value for key, value in self.details.items()}
        facts = {"time": round(self.time, 3), "event": self.event, "run": self.run.name, "step": self.step, "total": self.total}
        return {**facts, "message": _told(self.what), **shown, **details}


def digest(messages: Sequence[Message], lost: int = 0) -> tuple[str, str]:
    """Subject and text of one mail for several messages, oldest first; ``lost`` had to be left out."""
    if len(messages) == 1 and not lost:
        return messages[0].subject(), messages[0].text()
    runs = list(dict.fromkeys(message.run.name for message in messages))
    grave = [message for message in messages if message.event in ("failure", "finish")]
    told = f", among them: {grave[-1].what}" if grave else ""
    subject = one_line(hide(f"[{', '.join(runs)}] {len(messages)} messages{told}"))[:LONGEST_SUBJECT]
    missing = f"{lost:,} older messages are left out; they are in the run's notifications and events.\n\n" if lost else ""
    return subject, missing + ("\n" + "-" * 72 + "\n\n").join(message.text() for message in messages)


def number_of(value: Any) -> float:
    """A logged value as a number; nan for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def span(seconds: float) -> str:
    """A time span in the two largest units that matter.

    >>> span(7), span(200), span(7500), span(200_000)
    ('7 s', '3 min 20 s', '2 h 5 min', '2 d 7 h')
    """
    whole = max(round(seconds), 0)
    for unit, name, smaller, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller} {small_name}"
    return f"{whole} s"


def _told(text: str) -> str:
    return cleaned(shortened(text, LONGEST_TEXT))


def trial(settings_of: str | Path) -> tuple[str, str]:
    """Subject and text of the mail by which people try their settings; ``settings_of`` is where those stand."""
    return "musictrain: a test", f"This is what a notification of musictrain looks like to your mail program.\n\nsettings  {settings_of}\n"
