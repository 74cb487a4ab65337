"""A corpus on disk: the notes of all its pieces in one memory-mapped file, and a table of the pieces.

A stored corpus is a folder. It is written beside its place and renamed into it, so that it is there as a whole or not at all, and two
processes that build the same corpus at once do no harm. Whatever cannot be opened is built again.

    notes.bin       one NOTE record per note, pieces one after another
    signatures.bin  (onset, numerator, denominator) records
    tempos.bin      (onset, bpm) records
    corpus.json     the table of the pieces, the rejected sources, the hash of the notes
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.notes import COLUMNS, Notes, Tempo, TimeSignature

NOTE = np.dtype(
    [("onset", "<f8"), ("duration", "<f8"), ("pitch", "<i2"), ("velocity", "u1"), ("program", "u1"), ("track", "<i4"), ("drum", "?")]
)
SIGNATURE = np.dtype([("onset", "<f8"), ("numerator", "<i4"), ("denominator", "<i4")])
TEMPO = np.dtype([("onset", "<f8"), ("bpm", "<f8")])
RECORDS = {"notes": NOTE, "signatures": SIGNATURE, "tempos": TEMPO}


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """Where caches are kept: the argument, else $MUSICTRAIN_CACHE, else $XDG_CACHE_HOME/musictrain, else ~/.cache/musictrain."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if named := os.environ.get("MUSICTRAIN_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "musictrain"


class NotesStore:
    """The notes of a stored corpus, read piece by piece from the memory-mapped file: ``store[number]`` is a Notes.

    Only the folder and the counts are pickled, so that a store travels to worker processes at no cost.
    """

    def __init__(self, folder: Path, counts: NDArray[np.int64]) -> None:
        self.folder, self.counts = folder, counts
        self._offsets = np.concatenate([np.zeros((1, len(RECORDS)), np.int64), np.cumsum(counts, axis=0)])
        self._records: dict[str, NDArray[Any]] | None = None

    def __reduce__(self) -> tuple:
        return type(self), (self.folder, self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, number: int) -> Notes:
        if self._records is None:
            self._records = {name: _mapped(self.folder / f"{name}.bin", dtype) for name, dtype in RECORDS.items()}
        starts, stops = self._offsets[number].tolist(), self._offsets[number + 1].tolist()
        notes, signatures, tempos = (
            records[start:stop] for records, start, stop in zip(self._records.values(), starts, stops, strict=True)
        )
        return Notes(
            **{name: notes[name] for name in COLUMNS},
            time_signatures=tuple(TimeSignature(*row) for row in signatures.tolist()),
            tempos=tuple(Tempo(*row) for row in tempos.tolist()),
        )


def _mapped(path: Path, dtype: np.dtype) -> NDArray[Any]:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


@dataclass(frozen=True)
class StoredPiece:
    """One row of the table: ``split`` is what the source asks for, "" if nothing; ``twin`` is equal for copies and transpositions."""

    name: str
    source: str
    group: str
    split: str
    twin: str


@dataclass(frozen=True)
class StoredCorpus:
    """An opened corpus folder; ``content`` is the hash of every note, in order."""

    pieces: list[StoredPiece]
    rejected: list[tuple[str, str]]
    notes: NotesStore
    content: str


def open_stored(folder: Path) -> StoredCorpus | None:
    """The corpus stored in a folder, or None if there is none or it is damaged."""
    try:
        table = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        counts = np.array([row["counts"] for row in table["pieces"]], np.int64).reshape(-1, len(RECORDS))
        pieces = [StoredPiece(*(row[name] for name in ("name", "source", "group", "split", "twin"))) for row in table["pieces"]]
        for (name, dtype), count in zip(RECORDS.items(), counts.sum(axis=0).tolist(), strict=True):
            if (folder / f"{name}.bin").stat().st_size != count * dtype.itemsize:
                return None
        return StoredCorpus(pieces, [(where, reason) for where, reason in table["rejected"]], NotesStore(folder, counts), table["content"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class CorpusWriter:
    """Writes a corpus folder: ``add`` the notes of every piece, then ``finish``. A context manager: leaving it clears up."""

    def __init__(self, target: Path) -> None:
        self.target = target
        target.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        self.files = {name: (self.folder / f"{name}.bin").open("wb") for name in RECORDS}
        self.counts: list[list[int]] = []
        self.content = hashlib.sha256()

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files.values():
            file.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, notes: Notes) -> None:
        """Append one piece's notes."""
        records = {
            "notes": _records({name: getattr(notes, name) for name in COLUMNS}, NOTE),
            "signatures": np.array(list(notes.time_signatures), SIGNATURE),
            "tempos": np.array(list(notes.tempos), TEMPO),
        }
        self.counts.append([len(each) for each in records.values()])
        self.content.update(repr(self.counts[-1]).encode())
        for name, each in records.items():
            self.files[name].write(each.tobytes())
            self.content.update(each.tobytes())

    def finish(self, pieces: Iterable[StoredPiece], rejected: Iterable[tuple[str, str]]) -> None:
        """Write the table and put the folder in its place."""
        for file in self.files.values():
            file.close()
        rows = [{**vars(piece), "counts": counts} for piece, counts in zip(pieces, self.counts, strict=True)]
        table = {"pieces": rows, "rejected": list(rejected), "content": self.content.hexdigest()}
        (self.folder / "corpus.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
        self.folder.chmod(0o755)
        if self.target.exists() and open_stored(self.target) is None:
            shutil.rmtree(self.target)
        # Another process may have been faster: then its folder, which holds the same, stays.
        with contextlib.suppress(OSError):
            self.folder.rename(self.target)


def _records(columns: Mapping[str, NDArray[Any]], dtype: np.dtype) -> NDArray[Any]:
    records = np.zeros(len(columns["onset"]), dtype)
    for name, column in columns.items():
        records[name] = column
    return records
