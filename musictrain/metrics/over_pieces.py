"""A measure of pieces as a torchmetrics metric: its mean over all pieces of all batches and ranks.

Conventions: a piece on which the measure is nan is not counted; no counted piece gives nan. Every piece weighs the same, long or short.
The measures of notes say what music is like, not how good it is: their classes declare ``higher_is_better = None``, and where a
direction is needed ``DistanceToReference`` gives one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from musictrain.metrics.metric_states import OwnState, sum_and_remainder
from musictrain.notes import Notes


def notes_of(pieces: Any) -> list[Notes]:
    """The notes of one piece or of several: ``Notes``, or pieces of a corpus, which have ``notes``.

    Raises:
        TypeError: if something else came.
    """
    together = [pieces] if isinstance(pieces, Notes) or hasattr(pieces, "notes") else pieces
    if not isinstance(together, Iterable) or isinstance(together, str | bytes):
        raise TypeError(f"Expected Notes or several of them, got {type(pieces).__name__}.")
    return [_notes_of_one(piece) for piece in together]


def _notes_of_one(piece: Any) -> Notes:
    notes = getattr(piece, "notes", piece)
    if not isinstance(notes, Notes):
        raise TypeError(f"Expected Notes or pieces of a corpus, got {type(notes).__name__}.")
    return notes


class MeanOfValues(OwnState):
    """Sums and counts from which a mean over pieces is made, right over batches and ranks and through a checkpoint.

    As with every torchmetrics metric, a rank takes up the state it loads as its own share: load a state on one rank, or before the first
    update of an epoch that is then reset.
    """

    shape: ClassVar[tuple[int, ...]] = ()
    total: Tensor
    remainder: Tensor
    num_pieces: Tensor

    def __init__(self, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        # Two numbers of 32 bits instead of one of 64, which not every device has: what the sum rounds away stands in the remainder.
        for name in ("total", "remainder"):
            self.add_state(name, torch.zeros(self.shape), dist_reduce_fx="sum", persistent=True)
        self.add_state("num_pieces", torch.tensor(0), dist_reduce_fx="sum", persistent=True)

    def add(self, values: ArrayLike) -> None:
        """Count the values of some pieces, (pieces, *shape); those with a nan are left out."""
        rows = np.asarray(values, np.float64).reshape(-1, *self.shape)
        rows = rows[~np.isnan(rows).any(axis=tuple(range(1, rows.ndim)))]
        added = torch.as_tensor(rows.sum(axis=0), dtype=torch.float32, device=self.total.device)
        self.total, rounded_away = sum_and_remainder(self.total, added)
        self.remainder = self.remainder + rounded_away
        self.num_pieces = self.num_pieces + len(rows)

    def compute(self) -> Tensor:
        """The mean over all counted pieces, of the measure's shape; nan if there is none."""
        return (self.total + self.remainder) / self.num_pieces


class MeanOverPieces(MeanOfValues):
    """Mean over pieces of a measure of notes; each measure has its own subclass.

    Args:
        torchmetrics_options: such as ``sync_on_compute``, see ``torchmetrics.Metric``; all other options go to the measure.
    """

    measure: ClassVar[Callable[..., Any]]

    def __init__(self, **options: Any) -> None:
        of_metric = {name: options.pop(name) for name in METRIC_OPTIONS & set(options)}
        super().__init__(**of_metric)
        self.options = options
        type(self).measure(Notes.empty(), **options)  # an option that cannot work is refused here

    def update(self, pieces: Notes | Iterable[Notes]) -> None:
        """Count one piece or several."""
        several = notes_of(pieces)
        if several:
            self.add(np.stack([np.asarray(type(self).measure(notes, **self.options)) for notes in several]))


METRIC_OPTIONS = {
    *("compute_on_cpu", "dist_sync_on_step", "process_group", "dist_sync_fn", "distributed_available_fn"),
    *("sync_on_compute", "compute_with_cache"),
}
