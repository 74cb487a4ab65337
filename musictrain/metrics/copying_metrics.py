"""Copying as torchmetrics metrics, over all samples of all batches and ranks.

Conventions: as in ``copying``. Rates are over all windows of all pieces together, so that a long piece weighs more than a short one. The
index is no state: every rank and every resumed run is given the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from musictrain.metrics.copying import Match, copy_counts, longest_match
from musictrain.metrics.copying_index import CopyIndex
from musictrain.metrics.metric_states import OwnState, RateOfCounts
from musictrain.metrics.over_pieces import notes_of
from musictrain.notes import Notes

MILLIONTHS = 1_000_000


class CopyRate(RateOfCounts):
    """Share of the windows of some pieces that occur in the training set, nan without a window: see ``copy_rate``.

    It declares that lower is better, which is so only down to the validation set's own rate; ``CopyExcess`` knows that one.

    Args:
        index: of the training set.
        bars: length of a window.
        torchmetrics_options: such as ``sync_on_compute``, see ``torchmetrics.Metric``.
    """

    higher_is_better: bool = False
    plot_upper_bound: float = 1.0

    def __init__(self, index: CopyIndex, *, bars: int = 2, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        copy_counts(Notes.empty(), index, bars=bars)  # what cannot work is refused here
        self.index, self.bars = index, bars

    def update(self, pieces: Notes | Iterable[Notes], from_beat: float = 0.0) -> None:
        """Count one piece or several; what lies before ``from_beat`` is a prompt and does not count."""
        for notes in notes_of(pieces):
            self.add(copy_counts(notes, self.index, bars=self.bars, from_beat=from_beat))


class CopyExcess(CopyRate):
    """By how much the copy rate lies above the validation set's own, in [0, 1]; 0 at or below it.

    Args:
        index: of the training set.
        reference: the validation set's own rate, by ``corpus_copy_rate`` with the same ``bars``.
        bars: length of a window.
        torchmetrics_options: see ``torchmetrics.Metric``.

    Raises:
        ValueError: if the reference is no share.
    """

    def __init__(self, index: CopyIndex, reference: float, *, bars: int = 2, **torchmetrics_options: Any) -> None:
        if not 0.0 <= reference <= 1.0:
            raise ValueError(f"reference is {reference}, but must be the validation set's own copy rate, between 0 and 1.")
        super().__init__(index, bars=bars, **torchmetrics_options)
        self.reference = reference

    def compute(self) -> Tensor:
        """The excess; nan without a window."""
        return (super().compute() - self.reference).clamp(min=0.0)


class LongestMatch(OwnState):
    """Length in bars of the longest passage of some pieces that stands in the training set: see ``longest_match``. 0 and more.

    ``match()`` says which passage of which training piece.

    Args:
        index: of the training set.
        torchmetrics_options: see ``torchmetrics.Metric``.
    """

    higher_is_better: bool = False
    plot_lower_bound: float = 0.0
    longest: Tensor
    num_pieces: Tensor

    def __init__(self, index: CopyIndex, **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        self.index = index
        self.add_state("longest", torch.zeros(NUM_FIELDS, dtype=torch.int64), dist_reduce_fx=_longest_of, persistent=True)
        self.add_state("num_pieces", torch.tensor(0), dist_reduce_fx="sum", persistent=True)

    def update(self, pieces: Notes | Iterable[Notes], from_beat: float = 0.0) -> None:
        """Look at one piece or several; what lies before ``from_beat`` is a prompt and does not count."""
        for notes in notes_of(pieces):
            found = longest_match(notes, self.index, from_beat=from_beat)
            if found is not None:
                row = torch.tensor(_as_row(found, self.index), device=self.longest.device)
                self.longest = _longest_of(torch.stack([self.longest, row]))
            self.num_pieces = self.num_pieces + bool(len(notes.pitched()))

    def compute(self) -> Tensor:
        """Bars of the longest passage; 0 if nothing matches, nan if there was no piece with pitched notes."""
        # While computing, the state is that of all ranks.
        self._of_all_ranks = self.longest.tolist()
        bars = self.longest[0].float() / MILLIONTHS
        return bars if self.num_pieces else torch.full_like(bars, torch.nan)

    def match(self) -> Match | None:
        """The passage itself, over all ranks, each of which has to ask; None if nothing matched."""
        self.compute()
        return _from_row(self._of_all_ranks, self.index)


NUM_FIELDS = 11


def _longest_of(rows: Tensor) -> Tensor:
    """The row with the most bars, the first of several; the gathered rows of all ranks are (ranks, fields)."""
    return rows[rows[:, 0].argmax()]


def _as_row(match: Match, index: CopyIndex) -> list[int]:
    fractions = [round(value * MILLIONTHS) for value in (match.bars, match.beats, match.source_beat, match.own_beat)]
    return [*fractions, match.notes, index.names.index(match.source), *match.source_bars, *match.own_bars, match.semitones]


def _from_row(row: list[int], index: CopyIndex) -> Match | None:
    bars, beats, source_beat, own_beat = (value / MILLIONTHS for value in row[:4])
    notes, source, source_first, source_last, own_first, own_last, semitones = row[4:]
    if not notes:
        return None
    places = (source_first, source_last), (own_first, own_last)
    return Match(bars, beats, notes, index.names[source], *places, source_beat, own_beat, semitones)
