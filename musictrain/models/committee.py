"""Committee: several networks of one kind that learn apart and speak together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class CommitteeCache:
    """The caches of the members.

    Args:
        members: one cache each.
        batch_size: number of sequences.
        length: tokens fed so far.
    """

    members: list[Any]
    batch_size: int
    length: int = 0


class Committee(nn.Module):
    """Independent members whose probabilities are averaged: what a small corpus teaches one network by chance, the others outvote.

    The contract of every musictrain network: ``tokens (batch, time) int64 -> logits (batch, time, vocab)``. While training, the rows of a
    batch are dealt out, each member reads its share alone and learns from its own mistakes only. In ``eval()`` every member reads every row
    and the logits are the logarithm of the mean of their probabilities. A step costs what one member would cost; sampling and validation
    cost one member's time each.

    Args:
        vocab_size: number of token ids.
        member: makes a member from the number of token ids; they differ by their random start and the rows they are dealt.
        num_members: how many.

    Raises:
        ValueError: if there is no member.

    Over several ranks each member is trained on other rows than it would be on one: the rows of a batch are first dealt out to the ranks.

    Source: deep ensembles (Lakshminarayanan et al., 2017), trained as one network.
    """

    blocks = ("members",)

    def __init__(self, vocab_size: int, member: Callable[[int], nn.Module], num_members: int = 4) -> None:
        super().__init__()
        if num_members < 1:
            raise ValueError(f"num_members is {num_members}, but must be at least 1.")
        self.vocab_size = vocab_size
        self.members = nn.ModuleList(member(vocab_size) for _ in range(num_members))

    @property
    def max_context(self) -> int | None:
        """The shortest context of a member; None if none has a limit."""
        limits = [limit for member in self.members if (limit := getattr(member, "max_context", None)) is not None]
        return min(limits, default=None)

    @property
    def window_align(self) -> int:
        """Windows start at multiples of this many tokens of their piece."""
        return math.lcm(*(getattr(member, "window_align", 1) for member in self.members))

    def forward(self, tokens: Tensor, cache: CommitteeCache | None = None) -> Tensor:
        """Logits (batch, time, vocab) of the token after each of ``tokens`` (batch, time).

        Raises:
            ValueError: if there are fewer rows to train on than members.
        """
        if self.training:
            return self._apart(tokens)
        return self._together(tokens, cache)

    def _apart(self, tokens: Tensor) -> Tensor:
        if len(tokens) < len(self.members):
            raise ValueError(
                f"A training batch of {len(tokens)} rows cannot be dealt out to {len(self.members)} members: "
                f"use a batch_size of at least {len(self.members)} on every device, or fewer members."
            )
        shares = tokens.tensor_split(len(self.members))
        return torch.cat([member(share) for member, share in zip(self.members, shares, strict=True)])

    def _together(self, tokens: Tensor, cache: CommitteeCache | None) -> Tensor:
        total: Tensor | None = None
        for index, member in enumerate(self.members):
            logits = member(tokens) if cache is None else member(tokens, cache=cache.members[index])
            log_probabilities = logits.float().log_softmax(-1)
            total = log_probabilities if total is None else torch.logaddexp(total, log_probabilities)
        if cache is not None:
            cache.length += tokens.shape[1]
        assert total is not None
        return total - math.log(len(self.members))

    def start_cache(self, batch_size: int, length: int | None = None) -> CommitteeCache:
        """An empty cache for ``batch_size`` sequences of up to ``length`` tokens.

        Raises:
            AttributeError: if the members cannot be fed token by token.
        """
        caches = [member.start_cache(batch_size, length) for member in self.members]  # type: ignore[operator]
        return CommitteeCache(caches, batch_size)
