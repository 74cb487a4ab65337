"""A teacher's likeliest tokens at every place of a corpus, on disk and memory-mapped.

A folder:

    tokens.bin   ids of the likeliest tokens, likeliest first, (places, k), two or four bytes each, little-endian
    values.bin   their log-probabilities at the temperature and that of all other tokens together, (places, k + 1), float16
    index.npz    semitones (shifts,), and for each of them and each piece of the store its first place, -1 for none, and how many it has
    meta.json    what they are of, sizes and digests of the other files; written last

Place i of a piece is the opinion on its token i + 1, the teacher having read the piece from its beginning, or from the beginning of a
window of it; see ``keeping``.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musictrain.data.token_store import digest_of, digest_of_meta
from musictrain.distillation_loss import TopTokens

FORMAT = 1
FILES = ("tokens.bin", "values.bin", "index.npz")


class OpinionsError(ValueError):
    """A folder that does not hold the opinions that are meant, or not all of them. ``reason`` says what is wrong."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder} holds no opinions that could be used: {reason}.")
        self.folder, self.reason = folder, reason


@dataclass(frozen=True, eq=False)
class KeptOpinions:
    """Opinions that can be looked up by piece and place.

    Args:
        folder: where they lie.
        tokens: ids, (places, k).
        values: log-probabilities, (places, k + 1).
        semitones: shifts that there are opinions of, ascending, (shifts,).
        first: first place of each shift and piece, -1 for none, (shifts, pieces).
        count: places of each piece, (pieces,).
        meta: what ``meta.json`` says.
    """

    folder: Path
    tokens: NDArray[Any]
    values: NDArray[np.float16]
    semitones: NDArray[np.int64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    meta: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path, tokenizer: str | None = None, *, verify: bool = False) -> KeptOpinions:
        """The opinions in a folder.

        Args:
            folder: of theirs.
            tokenizer: fingerprint of the tokenizer whose tokens they are to be on; None asks for none.
            verify: whether every byte is read and compared with the digest it was written with.

        Raises:
            OpinionsError: if a file is missing or was changed, or they are on the tokens of another tokenizer.
        """
        folder = Path(folder)
        try:
            meta = _checked_meta(folder, verify)
            with np.load(folder / "index.npz", allow_pickle=False) as index:
                semitones, first, count = index["semitones"], index["first"], index["count"]
        except FileNotFoundError as error:
            raise OpinionsError(folder, f"{Path(error.filename).name} is missing") from error
        except (OSError, KeyError, TypeError, zipfile.BadZipFile, ValueError) as error:
            if isinstance(error, OpinionsError):
                raise
            raise OpinionsError(folder, f"it cannot be read ({type(error).__name__}: {error})") from error
        if tokenizer is not None and meta["facts"]["tokenizer"] != tokenizer:
            raise OpinionsError(folder, f"they are on the tokens of the tokenizer {meta['facts']['tokenizer']}, and yours is {tokenizer}")
        k, places = int(meta["facts"]["k"]), int(meta["places"])
        tokens = np.memmap(folder / "tokens.bin", np.dtype(meta["dtype"]), mode="r", shape=(places, k))
        values = np.memmap(folder / "values.bin", np.float16, mode="r", shape=(places, k + 1))
        return cls(folder, np.asarray(tokens), np.asarray(values), semitones, first, count, meta)

    def of(self, piece: Tensor, start: Tensor, semitones: Tensor, time: int) -> TopTokens:
        """The opinions on rows of one piece each; past a piece's end they mean nothing.

        Args:
            piece: its number in the store, (rows,).
            start: how many tokens into the piece a row begins, (rows,).
            semitones: by which it is transposed, (rows,).
            time: targets of a row.

        Raises:
            ValueError: if there is no opinion of a piece at its shift.
        """
        pieces, shifts = piece.numpy(), np.searchsorted(self.semitones, semitones.numpy())
        first = np.where(shifts < len(self.semitones), self.first[np.minimum(shifts, len(self.semitones) - 1), pieces], -1)
        if (first < 0).any():
            missing = int(np.argmin(first))
            raise ValueError(
                f"{self.folder} holds no opinion of piece {int(pieces[missing])} moved by {int(semitones[missing])} semitones: it was made "
                "for other rows than these. Remove it, and it is made anew."
            )
        within = np.minimum(start.numpy()[:, None] + np.arange(time), self.count[pieces][:, None] - 1)
        places = first[:, None] + within
        # Rounded to 16 bits, they add up to 1 only roughly.
        values = torch.from_numpy(self.values[places].astype(np.float32)).log_softmax(-1)
        return TopTokens(torch.from_numpy(self.tokens[places].astype(np.int64)), values[..., :-1], values[..., -1])


def _checked_meta(folder: Path, verify: bool) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["digest"] != digest_of_meta(meta):
        raise OpinionsError(folder, "meta.json has changed since it was written")
    if meta["format"] != FORMAT:
        raise OpinionsError(folder, f"it has format {meta['format']}, expected {FORMAT}")
    for name in FILES:
        written = meta["files"][name]
        if (size := (folder / name).stat().st_size) != written["size"]:
            raise OpinionsError(folder, f"{name} has {size} bytes, was written with {written['size']}")
        if (verify or name == "index.npz") and digest_of(folder / name) != written["sha256"]:
            raise OpinionsError(folder, f"{name} has changed since it was written")
    return meta
