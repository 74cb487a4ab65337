"""What an error of the network between processes means, in words for people; and the last words of Lightning's launcher."""

from __future__ import annotations

import logging
import re
import signal
import sys

# What gloo, NCCL and torch's store say; each with what has happened.
GONE = re.compile(r"Connection (?:closed|reset) by peer|Broken pipe|Socket closed|remote process has terminated")
SILENT = re.compile(
    r"Timed out waiting (?P<gloo>\d+)ms|[Tt]imeout\(ms\)=(?P<nccl>\d+)|wait timeout after (?P<store>\d+)ms|Collective operation timeout"
    r"|Application timeout caused pair closure"
)
ADDRESS = re.compile(r"\[(?P<address>[0-9.]+|[0-9a-fA-F:]+)\]:\d+")
ABOUT_PROCESSES = re.compile(r"gloo|nccl|c10d|TCPStore|ProcessGroup|monitoredBarrier|distributed|pair closure", re.IGNORECASE)

# Lightning's launcher says it to its log, and then kills the process that it speaks in.
KILLED_CHILD = re.compile(r"\[rank: (?P<rank>\d+)\] Child process with PID (?P<pid>\d+) terminated with code (?P<code>-?\d+)\.")
GO_ON = "Nothing that was saved is lost: start all processes again with --ckpt_path auto, or go on with musictrain resume."


class LastWords(logging.Handler):
    """Puts on the terminal, in words, why Lightning's launcher is about to kill this process: one that it started has ended."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, if this is what the record is about."""
        if found := killed_child(record.getMessage()):
            print(f"error: {found}\n{GO_ON}", file=sys.stderr, flush=True)


def killed_child(message: str) -> str | None:
    """What the launcher's line says, None for any other line.

    >>> killed_child("[rank: 1] Child process with PID 77 terminated with code -9. Forcefully terminating all other processes")
    'Rank 1 of this run (process 77) was ended by SIGKILL, and with it all others.'
    """
    if (found := KILLED_CHILD.search(message)) is None:
        return None
    code = int(found["code"])
    try:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with status {code}"
    except ValueError:
        how = f"was ended by signal {-code}"
    return f"Rank {found['rank']} of this run (process {found['pid']}) {how}, and with it all others."


def lost_peer(error: BaseException) -> str | None:
    """What happened and what to do, if an error says that another process does not answer; None for any other error.

    >>> print(lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:4937")))
    Another process of this run has ended, on 10.0.0.2: its own log says why.
    >>> lost_peer(ValueError("no such corpus")) is None
    True
    """
    message = str(error)
    if not isinstance(error, RuntimeError | OSError | ConnectionError) or not ABOUT_PROCESSES.search(f"{type(error).__name__} {message}"):
        return None
    if GONE.search(message):
        address = ADDRESS.search(message)
        where = f", on {address['address']}" if address else ""
        return f"Another process of this run has ended{where}: its own log says why."
    if silent := SILENT.search(message):
        milliseconds = next((found for found in silent.groups() if found), None)
        waited = f" for {int(milliseconds) / 60_000:g} minutes" if milliseconds else ""
        return (
            f"Another process of this run has not answered{waited}: its machine or the network between is down, or it is far behind. "
            "How long to wait: --timeout_minutes."
        )
    return None
