"""Distillation: how far a student's logits are from a teacher's, beside how far they are from the tokens that came next.

Conventions are those of ``losses``: logits (batch, time, vocab), targets (batch, time), nats, and padding never counts. With p the
distribution of the teacher and q that of the student, both of logits divided by the temperature T, the loss of a token is
``(1 - weight) * hard + weight * T^2 * KL(p || q)``; T^2 keeps the soft part's gradient as large as the hard one's whatever T is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from musictrain.losses import check_loss_options, check_shapes, chunk_loss, chunks

# Of the teacher's logits, so many are held at once: as many rows of the batch as make them up, one at least.
TEACHER_VALUES = {"cpu": 2**22}
TEACHER_VALUES_ELSEWHERE = 2**26


class TopTokens(NamedTuple):
    """What a teacher finds likeliest, at the temperature of the loss; ``exp`` of all log-probabilities of a place adds up to 1.

    Attributes:
        tokens: ids, (rows, time, k), no two alike.
        log_probabilities: of them, (rows, time, k), in 32 bits.
        rest: log-probability of all other tokens together, (rows, time); -inf where there is no other.
    """

    tokens: Tensor
    log_probabilities: Tensor
    rest: Tensor


Opinion = Tensor | TopTokens
Ask = Callable[[slice], Opinion]
"""What a teacher says about some rows of the batch: its logits (rows, time, vocab), or its likeliest tokens."""


class DistillationLoss(NamedTuple):
    """What :func:`distillation_loss` gives back, scalars.

    Attributes:
        loss: what to minimise, the mean over the counted tokens; carries the gradient. 0 if every target is padding.
        nll_sum: as in ``NextTokenLoss``: of the tokens that came next, in nats, without smoothing, z-loss and teacher.
        num_tokens: how many targets counted, int64.
        soft_sum: KL(p || q) summed over the counted tokens, in nats, without the factor T^2.
    """

    loss: Tensor
    nll_sum: Tensor
    num_tokens: Tensor
    soft_sum: Tensor


class _Mix(NamedTuple):
    """The numbers of one loss."""

    pad_id: int | None
    temperature: float
    weight: float
    label_smoothing: float
    z_loss: float


def distillation_loss(
    logits: Tensor,
    targets: Tensor,
    ask: Ask,
    *,
    pad_id: int | None,
    temperature: float,
    weight: float,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> DistillationLoss:
    """The tokens that came next and a teacher's opinion on them, mixed.

    Computed over a few tokens at a time, the gradient in the same pass, and the teacher is asked about a few rows at a time: beside the
    student's logits and their gradient, what is held is the teacher's logits of those rows (``TEACHER_VALUES``; one row at least) and one
    chunk. The arithmetic is in 32 bits whatever the precision of both. No second derivative, and no gradient for the teacher.

    Of a teacher that names its likeliest tokens alone, all others count as one event: KL over k + 1 outcomes. The student is told how
    likely they are together and not which of them; unlike probabilities made to add up over the k tokens, that asks nothing wrong of it.

    Args:
        logits: the student's, (batch, time, vocab).
        targets: (batch, time), int64.
        ask: the teacher; called with rows of the batch in order, each once, without gradients.
        pad_id: the target that does not count; None if every target counts.
        temperature: above 1 both distributions are flatter, and what the teacher thinks of unlikely tokens counts for more.
        weight: of the soft part, in [0, 1].
        label_smoothing, z_loss: of the hard part, see ``next_token_loss``.

    Raises:
        ValueError: if the shapes do not fit, an option is out of range, or the teacher's answer is about another vocabulary.

    Source: Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network (2015), section 2. A top-k teacher there is not; the event
    of all others is ours.
    """
    check_shapes(logits, targets)
    check_loss_options(label_smoothing, z_loss)
    check_mix(temperature, weight)
    counted = torch.ones_like(targets, dtype=torch.bool) if pad_id is None else targets != pad_id
    num_tokens = counted.sum()
    mix = _Mix(pad_id, temperature, weight, label_smoothing, z_loss)
    loss, nll_sum, soft_sum = _ChunkedDistillation.apply(logits, targets, counted, num_tokens, ask, mix)
    return DistillationLoss(loss, nll_sum, num_tokens, soft_sum)


def check_mix(temperature: float, weight: float) -> None:
    """Refuse what cannot be mixed.

    Raises:
        ValueError: if the temperature is not positive, or the weight no share.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature is {temperature}, expected more than 0; 1 takes the teacher as it is, 2 to 4 are usual.")
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight is {weight}, expected the soft part's share of the loss, in [0, 1].")


