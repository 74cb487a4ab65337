"""Token dropout: while training, a network reads some tokens wrongly or not at all, and predicts the music as it is all the same."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from musictrain.models.block_dropout import check_dropout
from musictrain.suggestions import did_you_mean

NoiseKind = Literal["blank", "unigram"]
KINDS = ("blank", "unigram")


def drop_tokens(
    tokens: Tensor, p: float, kind: NoiseKind = "blank", *, blank: int | None = None, spared: tuple[int, ...] = (), step: int = 1
) -> Tensor:
    """What a network reads instead of ``tokens``, which stay as they are; drawn from torch's generator of their device.

    What it is for: small corpora, and networks that lean on the last few tokens alone; in sampling it must go on after mistakes of its own.

    Args:
        tokens: (batch, time) int64, the first of each row being the first of a step.
        p: probability that a token is replaced, in [0, 1).
        kind: by ``blank``, or by a token drawn from the same places of a step anywhere in the batch, as often as they occur there
            (``unigram``), which now and then is the same one.
        blank: the token that says nothing, the padding.
        spared: tokens that neither go nor come: padding, begin and end.
        step: tokens of a step, among which only those at the same place stand for each other: the four voices of a grid.

    Raises:
        ValueError: if ``p`` or ``kind`` cannot be, or there is no ``blank`` to read.

    Source: Xie et al., Data Noising as Smoothing in Neural Network Language Models (ICLR 2017), blank and unigram noising; targets are
    never noised here.
    """
    check_token_dropout(p, kind)
    check_blank(p, kind, blank)
    if p == 0.0 or not tokens.numel():
        return tokens
    special = torch.tensor(spared, device=tokens.device, dtype=tokens.dtype)
    chosen = (torch.rand(tokens.shape, device=tokens.device) < p) & ~torch.isin(tokens, special)
    if kind == "blank":
        assert blank is not None
        return tokens.masked_fill(chosen, blank)
    others = _others(tokens, step)
    return torch.where(chosen & ~torch.isin(others, special), others, tokens)


def _others(tokens: Tensor, step: int) -> Tensor:
    """For every place a token from the same place of any step of any row."""
    batch, time = tokens.shape
    row = torch.randint(batch, tokens.shape, device=tokens.device)
    which = torch.randint(-(-time // step), tokens.shape, device=tokens.device)
    place = which * step + torch.arange(time, device=tokens.device) % step
    # The last step may be cut short.
    return tokens[row, torch.where(place < time, place, place - step)]


def check_token_dropout(p: float, kind: str) -> None:
    """Refuse what cannot work.

    Raises:
        ValueError: naming it.
    """
    check_dropout("token_dropout", p)
    if kind not in KINDS:
        raise ValueError(f"token_dropout_kind is {kind!r}, but must be 'blank' or 'unigram'. {did_you_mean(str(kind), KINDS)}".rstrip())


def check_blank(p: float, kind: str, blank: int | None) -> None:
    """Refuse to drop tokens where there is nothing to read in their stead.

    Raises:
        ValueError: saying so.
    """
    if p > 0.0 and kind == "blank" and blank is None:
        raise ValueError(
            "token_dropout 'blank' lets the network read padding, but neither pad_id nor the data module's tokenizer names one: give "
            "pad_id, or choose token_dropout_kind 'unigram'."
        )
