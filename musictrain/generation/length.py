"""How many tokens a musician's length is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from musictrain.data.tokenizers.protocol import Tokenizer

DENSE_EVENTS_PER_BEAT = 16.0


def tokens_for_beats(tokenizer: Tokenizer, beats: float, tokens_per_beat: float | None = None) -> int:
    """Enough tokens for ``beats`` quarter notes of music, a multiple of ``tokens_per_step``.

    On a grid (a tokenizer with ``steps_per_beat``) the number is exact. Where each note costs tokens it depends on the music: half as
    much again as ``tokens_per_beat``, the average of the training pieces, or of dense music if that is not known; cut the result.

    Raises:
        ValueError: if ``beats`` is not a positive number.
    """
    if not 0.0 < beats < math.inf:
        raise ValueError(f"The length is {beats} beats, but must be a positive number (a beat is a quarter note).")
    steps_per_beat = getattr(tokenizer, "steps_per_beat", None)
    if steps_per_beat is not None:
        return math.ceil(beats * steps_per_beat) * tokenizer.tokens_per_step
    rate = 1.5 * tokens_per_beat if tokens_per_beat else DENSE_EVENTS_PER_BEAT
    return math.ceil(beats * rate / tokenizer.tokens_per_step) * tokenizer.tokens_per_step


def least_tokens_for_beats(tokenizer: Tokenizer, beats: float, tokens_per_beat: float | None = None) -> int:
    """About ``beats`` quarter notes of music in tokens, for a lower bound: exact on a grid, elsewhere by the average; 0 for no beats."""
    if beats <= 0.0 or not (tokens_per_beat or hasattr(tokenizer, "steps_per_beat")):
        return 0
    on_grid = hasattr(tokenizer, "steps_per_beat")
    return tokens_for_beats(tokenizer, beats) if on_grid else math.ceil(beats * float(tokens_per_beat or 0.0))


def mean_tokens_per_beat(store: Any, pieces: Sequence[int] | None = None) -> float | None:
    """How many tokens a beat takes in the pieces of a token store; None for what is no such store, or for silence.

    Args:
        store: of the tokens.
        pieces: numbers of the pieces that are meant; None for all.
    """
    every = getattr(store, "num_beats", ())
    beats = float(sum(every if pieces is None else (every[piece] for piece in pieces)))
    tokens = 0 if not beats else len(store.tokens) if pieces is None else sum(int(store.length[piece]) for piece in pieces)
    return tokens / beats if beats > 0.0 else None
