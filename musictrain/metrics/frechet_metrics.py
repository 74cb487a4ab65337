"""The Frechet distance to a corpus as a torchmetrics metric, over all samples of all batches and ranks.

Conventions: as in ``frechet`` and ``frechet_features``. The reference is no state: every rank and every resumed run is given the same
corpus.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musictrain.metrics.frechet import FEWEST_PIECES, FeatureScale, Gaussian, gaussian_distance, gaussian_of, shrunk_covariance
from musictrain.metrics.frechet_features import FEATURES, feature_matrix
from musictrain.metrics.metric_states import OwnState
from musictrain.metrics.over_pieces import notes_of
from musictrain.notes import Notes


class FrechetDistance(OwnState):
    """Squared Frechet distance between the features of some pieces and those of a corpus, in the corpus' deviations. 0 and more.

    Lower is closer, but a set of the corpus' own music does not come to 0 either: see ``frechet`` for what few pieces look like. 30 to 50
    are needed for a number that stays.

    Args:
        reference: the corpus' pieces, as a tokenizer holds them if the samples come out of one.
        torchmetrics_options: such as ``sync_on_compute``, see ``torchmetrics.Metric``.

    Raises:
        ValueError: for fewer than two reference pieces with pitched notes.
    """

    higher_is_better: bool = False
    plot_lower_bound: float = 0.0
    num_pieces: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, reference: Iterable[Notes], **torchmetrics_options: Any) -> None:
        super().__init__(**torchmetrics_options)
        points = feature_matrix(reference)
        self.scale = FeatureScale.of(points)
        self.reference = gaussian_of(self.scale.of_points(points))
        self.add_state("num_pieces", torch.tensor(0), dist_reduce_fx="sum", persistent=True)
        self.add_state("total", torch.zeros(len(FEATURES)), dist_reduce_fx="sum", persistent=True)
        self.add_state("products", torch.zeros(len(FEATURES), len(FEATURES)), dist_reduce_fx="sum", persistent=True)

    def update(self, pieces: Notes | Iterable[Notes]) -> None:
        """Count one piece or several; one without pitched notes is left out."""
        points = self.scale.of_points(feature_matrix(notes_of(pieces)))
        self.num_pieces = self.num_pieces + len(points)
        self.total = self.total + torch.as_tensor(points.sum(axis=0), dtype=torch.float32, device=self.total.device)
        self.products = self.products + torch.as_tensor(points.T @ points, dtype=torch.float32, device=self.products.device)

    def compute(self) -> Tensor:
        """The distance; nan for fewer than two pieces."""
        number = int(self.num_pieces)
        if number < FEWEST_PIECES:
            return torch.full_like(self.total[0], torch.nan)
        mean, products = (sums.cpu().numpy().astype(np.float64) / number for sums in (self.total, self.products))
        covariance = shrunk_covariance(products - np.outer(mean, mean), number)
        return torch.full_like(self.total[0], gaussian_distance(self.reference, Gaussian(mean, covariance)))
