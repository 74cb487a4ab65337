"""How well a network knows its tokenizer's grammar by itself, which the mask of generation hides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from musictrain.data.tokenizers import Tokenizer
from musictrain.data.tokenizers.protocol import TokenIds
from musictrain.generation.window import device_of, evaluating
from musictrain.metrics.barred_notes import Floats
from musictrain.metrics.validity import how_judged, illegal_probability
from musictrain.notes import Notes

MOST_TOKENS = 512


def legal_probabilities(network: nn.Module, tokenizer: Tokenizer, pieces: Iterable[Notes], context: int | None = None) -> list[float]:
    """For each piece the probability, on average over its tokens, that the network gives to tokens which keep the grammar, in [0, 1].

    It is the expected share of valid tokens if they were drawn without the mask in the middle of real music.

    Args:
        network: tokens (batch, time) -> logits (batch, time, vocab).
        tokenizer: with a grammar; one without gives an empty list.
        pieces: real ones; at most their first ``MOST_TOKENS`` tokens are read. One that the tokenizer cannot hold is left out.
        context: how many tokens the network may be shown, None for any number.
    """
    if how_judged(tokenizer) != "grammar":
        return []
    rows = _rows(tokenizer, pieces, context)
    if not rows:
        return []
    # Padded to one shape, which a compiled network sees again at every validation; what comes later changes no prediction.
    padded = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_id, dtype=torch.int64)
    for row, into in zip(rows, padded, strict=True):
        into[: len(row)] = torch.from_numpy(row)
    with evaluating(network), torch.no_grad():
        predicted = torch.softmax(network(padded.to(device_of(network))).float(), dim=-1).cpu().numpy()
    return [_legal(row, probabilities, tokenizer) for row, probabilities in zip(rows, predicted, strict=True)]


def _rows(tokenizer: Tokenizer, pieces: Iterable[Notes], context: int | None) -> list[TokenIds]:
    """The tokens of each piece with ``begin``, cut; pieces that the tokenizer cannot hold are left out."""
    step = tokenizer.tokens_per_step
    most = (MOST_TOKENS if context is None else min(MOST_TOKENS, context)) // step * step
    rows = []
    for notes in pieces:
        with contextlib.suppress(ValueError):
            rows.append(np.array([*tokenizer.begin, *tokenizer.encode(notes).tolist()], np.int64)[:most])
    return [row for row in rows if len(row) > len(tokenizer.begin)]


def _legal(row: TokenIds, predicted: Floats, tokenizer: Tokenizer) -> float:
    """The mean over the tokens of a row after ``begin``, of predictions (time, vocab) of which each is of the next token."""
    head = len(tokenizer.begin)
    # Nothing predicts the first token of a tokenizer without `begin`: it is taken as known.
    first = [] if head else [np.eye(tokenizer.vocab_size)[row[0]]]
    illegal = illegal_probability(np.array([*first, *predicted[max(0, head - 1) : len(row) - 1]]), row[head:], tokenizer)
    return min(1.0, max(0.0, 1.0 - illegal))
