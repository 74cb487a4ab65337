"""How much music training has read: tokens, notes and pieces, summed where the batch is, read when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

UNITS = ("tokens", "notes", "pieces")
MOST_COUNTS = 1024  # between two flushes; then they are added up where they are


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
        self._on_host: Counter[str] = Counter()
        self._on_device: dict[str, list[Tensor]] = {}

    @property
    def known(self) -> tuple[str, ...]:
        """Which of tokens, notes and pieces the batches have told so far."""
        told = {*self._on_host, *self._on_device}
        if "tokens" in told and self.tokens_per_piece is not None:
            told.add("pieces")
        return tuple(unit for unit in UNITS if unit in told)

    def add(self, batch: Any) -> None:
        """Count a batch."""
        tokens = tokens_in(batch)
        if tokens is None:
            return
        rows, time = tokens.shape
        self.rows_of_length[time - 1] += rows
        if self.pad_id is None:
            self._on_host["tokens"] += rows * (time - 1)
        else:
            self._keep("tokens", tokens[:, 1:].ne(self.pad_id).sum())
        if isinstance(batch, Mapping):
            if isinstance(notes := batch.get("notes"), Tensor):
                self._keep("notes", notes.sum())
            if self.tokens_per_piece is None and isinstance(piece := batch.get("piece"), Tensor):
                self._keep("pieces", piece.ge(0).sum())

    def flush(self) -> dict[str, float]:
        """Tokens, notes and pieces since the last time; waits for the device."""
        totals = {unit: float(self._on_host[unit]) for unit in UNITS}
        for unit, counts in self._on_device.items():
            if counts:
                totals[unit] += float(_sum_of(counts))
                counts.clear()
        self._on_host = Counter(dict.fromkeys(self._on_host, 0))
        self.rows_of_length.clear()
        if self.tokens_per_piece is not None:
            totals["pieces"] = totals["tokens"] / self.tokens_per_piece
        return totals

    def _keep(self, unit: str, count: Tensor) -> None:
        counts = self._on_device.setdefault(unit, [])
        counts.append(count)
        if len(counts) > MOST_COUNTS:
            counts[:] = [_sum_of(counts)]


def _sum_of(counts: list[Tensor]) -> Tensor:
    # In 32 bits counts beyond 16.8 million would stand still, but some devices have no more.
    wide = torch.float32 if counts[0].device.type == "mps" else torch.float64
    return torch.stack([count.to(wide) for count in counts]).sum()


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
