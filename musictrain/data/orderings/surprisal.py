"""How surprising each token is to a model that has only counted: nats under an interpolated n-gram of the training pieces.

Every token is predicted from the counts of all others: its own occurrence is taken out (leave-one-out), or what occurs once would be
foretold by itself and count as easy. What a piece repeats is easy, since its other occurrences stay in.

Each context is mixed with the next shorter one as by a Dirichlet prior: p(t | c) = (n(c, t) + a p(t | shorter c)) / (n(c) + a), down to all
tokens alike (MacKay & Peto, A hierarchical Dirichlet language model, 1995). On a grid of voices the nearest token is the one that the same
voice had a step ago, then come those of the voices before it in this step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from musictrain.data.orderings.stretches import Floats, Ordering, Stretches
from musictrain.data.token_store import TokenStore

PRIOR = 2.0
CONTEXT = 3
AT_ONCE = 1 << 24  # tokens that are counted together, so that memory has a limit


def surprisal(store: TokenStore, pieces: NDArray[np.int64], stretches: Stretches, tokens_per_step: int) -> Ordering:
    """Mean nats a token of each stretch of some pieces, counted on the same pieces; of a large corpus on ``AT_ONCE`` tokens at a time.

    Args:
        store: where the tokens are.
        pieces: numbers of the pieces.
        stretches: of the store.
        tokens_per_step: of the tokenizer.
    """
    block = (np.cumsum(store.length[pieces]) - 1) // AT_ONCE
    parts = [_of_block(store, pieces[block == number], stretches, tokens_per_step) for number in np.unique(block)]
    sums, counts = np.sum(parts, axis=0) if parts else np.zeros((2, len(stretches)))
    return Ordering.of_sums(sums, counts)


def _of_block(store: TokenStore, pieces: NDArray[np.int64], stretches: Stretches, tokens_per_step: int) -> Floats:
    """Nats and number of the targets of each stretch, (2, stretches), counted on these pieces alone."""
    piece = np.repeat(np.arange(len(pieces)), store.length[pieces])
    within = np.arange(len(piece)) - np.repeat(np.cumsum(store.length[pieces]) - store.length[pieces], store.length[pieces])
    tokens = np.asarray(store.tokens)[store.offset[pieces][piece] + within].astype(np.int64)
    nats = nats_of_tokens(tokens, within, offsets_of(tokens_per_step))
    is_target = within > 0
    stretch = (stretches.first[pieces][piece] + within // stretches.size)[is_target]
    return np.stack([np.bincount(stretch, each, len(stretches)).astype(np.float64) for each in (nats[is_target], None)])


def offsets_of(tokens_per_step: int) -> tuple[int, ...]:
    """How far back the tokens of a context lie, the most telling first.

    >>> offsets_of(1), offsets_of(4)
    ((1, 2, 3), (4, 1, 2))
    """
    return (1, 2, 3) if tokens_per_step == 1 else (tokens_per_step, *range(1, min(CONTEXT, tokens_per_step)))


def nats_of_tokens(tokens: NDArray[np.int64], within: NDArray[np.int64], offsets: tuple[int, ...], prior: float = PRIOR) -> Floats:
    """Nats of every token, each predicted from all others, (tokens,).

    Args:
        tokens: pieces end to end, (tokens,).
        within: place of each token in its piece, (tokens,).
        offsets: how far back the tokens of a context lie; each context has one more of them.
        prior: what a shorter context counts, in tokens.
    """
    symbols, token = np.unique(tokens, return_inverse=True)
    vocab = len(symbols)
    context = np.zeros(len(tokens), np.int64)
    chance = np.full(len(tokens), 1.0 / max(1, vocab))
    for offset in (None, *offsets):
        if offset is not None:
            before = np.where(within >= offset, token[np.arange(len(token)) - offset], vocab)
            context = _numbered(context * (vocab + 1) + before)
        pair = _numbered(context * vocab + token)
        others, seen = np.bincount(context)[context] - 1, np.bincount(pair)[pair] - 1
        chance = (seen + prior * chance) / (others + prior)
    return -np.log(chance)


def _numbered(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(keys, return_inverse=True)[1].reshape(-1)
