"""From notes to notes: whatever a network draws under a tokenizer's grammar is music, and a prompt stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from musictrain.data.tokenizers import MidiTokTokenizer, TokenIds, Tokenizer, VoiceGrid
from musictrain.generation import sample_pieces
from musictrain.generation.continuation import encode_prompt, first_beats
from musictrain.models import Decoder
from musictrain.notes import Notes

TOKENIZERS: list[Tokenizer] = [VoiceGrid(lowest=40, highest=80), *map(MidiTokTokenizer, ("REMI", "TSD", "Structured"))]


def small_network(vocab_size: int) -> nn.Module:
    torch.manual_seed(0)
    network = Decoder(vocab_size, d_model=16, num_layers=1, num_heads=2, max_context=64)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


class OnlyTheEnd(nn.Module):
    """A network that wants a piece to end, whatever it has heard."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.logits = 100.0 * torch.eye(tokenizer.vocab_size)[tokenizer.end[0]]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits.expand(*tokens.shape, -1)


def chorale(num_beats: int = 4) -> Notes:
    """Four voices, one chord a beat, each a step higher than the last."""
    onset = np.repeat(np.arange(num_beats), 4)
    track = np.tile(np.arange(4), num_beats)
    pitch = np.tile([72, 67, 64, 48], num_beats) + onset
    return Notes(onset, np.ones(len(onset)), pitch, track=track)


def num_notes_in(tokenizer: Tokenizer, tokens: TokenIds) -> int:
    """How many notes the tokens spell: an event tokenizer's note ends with its duration, a grid's is a pitch new to its voice."""
    if isinstance(tokenizer, VoiceGrid):
        frames = tokenizer.decode_frames(tokens)
        before = np.vstack([np.full((1, frames.shape[1]), -1), frames[:-1]])
        return int(((frames >= 0) & (frames != before)).sum())
    return sum(tokenizer.token_name(token).startswith("Duration") for token in tokens.tolist())


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.name)
def test_samples_of_a_random_network_follow_the_grammar_and_decode_without_loss(tokenizer: Tokenizer) -> None:
    pieces = sample_pieces(small_network(tokenizer.vocab_size), tokenizer, num=3, max_new_tokens=150, context=32)
    assert any(len(piece.notes) for piece in pieces)
    for piece in pieces:
        assert len(piece.notes) == num_notes_in(tokenizer, piece.tokens)
        grammar = tokenizer.grammar()
        state = grammar.start(1)
        for token in [*tokenizer.begin, *piece.tokens.tolist()]:
            assert grammar.allowed(state)[0, token]
            state = grammar.advance(state, np.array([token]))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.name)
def test_a_continued_prompt_is_still_there(tokenizer: Tokenizer) -> None:
    network = small_network(tokenizer.vocab_size)
    pieces = sample_pieces(network, tokenizer, num=2, max_new_tokens=40, prompt=chorale(), prompt_beats=2.0)
    prompt = first_beats(chorale(), 2.0)
    for piece in pieces:
        assert piece.tokens[: len(tokenizer.encode(prompt))].tolist() == tokenizer.encode(prompt).tolist()
        assert len(piece.notes.between(0, 2.0)) >= len(prompt)
        assert set(piece.notes.pitch.tolist()) >= set(prompt.pitch.tolist())
        assert piece.prompt_beats == 2.0
        assert piece.log_prob_per_token < 0
    assert pieces[0].tokens.tolist() != pieces[1].tokens.tolist()


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.name)
def test_a_piece_that_ends_leaves_its_end_behind(tokenizer: Tokenizer) -> None:
    (piece,) = sample_pieces(OnlyTheEnd(tokenizer), tokenizer, num=1, max_new_tokens=40, prompt=chorale())
    assert piece.ended
    assert piece.notes.end == 4.0
    assert not set(piece.tokens.tolist()) & set(tokenizer.end)


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
