"""Zip files as somebody would make them who means harm: any pickle, any records, and a valid seal around them if wanted."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from musictrain.checkpoints import disk
from musictrain.checkpoints.seal import END_OF_ZIP, Seal
from musictrain.checkpoints.storing import _seal

Record = tuple[str, bytes]
PICKLE = "archive/data.pkl"


def records_of(tree: Any) -> list[Record]:
    """The records that ``torch.save`` writes for a tree."""
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def with_pickle(content: bytes, tree: Any = None) -> list[Record]:
    """The records of a tree, with another pickle in them."""
    return [(name, content if name.endswith("data.pkl") else data) for name, data in records_of(tree or {})]


def zip_of(records: Sequence[Record], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file with these records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return buffer.getvalue()


def write_sealed(path: Path, content: bytes, **facts: Any) -> Path:
    """Store the bytes of a zip file with a valid seal."""
    with disk.new_file(path, replace=True, hold_back=END_OF_ZIP.size) as file:
        file.write(content)
        _seal(file, Seal("", 0, **facts))
    return path
