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

    A batch whose likelihood is not finite is left out of the mean, which would say nothing of the others; its tokens are told.

    The clock runs between :meth:`start` and :meth:`pause`. The state is plain numbers, for a checkpoint; with several ranks it is that of
    the rank which saves, and every rank takes it up as its own share.

    Attributes:
        latest: likelihood and tokens of the last batch, (2,), on the device; None before the first.
    """

    def __init__(self) -> None:
        self.tokens_before = self.not_finite_before = 0
        self.latest: Tensor | None = None
        # Likelihood, tokens, and those of them whose likelihood is not finite.
        self._sums = torch.zeros(3, dtype=torch.float64)
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
        self.latest = torch.stack((nll_sum.detach(), num_tokens.detach())).to(self._sums)
        nll, tokens = self.latest
        self._sums += torch.stack((nll.nan_to_num(0.0, 0.0, 0.0), tokens, tokens * ~nll.isfinite()))

    def flush(self, reduce: Reduce, num_shares: int) -> dict[str, float]:
        """``loss`` (nats per token), ``tokens_per_second`` and ``tokens`` so far of the whole run; the sums begin again at zero.

        The seconds are the mean over the ``num_shares`` sums that ``reduce`` adds up. Without a token whose likelihood is finite the loss
        is nan; once there were some that are not, ``tokens_not_finite`` says how many were left out of it so far.
        """
        now = time.perf_counter()
        local = torch.cat((self._sums, self._sums.new_tensor([self._elapsed(now)])))
        nll, tokens, not_finite, all_seconds = reduce(local).tolist()
        self._sums.zero_()
        self._seconds, self._started = 0.0, now
        self.tokens_before += round(tokens)
        self.not_finite_before += round(not_finite)
        rate = tokens * num_shares / all_seconds if all_seconds else math.nan
        told = {"loss": _ratio(nll, tokens - not_finite), "tokens_per_second": rate, "tokens": float(self.tokens_before)}
        return {**told, "tokens_not_finite": float(self.not_finite_before)} if self.not_finite_before else told

    def state_dict(self) -> dict[str, float]:
        """The sums as plain numbers; reads them from the device."""
        nll, tokens, not_finite = self._sums.tolist()
        before = {"tokens_before": self.tokens_before, "not_finite_before": self.not_finite_before}
        return {"nll": nll, "tokens": tokens, "not_finite": not_finite, "seconds": self._elapsed(time.perf_counter()), **before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; the clock stands still until :meth:`start`."""
        self._sums = self._sums.new_tensor([state["nll"], state["tokens"], state.get("not_finite", 0.0)])
        self._seconds, self._started = float(state["seconds"]), None
        self.tokens_before, self.not_finite_before = int(state["tokens_before"]), int(state.get("not_finite_before", 0))

    def _elapsed(self, now: float) -> float:
        return self._seconds + (0.0 if self._started is None else now - self._started)


class StepTokens:
    """The tokens whose gradients a step has gathered so far, by which its gradient becomes the mean over all of them.

    Batches hold unlike numbers of tokens where there is padding. So each adds its summed loss over a ``unit`` that is the same for all
    batches and ranks, and before the step the gradients are multiplied by what :meth:`factor` says. The state is plain numbers.
    """

    def __init__(self) -> None:
        self.unit = 0
        self._tokens = torch.zeros((), dtype=torch.float64)
        self._latest: Tensor | None = None
        self._gathered = False

    def __bool__(self) -> bool:
        """Whether the gradients are of batches that were weighed."""
        return self._gathered

    def to(self, device: torch.device) -> None:
        """Keep the sum on ``device`` from now on."""
        self._tokens = self._tokens.to(device, widest_dtype(device))

    def weigh(self, mean_loss: Tensor, num_tokens: Tensor) -> Tensor:
        """A batch's summed loss over the unit, of its mean."""
        self._latest = num_tokens.detach().to(self._tokens)
        return mean_loss * (self._latest / self.unit).to(mean_loss)

    def gather(self) -> None:
        """The gradient of the batch that was weighed last has been added to the others."""
        if self._latest is not None:
            self._tokens, self._latest, self._gathered = self._tokens + self._latest, None, True

    def forget(self) -> None:
        """The gradients have been cleared."""
        self._tokens, self._gathered = torch.zeros_like(self._tokens), False

    def factor(self, reduce: Reduce, num_shares: int) -> Tensor:
        """What makes of gradients, the mean over ``num_shares`` sums of weighed losses, those of the mean over all tokens: a scalar.

        Nothing waits for it. ``reduce`` adds a tensor over the shares.
        """
        return self.unit * num_shares / reduce(self._tokens.clone()).clamp(min=1)

    def state_dict(self) -> dict[str, float]:
        """As plain numbers; reads them from the device."""
        return {"unit": self.unit, "tokens": float(self._tokens)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.unit = int(state["unit"])
        self._tokens, self._gathered = torch.full_like(self._tokens, float(state["tokens"])), state["tokens"] > 0


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
