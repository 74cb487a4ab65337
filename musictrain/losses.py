"""Losses: how far the logits are from the tokens that came next.

Conventions: logits are (batch, time, vocab) and targets (batch, time), ``targets[:, i]`` being the token that ``logits[:, i]`` predicts.
Likelihoods are in nats. A target equal to ``pad_id`` never counts: not in the loss, not in its gradient, not in the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Values of one chunk, chosen by trial: a chunk that stays in the cache is fastest on a CPU, a GPU wants few launches.
CHUNK_VALUES = {"cpu": 2**18}
CHUNK_VALUES_ELSEWHERE = 2**24


class NextTokenLoss(NamedTuple):
    """What :func:`next_token_loss` gives back, three scalars.

    Attributes:
        loss: what to minimise, the mean over the counted tokens; carries the gradient. 0 if every target is padding.
        nll_sum: negative log-likelihood of the counted tokens in nats, without smoothing and z-loss, without gradient.
        num_tokens: how many targets counted, int64.
    """

    loss: Tensor
    nll_sum: Tensor
    num_tokens: Tensor


def next_token_loss(
    logits: Tensor, targets: Tensor, *, pad_id: int | None, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> NextTokenLoss:
    """Cross-entropy of the tokens that came next, with optional label smoothing and z-loss.

    Computed over a few tokens at a time, the gradient in the same pass: beside the logits and their gradient only one chunk is held, where
    ``torch.nn.functional.cross_entropy`` holds several copies of the logits (for 4,096 tokens over a vocabulary of 4,096: see
    ``tests/test_losses.py``). The arithmetic is in 32 bits whatever the logits' precision. No second derivative.

    Args:
        logits: (batch, time, vocab), floating point.
        targets: (batch, time), int64.
        pad_id: the target that does not count; None if every target counts.
        label_smoothing: share of the target's probability spread over the whole vocabulary, in [0, 1].
        z_loss: weight of the mean squared log-partition, which keeps the logits from drifting; 1e-4 is usual.

    Raises:
        ValueError: if the shapes do not fit or an option is out of range.

    Source: label smoothing as in Szegedy et al. (2016) and ``torch.nn.functional.cross_entropy``; z-loss of PaLM (2022), section 5.
    """
    check_shapes(logits, targets)
    check_loss_options(label_smoothing, z_loss)
    targets = targets.reshape(-1)
    counted = torch.ones_like(targets, dtype=torch.bool) if pad_id is None else targets != pad_id
    num_tokens = counted.sum()
    loss, nll_sum = _ChunkedCrossEntropy.apply(logits.reshape(-1, logits.shape[-1]), targets, counted, num_tokens, label_smoothing, z_loss)
    return NextTokenLoss(loss, nll_sum, num_tokens)


def token_nll(logits: Tensor, targets: Tensor, *, pad_id: int | None) -> Tensor:
    """Negative log-likelihood of each target in nats, (batch, time) in 32 bits; nan where the target is padding. No gradient.

    Args:
        logits: (batch, time, vocab).
        targets: (batch, time), int64.
        pad_id: the target that does not count; None if every target counts.

    Raises:
        ValueError: if the shapes do not fit.
    """
    check_shapes(logits, targets)
    rows, flat = logits.detach().reshape(-1, logits.shape[-1]), targets.reshape(-1)
    nll = torch.cat([_nll(_log_probabilities(rows[chunk]), flat[chunk]) for chunk in chunks(rows)] or [rows.new_zeros(0)])
    nll = nll.reshape(targets.shape)
    return nll if pad_id is None else nll.masked_fill(targets == pad_id, torch.nan)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """(tokens, vocab) logits -> loss and nll sum; the logits' gradient is made on the way, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, counted: Tensor, num_tokens: Tensor, smoothing: float, z_loss: float) -> Any:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        loss = logits.new_zeros((), dtype=torch.float32)
        nll_sum = torch.zeros_like(loss)
        for chunk in chunks(logits):
            penalised, nll, chunk_gradient = chunk_loss(
                logits[chunk], targets[chunk], counted[chunk], smoothing, z_loss, with_gradient=gradient is not None
            )
            loss += penalised
            nll_sum += nll
            if gradient is not None:
                gradient[chunk] = chunk_gradient.div_(num_tokens.clamp(min=1))
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(nll_sum)
        return loss / num_tokens.clamp(min=1), nll_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, _: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        # A plain loss.backward() needs no second copy of the gradient; on a GPU, asking for the value would wait for the device.
        is_one = loss_gradient.device.type == "cpu" and loss_gradient.item() == 1.0
        return gradient if is_one else gradient * loss_gradient, None, None, None, None, None


def chunk_loss(
    logits: Tensor, targets: Tensor, counted: Tensor, smoothing: float, z_loss: float, *, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss, summed nll and the gradient of the former (empty unless wanted), (tokens, vocab), for one chunk.

    With p the softmax, y the one-hot target, e the smoothing, V the vocabulary and Z the log-partition, the loss of a token is
    (1 - e)(Z - x_y) + e(Z - mean x) + z Z^2, and so its gradient is p(1 + 2 z Z) - (1 - e) y - e/V.
    """
    log_probabilities = _log_probabilities(logits)
    nll = _nll(log_probabilities, targets)
    penalised = nll
    if smoothing:
        penalised = (1 - smoothing) * nll - smoothing * log_probabilities.mean(-1)
    if z_loss:
        log_partition = logits.gather(1, targets[:, None]).squeeze(1).float() + nll
        penalised = penalised + z_loss * log_partition**2
    gradient = logits.new_empty(0)
    if with_gradient:
        gradient = log_probabilities.exp_()
        if z_loss:
            gradient.mul_((1 + 2 * z_loss * log_partition)[:, None])
        if smoothing:
            gradient.sub_(smoothing / logits.shape[-1])
        gradient.scatter_add_(1, targets[:, None], nll.new_full((len(nll), 1), smoothing - 1))
        gradient.masked_fill_(~counted[:, None], 0.0)
    return penalised.masked_fill(~counted, 0.0).sum(), nll.masked_fill(~counted, 0.0).sum(), gradient


def _log_probabilities(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def _nll(log_probabilities: Tensor, targets: Tensor) -> Tensor:
    return -log_probabilities.gather(1, targets[:, None]).squeeze(1)


def chunks(logits: Tensor) -> Iterator[slice]:
    """Slices over the rows of (tokens, vocab) logits, each small enough to be worked on at once."""
    rows = max(1, CHUNK_VALUES.get(logits.device.type, CHUNK_VALUES_ELSEWHERE) // max(1, logits.shape[-1]))
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


def check_shapes(logits: Tensor, targets: Tensor) -> None:
    """Refuse logits and targets that do not belong together.

    Raises:
        ValueError: naming both shapes.
    """
    if logits.ndim != 3 or targets.shape != logits.shape[:2]:
        raise ValueError(
            f"Logits of shape {tuple(logits.shape)} do not fit targets of shape {tuple(targets.shape)}: "
            "expected logits (batch, time, vocab) and targets (batch, time)."
        )


def check_loss_options(label_smoothing: float, z_loss: float) -> None:
    """Refuse what cannot be added to a loss.

    Raises:
        ValueError: if the smoothing is no share, or the weight of the z-loss is negative.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, expected a share in [0, 1].")
    if not z_loss >= 0.0:
        raise ValueError(f"z_loss is {z_loss}, expected a weight of at least 0.")
