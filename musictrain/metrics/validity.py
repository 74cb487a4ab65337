"""Do tokens spell music? The share of tokens that keep the grammar of their tokenizer, for every tokenizer there is.

Conventions: a sequence is token ids (time,), from the start of a piece on, with ``begin`` or without. Padding is not counted. A token is
*out of turn* if the tokenizer's grammar, the one that generation draws under, does not allow it where it stands; it is then read as well as
it can be, so that one slip costs one token and not all that follow. An id beyond the vocabulary is out of turn and not read at all.

What it means: under the grammar's mask every sample has validity 1, whatever the network is worth. Measure samples that are drawn
without it (``use_grammar=False``), or the probability that the network gives to what the mask takes away (``illegal_probability``). Valid
tokens may still spell silence, or one note over and over: that is for the other measures.

A tokenizer without a grammar is judged by a round trip: the share of its tokens that come back, in order, from encoding what they decode
to. That is a lower bound, since a piece may be spelled in several valid ways. ``how_judged`` says which it is.

Source: the token syntax errors of MidiTok (Fradet et al., ISMIR 2021 and later), there a share of errors. Differs from MidiTok 3.1
``tokens_errors``: that counts types that do not follow one another, positions that go back, and on demand repeated notes, for its own
tokenizers. Here the length of a bar and the first token are judged too, and VoiceGrid; repeated notes are no fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musictrain.data.tokenizers.protocol import Grammar, TokenIds, Tokenizer


class ValidityCounts(NamedTuple):
    """Tokens in their turn, and all that were judged."""

    valid: int
    judged: int

    @property
    def share(self) -> float:
        """The share in its turn, in [0, 1]; nan without a token."""
        return self.valid / self.judged if self.judged else math.nan


class TokenFault(NamedTuple):
    """A token out of turn: where it stands, and the names of it and of the one before it."""

    position: int
    token: str
    after: str

    def __str__(self) -> str:
        return f"token {self.position}: {self.token} after {self.after}"


def how_judged(tokenizer: Tokenizer) -> Literal["grammar", "round trip"]:
    """By what a tokenizer's tokens are judged.

    Raises:
        TypeError: if it has neither a grammar nor ``encode`` and ``decode``: then nobody can say what is valid.
    """
    if callable(getattr(tokenizer, "grammar", None)):
        return "grammar"
    if callable(getattr(tokenizer, "encode", None)) and callable(getattr(tokenizer, "decode", None)):
        return "round trip"
    raise TypeError(f"{type(tokenizer).__name__} has neither grammar() nor encode() and decode(): its tokens cannot be judged.")


def token_validity(tokens: ArrayLike, tokenizer: Tokenizer, *, from_token: int = 0) -> float:
    """Share of the tokens (time,) of one piece that keep the grammar, in [0, 1]; higher is better. nan without tokens.

    Args:
        tokens: of one piece, from its start on.
        tokenizer: that they belong to.
        from_token: the first token that counts; a prompt before it is read and not judged.

    Raises:
        TypeError: if the tokenizer cannot be judged, see ``how_judged``.
        ValueError: if tokens are not one row.
    """
    return validity_counts([tokens], tokenizer, from_token=from_token).share


def validity_counts(sequences: Iterable[ArrayLike], tokenizer: Tokenizer, *, from_token: int = 0) -> ValidityCounts:
    """How many tokens of several pieces keep the grammar, and how many there are; read side by side, which is faster than one by one."""
    rows = [_row(tokens) for tokens in sequences]
    valid = _in_turn(rows, tokenizer) if how_judged(tokenizer) == "grammar" else [_comes_back(row, tokenizer) for row in rows]
    counted = [(row != tokenizer.pad_id) & (np.arange(len(row)) >= from_token) for row in rows]
    return ValidityCounts(
        sum(int((mask & good).sum()) for mask, good in zip(counted, valid, strict=True)), sum(int(mask.sum()) for mask in counted)
    )


def token_faults(tokens: ArrayLike, tokenizer: Tokenizer) -> list[TokenFault]:
    """Every token of a piece that is out of turn (or does not come back), for people who want to look."""
    row = _row(tokens)
    valid = (_in_turn([row], tokenizer) if how_judged(tokenizer) == "grammar" else [_comes_back(row, tokenizer)])[0]
    bad = np.flatnonzero(~valid & (row != tokenizer.pad_id)).tolist()
    return [TokenFault(at, _name(int(row[at]), tokenizer), _name(int(row[at - 1]), tokenizer) if at else "the start") for at in bad]


def illegal_probability(probabilities: ArrayLike, tokens: ArrayLike, tokenizer: Tokenizer) -> float:
    """Mean probability that a network gives to tokens that would break the grammar, in [0, 1]; lower is better. nan without tokens.

    It tells what the mask of generation hides: how well the network knows the grammar by itself.

    Args:
        probabilities: (time, vocab): row t is what the network predicts for token t, given those before it.
        tokens: (time,) of a real piece, from its start on; padding is not counted.
        tokenizer: that they belong to.

    Raises:
        ValueError: if the shapes do not fit, or the tokenizer has no grammar.
    """
    row = _row(tokens)
    if np.shape(probabilities) != (len(row), tokenizer.vocab_size):
        raise ValueError(f"Probabilities have the shape {np.shape(probabilities)}, expected {(len(row), tokenizer.vocab_size)}.")
    if how_judged(tokenizer) != "grammar":
        raise ValueError(f"{tokenizer.name} has no grammar: what is legal cannot be said.")
    grammar = tokenizer.grammar()
    state, illegal = grammar.start(1), []
    for token, probability in zip(row.tolist(), np.asarray(probabilities), strict=True):
        if token != tokenizer.pad_id:
            illegal.append(float(probability[~grammar.allowed(state)[0]].sum()))
            state = grammar.advance(state, np.array([token]))
    return float(np.mean(illegal)) if illegal else math.nan


def _row(tokens: ArrayLike) -> TokenIds:
    row = np.asarray(tokens)
    if row.ndim != 1:
        raise ValueError(f"Tokens came with the shape {row.shape}, expected those of one piece, (time,).")
    return row.astype(np.int64)


def _in_turn(rows: Sequence[TokenIds], tokenizer: Tokenizer) -> list[NDArray[np.bool_]]:
    """For each token of each sequence whether the grammar allows it there."""
    grammar: Grammar = tokenizer.grammar()
    lengths = np.array([len(row) for row in rows], np.int64)
    tokens = np.full((len(rows), int(lengths.max(initial=0))), tokenizer.pad_id, np.int64)
    for row, length, into in zip(rows, lengths, tokens, strict=True):
        into[:length] = row
    known = (tokens >= 0) & (tokens < tokenizer.vocab_size)
    readable = np.where(known, tokens, tokenizer.pad_id)  # padding moves no grammar
    allowed = np.zeros(tokens.shape, bool)
    state, batch = grammar.start(len(rows)), np.arange(len(rows))
    for time in range(tokens.shape[1]):
        allowed[:, time] = grammar.allowed(state)[batch, readable[:, time]]
        state = grammar.advance(state, readable[:, time])
    return [row[:length] for row, length in zip(allowed & known, lengths, strict=True)]


def _comes_back(row: TokenIds, tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Which tokens stand, in order, in the encoding of what the sequence decodes to; special tokens do."""
    special = np.isin(row, [tokenizer.pad_id, *tokenizer.begin, *tokenizer.end])
    content = np.flatnonzero(~special)
    try:
        again = tokenizer.encode(tokenizer.decode(row))
    except ValueError:
        return special
    comes_back = special.copy()
    for block in SequenceMatcher(None, row[content].tolist(), np.asarray(again).tolist(), autojunk=False).get_matching_blocks():
        comes_back[content[block.a : block.a + block.size]] = True
    return comes_back


def _name(token: int, tokenizer: Tokenizer) -> str:
    return tokenizer.token_name(token) if 0 <= token < tokenizer.vocab_size else f"the unknown id {token}"
