"""What is left out while training: how often, what stays on average, what shares a mask, and that off means as if it were not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictrain.models import Decoder, Recurrent, VoiceFrames
from musictrain.models.attention import attend
from musictrain.models.block_dropout import BlockDropout
from musictrain.models.recomputing import recompute
from musictrain.models.single_token import can_step
from musictrain.models.stochastic_depth import StochasticDepth, rising_to

VOCAB = 23


def some_tokens(batch: int = 2, time: int = 20) -> Tensor:
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(1))


def awake(network: nn.Module) -> nn.Module:
    """Weights of zero at the end of a branch would hide what the branch does."""
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)
    return network


def decoder(**options: Any) -> Any:
    torch.manual_seed(0)
    return awake(Decoder(VOCAB, **{"d_model": 16, "num_layers": 3, "num_heads": 2, "dropout": 0.0, "max_context": 32, **options}))


def recurrent(**options: Any) -> Any:
    torch.manual_seed(0)
    return Recurrent(VOCAB, **{"d_model": 16, "hidden": 24, "num_layers": 3, **options})


# Stochastic depth


def test_a_branch_adds_on_average_what_it_adds_in_eval() -> None:
    torch.manual_seed(0)
    branch = torch.randn(1, 3, 2)
    mean = StochasticDepth(0.3)(branch.expand(40_000, 3, 2)).mean(0, keepdim=True)
    torch.testing.assert_close(mean, branch, rtol=0.03, atol=0.0)


def test_a_sequence_goes_past_a_branch_as_a_whole_and_as_often_as_asked() -> None:
    torch.manual_seed(0)
    out = StochasticDepth(0.25)(torch.ones(8_000, 5, 4))
    per_sequence = out.flatten(1)
    assert bool((per_sequence == per_sequence[:, :1]).all())
    assert per_sequence[:, 0].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float((per_sequence[:, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


def test_the_last_block_is_left_out_most_often_and_the_first_least() -> None:
    assert [block.depth.p for block in decoder(stochastic_depth=0.3).blocks] == pytest.approx([0.1, 0.2, 0.3])
    assert rising_to(0.0, 5) == [0.0] * 5


def test_stochastic_depth_acts_only_while_training_and_leaves_sampling_its_shortcut() -> None:
    network, tokens = decoder(stochastic_depth=0.9, attention_dropout=0.5), some_tokens()
    assert not torch.equal(network(tokens), network(tokens))
    torch.testing.assert_close(network.eval()(tokens), decoder().eval()(tokens), rtol=0, atol=0)
    assert can_step(network)


# Attention and embedding dropout


def test_attention_dropout_hides_a_token_as_often_as_asked() -> None:
    torch.manual_seed(0)
    time, rate = 64, 0.25
    values = torch.eye(time).expand(40, 1, time, time)
    blank = torch.zeros(40, 1, time, time)
    weights = attend(blank, blank, values, dropout=rate)[:, 0, -1]
    assert float((weights == 0).float().mean()) == pytest.approx(rate, abs=0.03)
    torch.testing.assert_close(weights[weights > 0], torch.full_like(weights[weights > 0], 1 / time / (1 - rate)))
    assert not attend(blank, blank, values, dropout=rate)[:, 0].triu(1).any()


def test_the_three_dropouts_of_a_decoder_are_apart() -> None:
    network = decoder(dropout=0.1, embedding_dropout=0.2, attention_dropout=0.3)
    assert network.dropout.p == 0.2
    assert {block.dropout.p for block in network.blocks} == {0.1}
    assert {block.attention.dropout for block in network.blocks} == {0.3}


def test_a_recurrent_networks_embedding_dropout_is_its_dropout_unless_given() -> None:
    assert recurrent(dropout=0.3).embedding_dropout.p == 0.3
    apart = recurrent(dropout=0.3, embedding_dropout=0.0)
    assert (apart.embedding_dropout.p, apart.dropout.p, apart.recurrent.dropout) == (0.0, 0.3, 0.3)


# Shared over time


@pytest.mark.parametrize("block", [None, 100])
def test_one_mask_serves_the_whole_sequence(block: int | None) -> None:
    torch.manual_seed(0)
    out = BlockDropout(0.4, block)(torch.ones(200, 30, 8))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert float((out == 0).float().mean()) == pytest.approx(0.4, abs=0.03)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_layers_with_a_shared_dropout_are_torchs_but_for_the_masks(kind: str) -> None:
    plain, shared, tokens = recurrent(kind=kind), recurrent(kind=kind, shared_dropout=True, dropout=0.5), some_tokens()
    assert list(plain.state_dict()) == list(shared.state_dict())
    assert torch.equal(plain.eval()(tokens), shared.eval()(tokens))
    # With masks of ones, what the layers compute one after the other is what torch computes at once.
    shared.train()
    stream = torch.randn(2, 20, 16)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BlockDropout, "forward", lambda self, stream: stream)
        ours, state = shared.recurrent(stream)
        again, _ = shared.recurrent(stream[:, 10:], shared.recurrent(stream[:, :10])[1])
    theirs, their_state = nn.Module.__call__(plain.eval().recurrent, stream)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(state, their_state)
    torch.testing.assert_close(again, theirs[:, 10:])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_shared_dropout_gives_every_weight_a_gradient(kind: str) -> None:
    network = recurrent(kind=kind, shared_dropout=True, dropout=0.3)
    network(some_tokens()).sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in network.parameters())


# Off is off


def test_a_decoder_draws_what_it_drew_before_there_were_other_dropouts() -> None:
    network, tokens = decoder(dropout=0.3), some_tokens()
    torch.manual_seed(5)
    given = network(tokens)
    torch.manual_seed(5)
    stream = F.dropout(network.embedding(tokens), 0.3)
    rotation = network.rotary(0, tokens.shape[1])
    for block in network.blocks:
        stream = stream + F.dropout(block.attention(block.attention_norm(stream), rotation), 0.3)
        stream = stream + F.dropout(block.feed_forward(block.feed_forward_norm(stream)), 0.3)
    assert torch.equal(given, F.linear(network.norm(stream), network.embedding.weight))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_recurrent_network_draws_what_it_drew_before(kind: str) -> None:
    network, tokens = recurrent(kind=kind, dropout=0.3), some_tokens()
    torch.manual_seed(5)
    given = network(tokens)
    torch.manual_seed(5)
    stream, _ = network.recurrent(F.dropout(network.embedding(tokens), 0.3))
    assert type(network.recurrent) in (nn.LSTM, nn.GRU)
    assert torch.equal(given, F.linear(network.output(F.dropout(stream, 0.3)), network.embedding.weight))


def test_a_mask_of_sixteen_steps_is_what_it_was() -> None:
    dropout, stream = BlockDropout(0.5), torch.randn(2, 20, 3)
    torch.manual_seed(5)
    given = dropout(stream)
    torch.manual_seed(5)
    factor = (torch.rand(2, 2, 3) >= 0.5).float() / 0.5
    assert torch.equal(given, stream * factor.repeat_interleave(16, 1)[:, :20])
    blocks = {each.block for each in VoiceFrames(359, embedding=8, hidden=8, head_hidden=8).modules() if isinstance(each, BlockDropout)}
    assert blocks == {16}


def test_voice_frames_share_a_mask_for_as_many_steps_as_asked() -> None:
    network = VoiceFrames(359, embedding=8, hidden=8, head_hidden=8, dropout_block=None)
    assert {each.block for each in network.modules() if isinstance(each, BlockDropout)} == {None}
    assert network(torch.full((1, 64), 1)).shape == (1, 64, 359)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: decoder(attention_dropout=1.0), "attention_dropout is 1.0, but must be at least 0 and below 1"),
        (lambda: decoder(stochastic_depth=-0.1), "stochastic_depth is -0.1"),
        (lambda: decoder(dropout=1.0), "^dropout is 1.0"),
        (lambda: decoder(embedding_dropout=1.0), "embedding_dropout is 1.0"),
        (lambda: recurrent(dropout=1.0), "dropout is 1.0"),
        (lambda: recurrent(embedding_dropout=2.0), "embedding_dropout is 2.0"),
        (lambda: VoiceFrames(359, embedding=8, hidden=8, head_hidden=8, input_dropout=1.0), "input_dropout is 1.0"),
        (lambda: StochasticDepth(float("nan")), "A stochastic depth is nan"),
        (lambda: BlockDropout(0.1, block=0), "shared by 0 steps, but must be by at least 1"),
    ],
)
def test_a_dropout_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_shared_dropout_trains_in_bf16(kind: str) -> None:
    network = recurrent(kind=kind, shared_dropout=True, dropout=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(some_tokens()).float().logsumexp(-1).mean()
    loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.parameters())


def test_what_was_left_out_is_left_out_again_where_activations_are_computed_twice() -> None:
    def gradients(recomputed: bool) -> list[Tensor]:
        network = decoder(dropout=0.2, attention_dropout=0.2, stochastic_depth=0.5)
        if recomputed:
            recompute(network)
        torch.manual_seed(3)
        network(some_tokens(batch=8)).logsumexp(-1).sum().backward()
        return [parameter.grad for parameter in network.parameters()]

    assert all(torch.equal(once, twice) for once, twice in zip(gradients(False), gradients(True), strict=True))
