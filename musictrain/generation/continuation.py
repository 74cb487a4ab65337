"""From notes to notes: pieces made by a network, from nothing or in continuation of a prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.generation.generate import Generated, generate_scored
from musictrain.notes import Notes


@dataclass(frozen=True, eq=False)
class SampledPiece:
    """One piece a network made.

    Args:
        notes: the whole piece, prompt included.
        tokens: its token ids without ``begin`` and ``end``, (time,).
        log_prob_per_token: mean natural log-probability of the tokens after the prompt under the network itself; nan without any.
        prompt_beats: where the network took over, in beats from the start; 0.0 without a prompt.
        ended: whether the network ended the piece, and not the limit on new tokens.
    """

    notes: Notes
    tokens: TokenIds
    log_prob_per_token: float
    prompt_beats: float
    ended: bool


def sample_pieces(
    network: nn.Module,
    tokenizer: Tokenizer,
    *,
    num: int,
    max_new_tokens: int,
    prompt: Notes | None = None,
    prompt_beats: float | None = None,
    batch_size: int = 16,
    use_grammar: bool = True,
    **options: Any,
) -> list[SampledPiece]:
    """``num`` pieces, each from its own stream of chance: piece i of a seed is the same however many are asked for.

    Args:
        network: trained with ``tokenizer``.
        tokenizer: turns the prompt into tokens and the tokens into notes; its grammar sees to it that every piece decodes.
        num: number of pieces.
        max_new_tokens: where a piece that does not end is cut.
        prompt: the beginning of every piece; None starts from silence.
        prompt_beats: how much of the prompt is used; all of it if left out. Notes that sound on are cut there.
        batch_size: pieces made at once.
        use_grammar: False draws from the bare network.
        options: the temperature, the seed and everything else ``generate_scored`` takes.

    Raises:
        ValueError: if the prompt has no note, cannot be encoded, or an option is out of its range.
    """
    opening = np.zeros(0, np.int64) if prompt is None else encode_prompt(tokenizer, prompt, prompt_beats)
    row = torch.tensor([*tokenizer.begin, *opening.tolist()], dtype=torch.int64)
    defaults = {
        "grammar": tokenizer.grammar() if use_grammar else None,
        "end": tokenizer.end,
        "pad_id": tokenizer.pad_id,
        "align": tokenizer.tokens_per_step,
    }
    sequences: list[Generated] = []
    for first in range(0, num, batch_size):
        rows = row.expand(min(batch_size, num - first), -1)
        sequences += generate_scored(network, rows, max_new_tokens=max_new_tokens, first_row=first, **{**defaults, **options})
    beats = tokenizer.decode(opening).end if len(opening) else 0.0
    return [piece_from(tokenizer, sequence, beats) for sequence in sequences]


def encode_prompt(tokenizer: Tokenizer, prompt: Notes, beats: float | None = None) -> TokenIds:
    """The first ``beats`` of a piece as tokens (time,), without ``begin`` and ``end``; notes that sound on are cut there.

    Raises:
        ValueError: if nothing is left of it, or the tokenizer cannot hold it.
    """
    opening = prompt if beats is None else first_beats(prompt, beats)
    tokens = tokenizer.encode(opening) if len(opening) else np.zeros(0, np.int64)
    if not len(tokens):
        what = "has no note" if beats is None else f"has no note in its first {beats:g} beats"
        raise ValueError(f"The prompt {what}: give one that sounds, or none to start from silence.")
    return tokens


def first_beats(notes: Notes, beats: float) -> Notes:
    """The notes that start before ``beats``, cut there."""
    kept = notes.between(-np.inf, beats)
    return replace(kept, duration=np.minimum(kept.duration, beats - kept.onset))


def piece_from(tokenizer: Tokenizer, sequence: Generated, prompt_beats: float) -> SampledPiece:
    """The piece a generated sequence stands for."""
    stop = len(sequence.tokens) - (len(tokenizer.end) if sequence.ended else 0)
    tokens = sequence.tokens[len(tokenizer.begin) : stop].numpy()
    return SampledPiece(
        notes=tokenizer.decode(tokens),
        tokens=tokens,
        log_prob_per_token=float(sequence.log_probs.mean()),
        prompt_beats=prompt_beats,
        ended=sequence.ended,
    )
