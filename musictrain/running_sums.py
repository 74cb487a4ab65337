"""Sums that stay on the device while a run goes on, so that no step waits for a number nobody reads yet.

Every sum is linear: the sums of all ranks add up to those of the run. ``reduce`` below is whatever adds a tensor over the ranks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


def widest_dtype(device: torch.device) -> torch.dtype:
    """64 bits where the device has them: in 32, counts beyond 16.8 million stand still."""
    return torch.float32 if device.type == "mps" else torch.float64


class TrainingSums:
    """Likelihood, tokens and seconds since the last flush, and the tokens of all flushes before.

    The clock runs between :meth:`start` and :meth:`pause`. The state is plain numbers, for a checkpoint; with several ranks it is that of
    the rank which saves, and every rank takes it up as its own share.
    """

    def __init__(self) -> None:
        self.tokens_before = 0
        self._sums = torch.zeros(2, dtype=torch.float64)
        self._seconds = 0.0
        self._started: float | None = None

    def start(self, device: torch.device) -> None:
        """Let the clock run, and keep the sums on ``device`` from now on."""
        self._sums = self._sums.to(device, widest_dtype(device))
        self._started = time.perf_counter()

    def pause(self) -> None:
        """Stop the clock, until the next :meth:`start`."""
        self._seconds, self._started = self._elapsed(time.perf_counter()), None

    def add(self, nll_sum: Tensor, num_tokens: Tensor) -> None:
        """Add one batch; both are scalars, and nothing waits for them."""
        self._sums += torch.stack((nll_sum, num_tokens)).to(self._sums)

    def flush(self, reduce: Reduce, num_shares: int) -> dict[str, float]:
        """``loss`` (nats per token), ``tokens_per_second`` and ``tokens`` so far of the whole run; the sums begin again at zero.

        The seconds are the mean over the ``num_shares`` sums that ``reduce`` adds up. Without a token the loss is nan.
        """
        now = time.perf_counter()
        local = torch.cat((self._sums, self._sums.new_tensor([self._elapsed(now)])))
        nll, tokens, all_seconds = reduce(local).tolist()
        self._sums.zero_()
        self._seconds, self._started = 0.0, now
        self.tokens_before += round(tokens)
        rate = tokens * num_shares / all_seconds if all_seconds else math.nan
        return {"loss": _ratio(nll, tokens), "tokens_per_second": rate, "tokens": float(self.tokens_before)}

    def state_dict(self) -> dict[str, float]:
        """The sums as plain numbers; reads them from the device."""
        nll, tokens = self._sums.tolist()
        return {"nll": nll, "tokens": tokens, "seconds": self._elapsed(time.perf_counter()), "tokens_before": self.tokens_before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; the clock stands still until :meth:`start`."""
        self._sums = self._sums.new_tensor([state["nll"], state["tokens"]])
        self._seconds, self._started = float(state["seconds"]), None
        self.tokens_before = int(state["tokens_before"])

    def _elapsed(self, now: float) -> float:
        return self._seconds + (0.0 if self._started is None else now - self._started)


class LikelihoodSums:
    """Likelihood, tokens, notes and beats of a set of batches, (4,)."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(4, dtype=widest_dtype(device), device=device)

    def add(self, nll_sum: Tensor, num_tokens: Tensor, batch: Any) -> None:
        """Add one batch; ``notes`` and ``beats``, (rows,), are summed if the batch is a mapping that has them."""
        counts = batch if isinstance(batch, Mapping) else {}
        notes, beats = (torch.as_tensor(counts.get(name, 0.0), device=self._sums.device).sum() for name in ("notes", "beats"))
        self._sums += torch.stack([value.to(self._sums) for value in (nll_sum, num_tokens, notes, beats)])

    def means(self, reduce: Reduce) -> dict[str, float]:
        """``loss`` in nats per token, and if there are notes or beats at all, ``nats_per_note`` and ``bits_per_beat``.

        The same on every rank. Without a token the loss is nan.
        """
        nll, tokens, notes, beats = reduce(self._sums.clone()).tolist()
        means = {"loss": _ratio(nll, tokens)}
        if notes:
            means["nats_per_note"] = nll / notes
        if beats:
            means["bits_per_beat"] = nll / math.log(2) / beats
        return means


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
