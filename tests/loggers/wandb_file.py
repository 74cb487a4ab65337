"""Reads W&B's own offline file: LevelDB's log format, and in it its records."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 120.0
BLOCK, HEADER, WHOLE, FIRST, LAST = 32768, 7, 1, 2, 4


def payloads(content: bytes) -> Iterator[bytes]:
    """The records, put together from their parts; the first 7 bytes name the format."""
    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEADER])
        if kind == 0:
            return
        part = content[place + HEADER : place + HEADER + length]
        parts = part if kind in (WHOLE, FIRST) else parts + part
        place += HEADER + length
        if kind in (WHOLE, LAST):
            yield parts


def records(folder: Path) -> list[Any]:
    """Every record of every attempt, from the earliest to the latest; waits until W&B's process has written each to its end."""
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.parent.name):
        deadline = time.monotonic() + PATIENCE_SECONDS
        told = _records_of(file)
        while not any(record.HasField("exit") for record in told) and time.monotonic() < deadline:
            time.sleep(0.05)
            told = _records_of(file)
        found += told
    return found


def _records_of(file: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    told = []
    for payload in payloads(file.read_bytes()):
        told.append(wandb_internal_pb2.Record())
        told[-1].ParseFromString(payload)
    return told


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of its history, keys joined by dots."""
    told = [record.history for record in records(folder) if record.HasField("history")]
    return [{".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item} for history in told]
