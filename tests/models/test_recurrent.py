"""Laws of the recurrent baseline: the same contract as the decoder's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from musictrain.models import Recurrent

VOCAB = 23


def small_network(**options: Any) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(VOCAB, **{"d_model": 16, "hidden": 24, "num_layers": 2, **options}).eval()


def some_tokens(batch: int = 2, time: int = 20) -> Tensor:
    return torch.randint(VOCAB, (batch, time), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_logits_before_a_token_do_not_depend_on_it(kind: str) -> None:
    network, tokens = small_network(kind=kind), some_tokens()
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % VOCAB
    before, after = network(tokens), network(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7], after[:, 7])


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_feeding_through_the_cache_gives_the_logits_of_the_whole(kind: str) -> None:
    network, tokens = small_network(kind=kind, tie_embeddings=kind == "lstm"), some_tokens()
    cache = network.start_cache(batch_size=2)
    fed = torch.cat([network(part, cache=cache) for part in tokens.split([12] + [1] * 8, dim=1)], dim=1)
    torch.testing.assert_close(fed, network(tokens), rtol=0, atol=1e-5)
    assert cache.length == 20


def test_state_round_trip_gives_the_same_logits() -> None:
    network = small_network()
    other = Recurrent(VOCAB, d_model=16, hidden=24, num_layers=2).eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(network(some_tokens()), other(some_tokens()))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'rnn', but must be 'lstm' or 'gru'"):
        small_network(kind="rnn")
    with pytest.raises(ValueError, match="hidden is 0, but must be at least 1"):
        small_network(hidden=0)
    network = small_network()
    with pytest.raises(ValueError, match="Got 3 sequences, but this cache was started for 2"):
        network(some_tokens(batch=3), cache=network.start_cache(2))
