"""Louder or softer, faster or slower: a row's velocity or tempo tokens moved by a few steps, through lookup tables as in transposition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.data.transposition import MAX_SHIFTS, Transposer

MOST_STEPS = (MAX_SHIFTS - 1) // 2


@dataclass(frozen=True, eq=False)
class ValueSteps:
    """A vocabulary in which one kind of token moves up and down by its own values: what a ``Transposer`` is made of.

    Args:
        name: the tokenizer's.
        vocab_size: the tokenizer's.
        ids: tokens of that kind, in ascending order of value.
    """

    name: str
    vocab_size: int
    ids: NDArray[np.int64]

    def transposition(self, steps: int) -> TokenIds:
        """For every token the one ``steps`` values higher, (vocab,): -1 where there is none; all other kinds stay."""
        table = np.arange(self.vocab_size)
        moved = np.arange(len(self.ids)) + steps
        inside = (moved >= 0) & (moved < len(self.ids))
        table[self.ids] = np.where(inside, self.ids[np.clip(moved, 0, len(self.ids) - 1)], -1)
        return table


def jitter_of(tokenizer: Tokenizer, kind: str, steps: int) -> Transposer:
    """Moves all tokens of a kind in a row together, by up to ``steps`` of the tokenizer's own values up or down.

    Only by what keeps all of them inside the vocabulary, so that the differences within a row stay: a crescendo is still one.

    Args:
        tokenizer: its token names say what is what: ``Velocity_64``, ``Tempo_120.0``.
        kind: what stands before the underscore.
        steps: largest move, 1 to 31.

    Raises:
        ValueError: if the tokenizer has no such tokens, or ``steps`` is outside its range.
    """
    check_steps(tokenizer, kind, steps)
    known = values_of(tokenizer, kind)
    ids = np.array(sorted(known, key=lambda token: known[token]), np.int64)
    return Transposer.of(ValueSteps(tokenizer.name, tokenizer.vocab_size, ids), -steps, steps)  # type: ignore[arg-type]


def values_of(tokenizer: Tokenizer, kind: str) -> dict[int, float]:
    """The tokens of a kind with their values."""
    split = [(token, *tokenizer.token_name(token).partition("_")[::2]) for token in range(tokenizer.vocab_size)]
    return {token: float(value) for token, name, value in split if name == kind}


def check_steps(tokenizer: Tokenizer, kind: str, steps: int) -> None:
    """Refuse a jitter that cannot be.

    Raises:
        ValueError: if ``steps`` is outside its range, or, where it is not 0, the tokenizer has no such tokens.
    """
    key = f"{kind.lower()}_jitter"
    if not 0 <= steps <= MOST_STEPS or steps != int(steps):
        raise ValueError(f"{key}={steps}, expected 0 (off) to {MOST_STEPS} of the tokenizer's own steps up and down.")
    if steps and not values_of(tokenizer, kind):
        raise ValueError(
            f"{key}={steps}, but {tokenizer.name} writes no {kind.lower()}: leave it at 0, or take a tokenizer with {kind} tokens, such as "
            "MidiTokTokenizer with kind REMI or TSD."
        )
