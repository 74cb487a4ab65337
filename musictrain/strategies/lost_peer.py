"""What an error of the network between processes means, in words for people."""

from __future__ import annotations

import re

# What gloo, NCCL and torch's store say; each with what has happened.
GONE = re.compile(r"Connection (?:closed|reset) by peer|Broken pipe|Socket closed|remote process has terminated")
SILENT = re.compile(
    r"Timed out waiting (?P<gloo>\d+)ms|[Tt]imeout\(ms\)=(?P<nccl>\d+)|wait timeout after (?P<store>\d+)ms|Collective operation timeout"
)
ADDRESS = re.compile(r"\[(?P<address>[0-9.]+|[0-9a-fA-F:]+)\]:\d+")
ABOUT_PROCESSES = re.compile(r"gloo|nccl|c10d|TCPStore|ProcessGroup|monitoredBarrier|distributed", re.IGNORECASE)


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
