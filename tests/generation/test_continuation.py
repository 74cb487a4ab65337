"""From notes to notes: whatever a network draws under a tokenizer's grammar is music, and a prompt stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from musictrain.data.tokenizers import VoiceGrid
from musictrain.generation import sample_pieces
from musictrain.generation.continuation import encode_prompt, first_beats
from musictrain.models import Decoder
from musictrain.notes import Notes

TOKENIZERS = [VoiceGrid(lowest=40, highest=80)]


def small_network(vocab_size: int) -> nn.Module:
    torch.manual_seed(0)
    return Decoder(vocab_size, d_model=16, num_layers=1, num_heads=2, max_context=64)


def chorale(num_beats: int = 4) -> Notes:
    """Four voices, one chord a beat, each a step higher than the last."""
    onset = np.repeat(np.arange(num_beats), 4)
    track = np.tile(np.arange(4), num_beats)
    pitch = np.tile([72, 67, 64, 48], num_beats) + onset
    return Notes(onset, np.ones(len(onset)), pitch, track=track)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.name)
def test_samples_of_a_random_network_follow_the_grammar_and_decode(tokenizer: VoiceGrid) -> None:
    pieces = sample_pieces(small_network(tokenizer.vocab_size), tokenizer, num=3, max_new_tokens=100, context=32)
    assert all(len(piece.notes) for piece in pieces if len(piece.tokens) >= tokenizer.tokens_per_step)
    assert any(len(piece.notes) for piece in pieces)
    for piece in pieces:
        grammar = tokenizer.grammar()
        state = grammar.start(1)
        for token in [*tokenizer.begin, *piece.tokens.tolist()]:
            assert grammar.allowed(state)[0, token]
            state = grammar.advance(state, np.array([token]))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.name)
def test_a_continued_prompt_is_still_there(tokenizer: VoiceGrid) -> None:
    network = small_network(tokenizer.vocab_size)
    pieces = sample_pieces(network, tokenizer, num=2, max_new_tokens=40, prompt=chorale(), prompt_beats=2.0)
    prompt = tokenizer.encode(first_beats(chorale(), 2.0))
    for piece in pieces:
        assert piece.tokens[: len(prompt)].tolist() == prompt.tolist()
        assert piece.prompt_beats == 2.0
        assert piece.log_prob_per_token < 0
    assert pieces[0].tokens.tolist() != pieces[1].tokens.tolist()


def test_pieces_do_not_depend_on_how_many_are_made_at_once() -> None:
    tokenizer = TOKENIZERS[0]
    network = small_network(tokenizer.vocab_size)
    made = [sample_pieces(network, tokenizer, num=3, max_new_tokens=20, batch_size=size, seed=4) for size in (1, 2, 3)]
    assert all(a.tokens.tolist() == b.tokens.tolist() == c.tokens.tolist() for a, b, c in zip(*made, strict=True))


def test_notes_that_sound_on_are_cut_where_the_prompt_ends() -> None:
    held = Notes.from_rows([(0, 4, 60), (1, 0.5, 64), (2, 1, 67)])
    assert first_beats(held, 2.0).duration.tolist() == [2.0, 0.5]
    assert held.duration.tolist() == [4.0, 0.5, 1.0]


def test_a_prompt_without_a_note_is_refused() -> None:
    with pytest.raises(ValueError, match="has no note in its first 0 beats"):
        encode_prompt(TOKENIZERS[0], chorale(), 0.0)
    with pytest.raises(ValueError, match="has no note: give one that sounds"):
        encode_prompt(TOKENIZERS[0], Notes.empty())


def test_a_network_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="the tokenizer this network was trained with"):
        sample_pieces(small_network(7), TOKENIZERS[0], num=1, max_new_tokens=4)
