"""From logits to the tokens that may be drawn: pure functions on logits (batch, vocab), and the one rule that applies them in order.

Conventions: a token that is taken out has logit -inf; the others keep theirs. No filter ever takes out the most likely token, so that
something is always left to draw. Each filter has a value at which it does nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def only_allowed(logits: Tensor, allowed: NDArray[np.bool_]) -> Tensor:
    """Takes out every token that a grammar's mask (batch, vocab) does not allow.

    Raises:
        ValueError: if the mask speaks of another vocabulary than the logits.
    """
    if allowed.shape != tuple(logits.shape):
        raise ValueError(
            f"The grammar allows or forbids {allowed.shape[-1]} tokens, but the network predicts {logits.shape[-1]}: "
            "generate with the tokenizer this network was trained with."
        )
    return logits.masked_fill(torch.from_numpy(~allowed), -torch.inf)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Leaves the k most likely tokens, and whatever ties with the last of them. 0 does nothing.

    >>> top_k(torch.tensor([[3.0, 1.0, 2.0]]), 2).tolist()
    [[3.0, -inf, 2.0]]
    """
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Leaves the fewest most likely tokens that together have probability p or more. 1.0 does nothing.

    >>> top_p(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.6).isfinite().tolist()
    [[True, True, False]]

    Source: nucleus sampling (Holtzman et al., 2020).
    """
    if p >= 1.0:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probability = ordered.softmax(-1)
    likelier = probability.cumsum(-1) - probability
    dropped = (likelier >= p).scatter(-1, order, likelier >= p)
    return logits.masked_fill(dropped, -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Leaves the tokens at least p times as likely as the most likely one. 0.0 does nothing.

    >>> min_p(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.5).isfinite().tolist()
    [[True, True, False]]

    Source: Nguyen et al., "Turning up the heat" (2024).
    """
    if p == 0.0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -torch.inf)


@dataclass(frozen=True)
class SamplingRule:
    """How the next token is drawn: the temperature first, then top-k, top-p and min-p on what the temperature made.

    Args:
        temperature: logits are divided by it; below 1 bolder towards the likely tokens, 0 takes the most likely one.
        top_k: 0, or see ``top_k``.
        top_p: in (0, 1], see ``top_p``.
        min_p: in [0, 1], see ``min_p``.

    Raises:
        ValueError: for a value outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}, but must be 0 (most likely token) or a positive number.")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, but must be 0 (off) or the number of most likely tokens to draw from.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p is {self.top_p}, but must be above 0 and at most 1 (off).")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p is {self.min_p}, but must lie between 0 (off) and 1.")

    @property
    def greedy(self) -> bool:
        """Whether chance plays no part."""
        return self.temperature == 0.0

    def choose(self, logits: Tensor, chance: Tensor) -> Tensor:
        """The token drawn from each row of logits (batch, vocab) by chance (batch,), uniform in [0, 1)."""
        if self.greedy:
            return logits.argmax(-1)
        warm = logits.double() / self.temperature
        return draw(min_p(top_p(top_k(warm, self.top_k), self.top_p), self.min_p).softmax(-1), chance)


def draw(probability: Tensor, chance: Tensor) -> Tensor:
    """The token at which the cumulated probability (batch, vocab) passes chance (batch,), uniform in [0, 1): its inverse.

    A token of probability 0 is never drawn.

    >>> draw(torch.tensor([[0.25, 0.0, 0.75]]).expand(3, -1), torch.tensor([0.0, 0.25, 0.999])).tolist()
    [0, 2, 2]
    """
    cumulated = probability.cumsum(-1)
    total = cumulated[:, -1:]
    # Rounding may lift chance * total up to the total, where no token is left.
    target = torch.minimum(chance.unsqueeze(-1) * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulated, target, right=True).squeeze(-1)


def chances(seed: int, rows: range, steps: int) -> NDArray[np.float64]:
    """The uniform numbers in [0, 1) that decide the draws of some rows: (rows, steps).

    Row i of a seed has one stream of its own, the same whatever other rows there are and however many steps are asked for.
    """
    streams = [np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, row)))) for row in rows]
    return np.stack([stream.random(steps) for stream in streams])
