"""How much music training has read: tokens, notes and pieces, summed where the batch is, read when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

UNITS = ("tokens", "notes", "pieces")


class MusicRead:
    """Sums over batches: an int64 tensor (batch, time + 1), a mapping that holds one as ``tokens``, or a list with it as only member.

    Every token but a row's first is read as a target; ``pad_id`` is not counted. ``notes`` (rows,) are the batch's own. A row counts as
    one piece unless it is padding (``piece`` below 0), or as its tokens over ``tokens_per_piece``, the mean length of a training piece,
    where that is known. Batches of anything else are not counted. Nothing here waits for the device but :meth:`flush`.

    Args:
        pad_id: the token that does not count; None counts every one.
        tokens_per_piece: mean length of a piece.
    """

    def __init__(self, pad_id: int | None = None, tokens_per_piece: float | None = None) -> None:
        self.pad_id, self.tokens_per_piece = pad_id, tokens_per_piece
        self.rows_of_length: Counter[int] = Counter()
        self._known: set[str] = set()
        self._sums: Tensor | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """Which of tokens, notes and pieces the batches have told so far."""
        return tuple(unit for unit in UNITS if unit in self._known)

    def add(self, batch: Any) -> None:
        """Count a batch."""
        tokens = tokens_in(batch)
        if tokens is None:
            return
        rows, time = tokens.shape
        self.rows_of_length[time - 1] += rows
        sums = self._sums_on(tokens.device)
        sums[0] += rows * (time - 1) if self.pad_id is None else (tokens[:, 1:] != self.pad_id).sum()
        self._known.add("tokens")
        counts = batch if isinstance(batch, Mapping) else {}
        if isinstance(notes := counts.get("notes"), Tensor):
            sums[1] += notes.sum()
            self._known.add("notes")
        if self.tokens_per_piece is not None:
            self._known.add("pieces")
        elif isinstance(piece := counts.get("piece"), Tensor):
            sums[2] += (piece >= 0).sum()
            self._known.add("pieces")

    def flush(self) -> dict[str, float]:
        """Tokens, notes and pieces since the last time; waits for the device."""
        tokens, notes, pieces = (0.0, 0.0, 0.0) if self._sums is None else self._sums.tolist()
        self._sums = None
        self.rows_of_length.clear()
        if self.tokens_per_piece is not None:
            pieces = tokens / self.tokens_per_piece
        return {"tokens": tokens, "notes": notes, "pieces": pieces}

    def _sums_on(self, device: torch.device) -> Tensor:
        if self._sums is None:
            # In 32 bits counts beyond 16.8 million would stand still, but some devices have no more.
            self._sums = torch.zeros(len(UNITS), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        return self._sums


def tokens_in(batch: Any) -> Tensor | None:
    """The tokens (batch, time + 1) of a batch, or None if it has none."""
    tokens = batch.get("tokens") if isinstance(batch, Mapping) else batch
    if isinstance(tokens, list | tuple) and len(tokens) == 1:
        tokens = tokens[0]
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.shape[1] < 2:
        return None
    return None if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool else tokens


def mean_tokens_per_piece(store: Any) -> float | None:
    """Mean length of the training pieces of a token store; None for what is no such store, or for an empty one."""
    if not (hasattr(store, "pieces") and hasattr(store, "num_tokens")):
        return None
    pieces = len(store.pieces("train"))
    return store.num_tokens("train") / pieces if pieces else None
