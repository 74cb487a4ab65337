"""Token dropout: as often as asked, never a special token, never out of its place in a step, and off is off."""

from __future__ import annotations

import pytest
import torch

from musictrain.data.tokenizers import VoiceGrid
from musictrain.losses import next_token_loss
from musictrain.models import VoiceFrames
from musictrain.models.token_dropout import drop_tokens

PAD, BOS, EOS = 0, 1, 2
SPECIAL = (PAD, BOS, EOS)


def music(batch: int = 8, time: int = 402, step: int = 4) -> torch.Tensor:
    """Voice v of a step holds tokens 100 v + 10 to 100 v + 19; some are special."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(10, 20, (batch, time), generator=generator) + 100 * (torch.arange(time) % step)
    return torch.where(torch.rand(batch, time, generator=generator) < 0.1, torch.randint(0, 3, (batch, time), generator=generator), tokens)


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_as_many_tokens_are_blank_as_asked_for_and_no_special_one(rate):
    tokens = music()
    torch.manual_seed(0)
    read = drop_tokens(tokens, rate, blank=PAD, spared=SPECIAL)
    special = tokens <= EOS
    assert torch.equal(read[special], tokens[special])
    assert float((read == PAD)[~special].float().mean()) == pytest.approx(rate, abs=0.03)
    kept = read != PAD
    assert torch.equal(read[kept], tokens[kept])


@pytest.mark.parametrize("step", [1, 4])
def test_another_token_comes_from_the_same_place_of_a_step(step):
    tokens = music(step=step)
    torch.manual_seed(0)
    read = drop_tokens(tokens, 0.5, "unigram", spared=SPECIAL, step=step)
    special = tokens <= EOS
    assert torch.equal(read <= EOS, special)
    assert torch.equal((read // 100)[~special], (tokens // 100)[~special])
    # Nine of ten others differ, and of the tenth of special ones none comes.
    assert float((read != tokens)[~special].float().mean()) == pytest.approx(0.5 * 0.9 * 0.9, abs=0.04)


def test_others_come_as_often_as_they_occur():
    tokens = torch.tensor([3] * 90 + [4] * 10).repeat(300, 1)
    torch.manual_seed(0)
    read = drop_tokens(tokens, 0.999, "unigram")
    assert float((read == 4).float().mean()) == pytest.approx(0.1, abs=0.005)


def test_what_is_drawn_depends_on_the_seed_alone_and_the_tokens_stay():
    tokens = music()
    before = tokens.clone()
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(drop_tokens(tokens, 0.3, "unigram"))
    assert torch.equal(*drawn)
    assert torch.equal(tokens, before)


def test_off_reads_the_very_tokens_and_draws_nothing():
    tokens = music()
    state = torch.get_rng_state()
    assert drop_tokens(tokens, 0.0, blank=PAD) is tokens
    assert torch.equal(torch.get_rng_state(), state)
    empty = tokens[:, :0]
    assert drop_tokens(empty, 0.5, "unigram") is empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.0, "kind": "unigram"}, "token_dropout is 1.0, but must be at least 0 and below 1"),
        ({"p": 0.1, "kind": "unigam"}, "must be 'blank' or 'unigram'. Did you mean 'unigram'"),
        ({"p": 0.1}, "lets the network read padding, but neither pad_id"),
    ],
)
def test_what_cannot_be_dropped_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        drop_tokens(music(), **options)


@pytest.mark.parametrize("kind", ["blank", "unigram"])
def test_a_network_that_knows_its_grammar_never_finds_the_music_impossible(kind):
    grid = VoiceGrid(48, 72)
    frames = 60 + torch.arange(18)[:, None] % torch.tensor([5, 4, 3, 2])
    piece = torch.tensor([*grid.begin, *grid.encode_frames(frames.numpy()).tolist(), *grid.end, *[grid.pad_id] * 8])
    network = VoiceFrames(grid.vocab_size, 48, 72, embedding=8, hidden=8, head_hidden=8)
    torch.manual_seed(0)
    tokens = piece.repeat(6, 1)
    read = drop_tokens(tokens, 0.5, kind, blank=PAD, spared=SPECIAL, step=4)
    assert not torch.equal(read, tokens)
    loss = next_token_loss(network(read[:, :-1]), tokens[:, 1:], pad_id=PAD).loss
    # What cannot stand at its place has a logit of -1e4.
    assert float(loss.detach()) < 10
