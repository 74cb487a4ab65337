"""How well a network knows its tokenizer's grammar by itself, which the mask of generation hides."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from musictrain.data.tokenizers import Tokenizer
from musictrain.generation.window import device_of, evaluating
from musictrain.metrics.validity import how_judged, illegal_probability
from musictrain.notes import Notes

MOST_TOKENS = 512


def legal_probabilities(network: nn.Module, tokenizer: Tokenizer, pieces: Iterable[Notes], context: int | None = None) -> list[float]:
    """For each piece the probability, on average over its tokens, that the network gives to tokens which keep the grammar, in [0, 1].

    It is the expected share of valid tokens if they were drawn without the mask in the middle of real music.

    Args:
        network: tokens (batch, time) -> logits (batch, time, vocab).
        tokenizer: with a grammar; one without gives an empty list.
        pieces: real ones; at most their first ``MOST_TOKENS`` tokens are read.
        context: how many tokens the network may be shown, None for any number.
    """
    if how_judged(tokenizer) != "grammar":
        return []
    step, head = tokenizer.tokens_per_step, len(tokenizer.begin)
    most = (MOST_TOKENS if context is None else min(MOST_TOKENS, context)) // step * step
    found = []
    with evaluating(network), torch.no_grad():
        for notes in pieces:
            row = np.array([*tokenizer.begin, *tokenizer.encode(notes).tolist()], np.int64)[:most]
            logits = network(torch.from_numpy(row)[None].to(device_of(network)))[0]
            predicted = torch.softmax(logits.float(), dim=-1).cpu().numpy()[max(0, head - 1) : -1]
            # Nothing predicts the first token of a tokenizer without `begin`: it is taken as known.
            first = [] if head else [np.eye(tokenizer.vocab_size)[row[0]]]
            illegal = illegal_probability(np.array([*first, *predicted]), row[head:], tokenizer)
            found.append(min(1.0, max(0.0, 1.0 - illegal)))
    return found
