"""Committee: members that learn apart and speak together."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from musictrain.generation import generate
from musictrain.models import Committee, Decoder, VoiceFrames

VOCAB = 11
TOKENS = torch.arange(6 * 8).reshape(6, 8) % VOCAB


def decoder(vocab_size: int) -> Decoder:
    return Decoder(vocab_size, d_model=8, num_layers=1, num_heads=2, dropout=0.0, max_context=32)


def committee(num_members: int = 3) -> Committee:
    torch.manual_seed(0)
    return Committee(VOCAB, decoder, num_members)


def test_together_the_members_average_their_probabilities() -> None:
    network = committee().eval()
    alone = torch.stack([member(TOKENS).softmax(-1) for member in network.members])
    torch.testing.assert_close(network(TOKENS).softmax(-1), alone.mean(0))
    assert not torch.allclose(alone[0], alone[1])


def test_one_member_says_what_it_would_say_alone() -> None:
    network = committee(1).eval()
    torch.testing.assert_close(network(TOKENS), network.members[0](TOKENS).log_softmax(-1))


def test_apart_each_member_learns_from_its_own_rows_alone() -> None:
    network = committee()
    logits = network.train()(TOKENS)
    torch.testing.assert_close(logits[2:4], network.members[1](TOKENS[2:4]))
    logits[2:4].square().sum().backward()
    reached = [any(p.grad is not None and bool(p.grad.any()) for p in member.parameters()) for member in network.members]
    assert reached == [False, True, False]


def test_every_member_is_trained_by_every_batch() -> None:
    network = committee(4)
    network.train()(TOKENS).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_with_the_cache_only_new_tokens_are_fed() -> None:
    network = committee().eval()
    cache = network.start_cache(6)
    steps = torch.cat([network(TOKENS[:, :5], cache=cache), *(network(TOKENS[:, i : i + 1], cache=cache) for i in range(5, 8))], 1)
    torch.testing.assert_close(steps, network(TOKENS))
    assert cache.length == 8


def test_it_samples_like_any_network() -> None:
    network = committee()
    sampled = generate(network, TOKENS[:2, :3], max_new_tokens=20, seed=3)
    again = generate(network, TOKENS[:2, :3], max_new_tokens=20, seed=3, use_cache=False)
    assert [row.tolist() for row in sampled] == [row.tolist() for row in again]


def test_it_asks_of_windows_what_its_members_ask() -> None:
    frames = partial(VoiceFrames, embedding=8, hidden=8, head_hidden=8, pointer_beats=4)
    assert Committee(359, frames, 2).window_align == frames(359).window_align == 64
    assert Committee(359, frames, 2).max_context is None
    assert (committee().window_align, committee().max_context) == (1, 32)


@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows_to_deal_out_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"batch of {rows} rows cannot be dealt out to 3 members"):
        committee()(TOKENS[:rows])


def test_a_committee_without_members_is_refused() -> None:
    with pytest.raises(ValueError, match="num_members is 0"):
        Committee(VOCAB, nn.Identity, 0)  # type: ignore[arg-type]
