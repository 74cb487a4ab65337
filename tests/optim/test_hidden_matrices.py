"""Which weights Muon moves: the rule, on networks of ours and of others."""

from __future__ import annotations

import pytest
from torch import nn

from musictrain.models import Committee, Decoder, Recurrent
from musictrain.optim.hidden_matrices import hidden_matrices, without_numbers
from musictrain.optim.parameter_groups import parameter_groups
from tests.optim.stepped import network
from tests.tiny_runs import VOCAB, ForeignNetwork

BLOCK = {
    *(f"blocks.*.attention.{each}.weight" for each in ("query", "key", "value", "output")),
    *(f"blocks.*.feed_forward.{each}.weight" for each in ("gate", "up", "down")),
}


def found(of: nn.Module, vocab_size: int | None = None) -> set[str]:
    return {without_numbers(name) for name in hidden_matrices(of, vocab_size)}


@pytest.mark.parametrize("tied", [False, True])
def test_of_a_decoder_they_are_those_of_its_blocks_whether_the_head_is_tied_or_not(tied: bool) -> None:
    assert found(network(num_layers=2, tie_embeddings=tied)) == BLOCK
    assert len(hidden_matrices(network(num_layers=2, tie_embeddings=tied))) == 14


def test_of_a_recurrent_network_gates_are_one_matrix_and_what_stands_before_a_tied_head_is_hidden() -> None:
    tied = Recurrent(vocab_size=13, d_model=8, hidden=12, num_layers=1)
    assert found(tied) == {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "output.weight"}


def test_the_width_of_the_logits_tells_the_head_of_a_network_that_does_not_tell_it() -> None:
    assert found(ForeignNetwork(), VOCAB) == {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0"}


def test_each_member_of_a_committee_has_its_head() -> None:
    committee = Committee(13, lambda size: Decoder(size, d_model=8, num_layers=1, num_heads=2, tie_embeddings=False), num_members=3)
    assert len(hidden_matrices(committee)) == 3 * 7
    assert not any("head" in name for name in hidden_matrices(committee))


def test_where_every_matrix_could_be_the_head_the_last_one_is() -> None:
    square = Decoder(12, d_model=12, num_layers=1, num_heads=2, tie_embeddings=False)
    assert found(square) == BLOCK


def test_where_nothing_has_the_vocabularys_size_the_last_made_is_the_head_under_each_of_its_numbers() -> None:
    voices = nn.Module()
    voices.table = nn.EmbeddingBag(40, 6)
    voices.inner = nn.Linear(6, 6)
    voices.heads = nn.ModuleList(nn.Linear(6, 7) for _ in range(4))
    assert found(voices, 99) == {"inner.weight"}


def test_frozen_weights_norms_biases_and_cubes_are_none() -> None:
    odd = nn.Module()
    odd.first = nn.Linear(3, 4)
    odd.frozen = nn.Linear(4, 4).requires_grad_(False)
    odd.norm = nn.LayerNorm((4, 5))
    odd.relative_bias = nn.Parameter(nn.Linear(4, 4).weight.detach())
    odd.convolution = nn.Conv1d(4, 4, 3)
    odd.head = nn.Linear(4, 9)
    assert found(odd, 9) == {"first.weight"}


def test_groups_keep_them_apart_and_lose_none() -> None:
    of = network(num_layers=2)
    ids = {id(each) for each in hidden_matrices(of).values()}
    groups = parameter_groups(of, matrices=ids)
    assert {id(each) for each in groups[0]["params"]} == ids
    assert sorted(id(each) for group in groups for each in group["params"]) == sorted(id(each) for each in of.parameters())