class _ChunkedDistillation(torch.autograd.Function):
    """(batch, time, vocab) logits -> loss, nll sum and soft sum; the logits' gradient is made on the way, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, counted: Tensor, num_tokens: Tensor, ask: Ask, mix: _Mix) -> Any:
        gradient = logits.new_empty(logits.shape) if ctx.needs_input_grad[0] else None
        sums = logits.new_zeros(3, dtype=torch.float32)
        for rows in _groups(logits):
            told = _flat(ask(rows), logits[rows])
            flat, aims, counts = logits[rows].reshape(-1, logits.shape[-1]), targets[rows].reshape(-1), counted[rows].reshape(-1)
            into = None if gradient is None else gradient[rows].view_as(flat)
            for chunk in chunks(flat):
                part, made = _chunk(flat[chunk], aims[chunk], counts[chunk], _part(told, chunk), mix, with_gradient=into is not None)
                sums += part
                if into is not None:
                    into[chunk] = made.div_(num_tokens.clamp(min=1))
        ctx.save_for_backward(gradient)
        loss, nll_sum, soft_sum = sums.unbind()
        ctx.mark_non_differentiable(nll_sum, soft_sum)
        return loss / num_tokens.clamp(min=1), nll_sum, soft_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, *_: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        # As in losses: a plain loss.backward() needs no second copy of the gradient.
        is_one = loss_gradient.device.type == "cpu" and loss_gradient.item() == 1.0
        return gradient if is_one else gradient * loss_gradient, None, None, None, None, None


def _groups(logits: Tensor) -> Iterator[slice]:
    """The rows of a batch that the teacher is asked about at once."""
    batch, time, vocab = logits.shape
    rows = max(1, TEACHER_VALUES.get(logits.device.type, TEACHER_VALUES_ELSEWHERE) // max(1, time * vocab))
    return (slice(start, min(start + rows, batch)) for start in range(0, batch, rows))


def _flat(told: Opinion, logits: Tensor) -> tuple[Tensor, ...]:
    """A teacher's answer about (rows, time) places as tensors of (rows * time, ...)."""
    parts = (told,) if isinstance(told, Tensor) else tuple(told)
    fits = parts[0].shape[:2] == logits.shape[:2] and (len(parts) > 1 or parts[0].shape == logits.shape)
    if not fits:
        raise ValueError(
            f"The teacher answered with {tuple(parts[0].shape)} to rows whose logits are {tuple(logits.shape)}: teacher and student must "
            "read the same tokens with the same vocabulary."
        )
    return tuple(part.reshape(-1, *part.shape[2:]) for part in parts)


def _part(told: tuple[Tensor, ...], chunk: slice) -> tuple[Tensor, ...]:
    return tuple(each[chunk] for each in told)


def _chunk(
    logits: Tensor, targets: Tensor, counted: Tensor, told: tuple[Tensor, ...], mix: _Mix, *, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Summed loss, nll and KL of one chunk, (3,), and the gradient of the first (empty unless wanted), (tokens, vocab)."""
    hard, nll, gradient = chunk_loss(logits, targets, counted, mix.label_smoothing, mix.z_loss, with_gradient=with_gradient)
    log_student = torch.log_softmax(logits.float() / mix.temperature, dim=-1)
    divergence, wanted = _from_all(log_student, told[0], mix.temperature) if len(told) == 1 else _from_top(log_student, *told)
    soft = divergence.masked_fill(~counted, 0.0).sum()
    if with_gradient:
        # Of T^2 KL(p || q) by the logits: T (q - p).
        pull = log_student.exp_().sub_(wanted).masked_fill_(~counted[:, None], 0.0)
        gradient = gradient.mul_(1 - mix.weight).add_(pull, alpha=mix.weight * mix.temperature)
    loss = (1 - mix.weight) * hard + mix.weight * mix.temperature**2 * soft
    return torch.stack((loss, nll, soft)), gradient


def _from_all(log_student: Tensor, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KL to a teacher's logits, (tokens,), and its distribution, (tokens, vocab)."""
    log_teacher = torch.log_softmax(logits.float() / temperature, dim=-1)
    teacher = log_teacher.exp()
    # What the teacher rules out says nothing, also where a logit is -inf: 0 log 0 is 0.
    return log_teacher.sub_(log_student).masked_fill_(teacher == 0, 0.0).mul_(teacher).sum(-1), teacher


def _from_top(log_student: Tensor, tokens: Tensor, log_probabilities: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """KL to a teacher's likeliest tokens and the event of all others, (tokens,), and the distribution nearest to the student's that has
    these probabilities, (tokens, vocab): from it the gradient is that of the logits' own KL."""
    outcomes = torch.cat((log_probabilities, rest[:, None]), dim=1)
    others = log_student.scatter(1, tokens, -torch.inf)
    log_others = others.logsumexp(-1, keepdim=True)
    probabilities = outcomes.exp()
    apart = outcomes - torch.cat((log_student.gather(1, tokens), log_others), dim=1)
    divergence = (apart.masked_fill(probabilities == 0, 0.0) * probabilities).sum(-1)
    raised = apart[:, -1:].masked_fill(probabilities[:, -1:] == 0, -torch.inf)
    return divergence, others.add_(raised).exp_().scatter_(1, tokens, probabilities[:, :-1])
