"""Laws of the decoder: it never sees the future, its cache changes nothing, and sizes that cannot work are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from musictrain.models import Decoder
from musictrain.models.cache import ContextFullError

VOCAB = 23


def small_decoder(**options: Any) -> Decoder:
    torch.manual_seed(0)
    network = Decoder(VOCAB, **{"d_model": 32, "num_layers": 3, "num_heads": 4, "max_context": 64, **options})
    with torch.no_grad():  # far from the start, where no layer adds anything
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def some_tokens(batch: int = 2, time: int = 20, seed: int = 1) -> Tensor:
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_logits_before_a_token_do_not_depend_on_it(norm: str) -> None:
    network, tokens = small_decoder(norm=norm), some_tokens()
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % VOCAB
    before, after = network(tokens), network(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert not torch.equal(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("pieces", [[20], [12] + [1] * 8, [1] * 20, [5, 7, 1, 7]], ids=["all", "prompt-then-one", "one-by-one", "chunks"])
def test_feeding_through_the_cache_gives_the_logits_of_the_whole(pieces: list[int]) -> None:
    network, tokens = small_decoder(), some_tokens()
    cache = network.start_cache(batch_size=2, length=20)
    fed = torch.cat([network(part, cache=cache) for part in tokens.split(pieces, dim=1)], dim=1)
    torch.testing.assert_close(fed, network(tokens), rtol=0, atol=1e-5)
    assert cache.length == 20


@pytest.mark.parametrize("options", [{}, {"norm": "layer", "tie_embeddings": False}], ids=["rms-tied", "layer-untied"])
def test_the_shortcut_for_one_token_gives_the_logits_of_the_whole(options: dict[str, Any]) -> None:
    network, tokens = small_decoder(**options), some_tokens()
    cache = network.start_cache(batch_size=2, length=20)
    assert cache.shortcut is not None
    with torch.no_grad():
        fed = torch.cat([network(part, cache=cache) for part in tokens.split([6] + [1] * 14, dim=1)], dim=1)
        torch.testing.assert_close(fed, network(tokens), rtol=0, atol=1e-5)


def test_a_network_with_foreign_parts_goes_the_usual_way() -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    network, tokens = small_decoder(), some_tokens()
    network.blocks[1].feed_forward.up = Doubled(32, network.blocks[1].feed_forward.up.out_features, bias=False)
    cache = network.start_cache(batch_size=2, length=20)
    assert cache.shortcut is None
    with torch.no_grad():
        fed = torch.cat([network(part, cache=cache) for part in tokens.split(1, dim=1)], dim=1)
        torch.testing.assert_close(fed, network(tokens), rtol=0, atol=1e-5)
    hooked = small_decoder()
    hooked.blocks[0].attention.register_forward_hook(lambda *_: None)
    assert hooked.start_cache(1).shortcut is None


def test_untrained_loss_is_that_of_a_uniform_guess() -> None:
    network, tokens = Decoder(VOCAB, d_model=64).eval(), some_tokens(8, 60)
    loss = torch.nn.functional.cross_entropy(network(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert abs(loss.item() - math.log(VOCAB)) < 0.2


def test_an_untrained_block_adds_nothing_and_learns_from_the_first_step() -> None:
    network = Decoder(VOCAB, d_model=32, num_layers=2)
    stream = torch.randn(2, 5, 32)
    assert torch.equal(network.blocks[0](stream, network.rotary(0, 5)), stream)
    network(some_tokens()).logsumexp(-1).sum().backward()
    assert network.blocks[0].attention.output.weight.grad.abs().sum() > 0


def test_tied_embeddings_are_one_matrix_in_the_state() -> None:
    tied, untied = small_decoder(), small_decoder(tie_embeddings=False)
    assert set(untied.state_dict()) - set(tied.state_dict()) == {"head.weight"}
    tied(some_tokens()).sum().backward()
    assert tied.embedding.weight.grad is not None


def test_state_round_trip_gives_the_same_logits() -> None:
    network, other = small_decoder(), Decoder(VOCAB, d_model=32, num_layers=3, num_heads=4, max_context=64).eval()
    assert not torch.equal(network(some_tokens()), other(some_tokens()))
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(some_tokens()), other(some_tokens()))


def test_no_layer_has_a_bias() -> None:
    assert [name for name, _ in small_decoder(norm="layer", tie_embeddings=False).named_parameters() if "bias" in name] == []


def test_dropout_acts_only_while_training() -> None:
    network, tokens = small_decoder(dropout=0.5), some_tokens()
    assert torch.equal(network(tokens), network(tokens))
    network.train()
    assert not torch.equal(network(tokens), network(tokens))


def test_bf16_autocast_is_near_full_precision_with_and_without_cache() -> None:
    network, tokens = small_decoder(), some_tokens()
    exact = network(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        whole = network(tokens)
        cache = network.start_cache(2, 20)
        fed = torch.cat([network(part, cache=cache) for part in tokens.split([12] + [1] * 8, dim=1)], dim=1)
    assert cache.layers[0].dtype == torch.bfloat16
    for logits in (whole, fed):
        torch.testing.assert_close(logits.float(), exact, rtol=0, atol=0.05 * exact.abs().max().item())


def test_bf16_weights_work() -> None:
    network = small_decoder().bfloat16()
    cache = network.start_cache(2, 20)
    assert network(some_tokens(), cache=cache).dtype == cache.layers[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 30}, "d_model 30 is not a multiple of num_heads 4"),
        ({"d_model": 36}, "9 channels a head.*even number, such as d_model 40"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"norm": "batch"}, "norm is 'batch', but must be 'rms' or 'layer'"),
    ],
)
def test_sizes_that_cannot_work_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_decoder(**sizes)


def test_tokens_beyond_the_context_are_refused() -> None:
    network = small_decoder(max_context=16)
    with pytest.raises(ContextFullError, match="Got 17 tokens a sequence, but this Decoder's max_context is 16"):
        network(some_tokens(time=17))
    with pytest.raises(ValueError, match="cache of 17 tokens was asked for"):
        network.start_cache(2, length=17)
    cache = network.start_cache(2)
    network(some_tokens(time=16), cache=cache)
    with pytest.raises(ContextFullError, match="holds 16 of at most 16 tokens and got 1 more"):
        network(some_tokens(time=1), cache=cache)
    with pytest.raises(ValueError, match="Got 3 sequences, but this cache was started for 2"):
        network(some_tokens(batch=3, time=1), cache=cache)
