"""Alerts: what a person must hear of, as log records with a kind and an advice.

An alert is an ordinary record of the standard ``logging``, so that it can be raised anywhere, in any process and any Trainer. Whoever
listens (the run's events, the console, the live page, a mail) finds its parts in the record's attribute ``alert``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any


def alert(
    logger: logging.Logger, message: str, *, kind: str, advice: str = "", level: int = logging.WARNING, stacklevel: int = 2, **details: Any
) -> None:
    """Raise an alert.

    Args:
        logger: of the module that noticed.
        message: what happened, where, and how far from normal, in a sentence.
        kind: of which sort, in a word that never changes, such as ``data_wait`` or ``loss_spike``; people filter and count by it.
        advice: what to try, in a sentence.
        level: ``logging.WARNING``, or ``logging.ERROR`` for what ends or spoils the run.
        stacklevel: as in ``logging``.
        details: further facts that JSON can hold, such as ``step`` or ``layer``.
    """
    told = {"kind": kind, "message": message, "advice": advice, **details}
    logger.log(level, "%s", f"{message} {advice}".rstrip(), extra={"alert": told}, stacklevel=stacklevel)


def alert_of(record: logging.LogRecord) -> dict[str, Any] | None:
    """The parts of an alert, ``kind``, ``message``, ``advice`` and the details; None for any other record."""
    told = getattr(record, "alert", None)
    return told if isinstance(told, dict) else None


class AlertWatch(logging.Handler):
    """Hears of every alert in this process, from ``listen`` to ``stop``.

    Args:
        tell: called with the parts of each, among them ``time``, on the thread that raised it; what it raises is swallowed.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.NOTSET)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Tell, if this is an alert."""
        told = alert_of(record)
        if told is None:
            return
        try:
            self._tell({"time": round(record.created, 3), **told})
        except Exception:
            self.handleError(record)

    def listen(self) -> None:
        """Begin; twice is once."""
        logging.getLogger().addHandler(self)

    def stop(self) -> None:
        """End; nothing happens if it did not listen."""
        logging.getLogger().removeHandler(self)
