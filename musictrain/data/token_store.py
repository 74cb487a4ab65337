"""The token ids of a whole corpus on disk, memory-mapped: made once for a corpus, a tokenizer and their code.

A store is a folder:

    tokens.bin     every piece end to end, begin and end included, two or four bytes a token, little-endian
    pieces.npz     one entry per piece: split, offset, length, num_notes, num_beats
    names.json     one entry per piece: name, source; and the rejected pieces with their reasons
    meta.json      sizes and digests of the other files, fingerprints; written last

``open`` checks every size and the digests of the small files, so that half a store is never taken for a whole one; ``verify`` reads
the tokens too.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.data.splits import SPLITS
from musictrain.data.tokenizers.protocol import TokenIds

FORMAT = 1
COLUMNS = {"split": np.int8, "offset": np.int64, "length": np.int64, "num_notes": np.int64, "num_beats": np.float64}


class StoreError(ValueError):
    """A folder that is no whole token store. ``reason`` says what is wrong with it."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder} is no whole token store: {reason}.")
        self.folder, self.reason = folder, reason


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Pieces as token ids. Travels to other processes as the name of its folder.

    Args:
        folder: where it lies.
        tokens: every piece end to end, memory-mapped, (tokens,).
        split: 0, 1, 2 for train, valid, test, (pieces,).
        offset: where each piece begins in ``tokens``, (pieces,).
        length: tokens of each piece, begin and end included, (pieces,).
        num_notes: notes in the tokens of each piece, those of ``decode(encode(notes))``, (pieces,).
        num_beats: beats from each piece's start to the end of its last note, (pieces,).
        names: of each piece.
        sources: where each piece came from.
        rejected: (source, reason) of the pieces the tokenizer cannot hold.
        meta: what ``meta.json`` says.
    """

    folder: Path
    tokens: NDArray[Any]
    split: NDArray[np.int8]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    num_notes: NDArray[np.int64]
    num_beats: NDArray[np.float64]
    names: tuple[str, ...]
    sources: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    meta: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> TokenStore:
        """The store in a folder; reads the small files and maps the tokens.

        Raises:
            StoreError: if a file is missing, has another size than it was written with, or a small file another digest.
        """
        folder = Path(folder).expanduser()
        try:
            meta = _checked_meta(folder)
            with np.load(folder / "pieces.npz", allow_pickle=False) as columns:
                pieces = {name: columns[name] for name in COLUMNS}
            names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
            tokens = _map_tokens(folder / "tokens.bin", np.dtype(meta["dtype"]))
        except FileNotFoundError as error:
            raise StoreError(folder, f"{Path(error.filename).name} is missing") from error
        except (OSError, KeyError, TypeError, zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StoreError(folder, f"it cannot be read ({type(error).__name__}: {error})") from error
        rejected = tuple((str(source), str(reason)) for source, reason in names["rejected"])
        return cls(folder, tokens, **pieces, names=tuple(names["names"]), sources=tuple(names["sources"]), rejected=rejected, meta=meta)

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenStore.open, (self.folder,)

    def __len__(self) -> int:
        return len(self.length)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of everything the store holds; equal stores have equal ones."""
        return str(self.meta["fingerprint"])

    def pieces(self, split: str) -> NDArray[np.int64]:
        """Numbers of the pieces of ``train``, ``valid`` or ``test``, ascending.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"A token store has the splits {', '.join(SPLITS)}, not {split!r}.")
        return np.flatnonzero(self.split == SPLITS.index(split))

    def num_tokens(self, split: str) -> int:
        """Tokens of a split."""
        return int(self.length[self.pieces(split)].sum())

    def piece(self, number: int) -> TokenIds:
        """The token ids of one piece, begin and end included, (length,)."""
        start = self.offset[number]
        return self.tokens[start : start + self.length[number]].astype(np.int64)

    def verify(self) -> None:
        """Read every token and compare with the digest it was written with.

        Raises:
            StoreError: if the tokens are not those that were written.
        """
        if digest_of(self.folder / "tokens.bin") != self.meta["files"]["tokens.bin"]["sha256"]:
            raise StoreError(self.folder, "tokens.bin has changed since it was written")

    def summary(self) -> str:
        """One line: pieces and tokens, of all and of each split."""
        splits = ", ".join(f"{split} {len(self.pieces(split)):,} / {self.num_tokens(split):,}" for split in SPLITS)
        refused = f", {len(self.rejected):,} refused by the tokenizer" if self.rejected else ""
        return f"{len(self):,} pieces / {len(self.tokens):,} tokens ({splits}){refused}"


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_meta(meta: dict[str, Any]) -> str:
    """What ``meta.json`` says its own digest is: of everything else in it."""
    others = {key: value for key, value in meta.items() if key != "digest"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _checked_meta(folder: Path) -> dict[str, Any]:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["digest"] != digest_of_meta(meta):
        raise StoreError(folder, "meta.json has changed since it was written")
    if meta["format"] != FORMAT:
        raise StoreError(folder, f"it has format {meta['format']}, expected {FORMAT}")
    for name, written in meta["files"].items():
        if (size := (folder / name).stat().st_size) != written["size"]:
            raise StoreError(folder, f"{name} has {size} bytes, was written with {written['size']}")
        if name != "tokens.bin" and digest_of(folder / name) != written["sha256"]:
            raise StoreError(folder, f"{name} has changed since it was written")
    return meta


def _map_tokens(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    # A plain array over the map: slicing np.memmap itself is several times slower. An empty file cannot be mapped.
    return np.asarray(np.memmap(path, dtype, mode="r")) if path.stat().st_size else np.empty(0, dtype)
