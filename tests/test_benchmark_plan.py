"""The plan's formulas are those of the networks we build, and its document quotes the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import plan
from benchmarks.mfu import flops_per_token, matmul_weights
from benchmarks.scaling import activations
from musictrain.models import Decoder
from musictrain.speed.flops import FlopCount

SMALL = plan.Model(vocab_size=100, d_model=64, num_layers=3)


def decoder(model: plan.Model, num_heads: int = 2) -> Decoder:
    return Decoder(model.vocab_size, model.d_model, model.num_layers, num_heads, max_context=64)


def test_the_plan_counts_the_weights_of_the_network() -> None:
    assert SMALL.weights == sum(parameter.numel() for parameter in decoder(SMALL).parameters())


def test_the_plan_counts_the_flops_that_are_counted_one_by_one() -> None:
    network = decoder(SMALL)
    expected = FlopCount(network).of_row(48) / 48
    assert SMALL.flops_per_token(48) == pytest.approx(expected)
    assert flops_per_token(matmul_weights(network), SMALL.num_layers, SMALL.d_model, 48) == pytest.approx(expected)


def test_the_plan_knows_what_a_layer_keeps() -> None:
    assert activations()["ratio"] == pytest.approx(1.0, abs=0.01)


def test_shares_make_up_the_whole() -> None:
    assert plan.state_bytes(1000) == 16_000
    assert 4 * plan.state_bytes(1000, shares=4) == plan.state_bytes(1000)


def test_one_rank_sends_nothing_and_two_send_what_two_must() -> None:
    for strategy in ("ddp", "fsdp", "tp"):
        assert plan.bytes_sent(SMALL, strategy, 1, tokens_of_a_rank=8) == 0
    assert plan.bytes_sent(SMALL, "ddp", 2) == 4 * SMALL.weights
    once, twice = (plan.bytes_sent(SMALL, "fsdp", 2, backend=backend) for backend in ("nccl", "gloo"))
    assert twice - once == 2 * SMALL.weights


def test_gathering_in_16_bits_halves_what_is_gathered() -> None:
    full, half = (plan.bytes_sent(SMALL, "fsdp", 8, gather_bytes=size) for size in (4, 2))
    gathered = 4 * (2 * SMALL.num_layers * SMALL.block_weights + SMALL.root_weights) * 7 / 8
    assert full - half == pytest.approx(gathered / 2)


def test_the_document_quotes_the_table(repository: Path) -> None:
    text = (repository / "configs" / "several_nodes" / "plan_64_gpus.md").read_text(encoding="utf-8")
    assert plan.as_markdown(plan.the_plan()["rows"]) in text
