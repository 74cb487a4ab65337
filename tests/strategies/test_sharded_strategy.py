"""ShardedStrategy trains what one process trains: FSDP2, tensor parallelism, both, with clipping, accumulation and less precision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from musictrain.models import Decoder, Recurrent
from musictrain.strategies import ShardedStrategy
from musictrain.strategies.parallelize import style_of
from musictrain.strategies.sharded import parts_of, skeleton_of
from tests.strategies.trainings import Foreign, OwnModule, name_of

# Five steps of AdamW at a learning rate of 0.01: where a gradient is all but zero, rounding decides which way it goes.
TOLERANCE = 5e-4
CLIPPED = {"gradient_clip_val": 0.5}
ADAPTIVE = {"adaptive_clip": 0.02}
BY_VALUE = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """What all trainings left, made by one program of its own: torch forks ranks only where nothing was trained yet."""
    folder = tmp_path_factory.mktemp("trainings")
    words = [sys.executable, "-m", "tests.strategies.trainings", str(folder)]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def result(folder: Path, network: str, strategy: str, options: dict[str, Any]) -> dict[str, Any]:
    return torch.load(folder / name_of(network, strategy, options), weights_only=True)


def furthest(folder: Path, network: str, strategy: str, options: dict[str, Any]) -> float:
    """How far weights end up from those of one process, at most."""
    one, spread = (result(folder, network, each, options)["state"] for each in ("one", strategy))
    assert list(one) == list(spread)
    return max(float((one[name].float() - spread[name].float()).abs().max()) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "strategy", "options"),
    [
        *(("decoder", strategy, CLIPPED) for strategy in ("ddp", "fsdp", "recomputing", "tp", "fsdp+tp")),
        *(("untied", strategy, CLIPPED) for strategy in ("fsdp", "tp", "fsdp+tp")),
        *(("odd", strategy, CLIPPED) for strategy in ("tp", "fsdp+tp")),
        *(("decoder", strategy, BY_VALUE) for strategy in ("fsdp", "tp", "fsdp+tp")),
        *(("decoder", strategy, ADAPTIVE) for strategy in ("ddp", "fsdp", "tp", "fsdp+tp")),
        ("recurrent", "fsdp", {}),
        *(("foreign", strategy, CLIPPED) for strategy in ("fsdp", "layers")),
        *(("own", strategy, CLIPPED) for strategy in ("fsdp", "model_layers")),
    ],
)
def test_weights_end_where_those_of_one_process_end(folder: Path, network: str, strategy: str, options: dict[str, Any]) -> None:
    assert furthest(folder, network, strategy, options) < TOLERANCE
    if network != "own":
        one, spread = (result(folder, network, each, options)["metrics"] for each in ("one", strategy))
        assert float(spread["train/loss"]) == pytest.approx(float(one["train/loss"]), abs=1e-5)
        assert float(spread["train/gradient_norm"]) == pytest.approx(float(one["train/gradient_norm"]), rel=1e-4)


@pytest.mark.slow
def test_one_process_alone_in_shares_computes_the_same_bits(folder: Path) -> None:
    assert furthest(folder, "decoder", "alone", CLIPPED) == 0


@pytest.mark.slow
def test_recomputed_blocks_give_the_same_bits(folder: Path) -> None:
    kept, recomputed = (result(folder, "decoder", strategy, CLIPPED)["state"] for strategy in ("fsdp", "recomputing"))
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("strategy", ["fsdp", "tp"])
def test_less_precision_stays_within_its_rounding(folder: Path, precision: str, strategy: str) -> None:
    one, spread = (result(folder, "decoder", each, {"precision": precision})["metrics"] for each in ("one", strategy))
    assert float(spread["train/loss"]) == pytest.approx(float(one["train/loss"]), abs=0.02)
    assert furthest(folder, "decoder", strategy, {"precision": precision}) > 0


@pytest.mark.slow
def test_weights_gathered_in_bfloat16_stay_within_its_rounding(folder: Path) -> None:
    one, gathered = (result(folder, "decoder", each, {"precision": "bf16-mixed"})["metrics"] for each in ("one", "bf16_gathered"))
    assert float(gathered["train/loss"]) == pytest.approx(float(one["train/loss"]), abs=0.03)


@pytest.mark.slow
def test_weights_really_lie_in_shares(folder: Path) -> None:
    assert set(result(folder, "decoder", "fsdp", CLIPPED)["names"].values()) == {"DTensor"}
    under_tp = result(folder, "decoder", "tp", CLIPPED)["names"]
    assert under_tp["network.blocks.0.attention.query.weight"] == "DTensor"
    assert under_tp["network.embedding.weight"] == "Parameter"


@pytest.mark.slow
def test_an_optimizer_over_weights_of_several_kinds_is_saved_as_it_was_made(folder: Path) -> None:
    names = result(folder, "odd", "tp", CLIPPED)["names"]
    assert names["network.head.weight"] == "Parameter"
    assert names["network.blocks.0.attention.query.weight"] == "DTensor"
    assert result(folder, "odd", "tp", CLIPPED)["fused"] is True


@pytest.mark.slow
def test_what_cannot_be_spread_is_refused_with_the_reason(folder: Path) -> None:
    assert "Recurrent declares no tensor_parallel_plan" in result(folder, "recurrent", "tp", {})["error"]
    assert "Use the strategy ddp or fsdp" in result(folder, "foreign", "tp", CLIPPED)["error"]
    assert "no block 'model.inner.layers'" in result(folder, "foreign", "model_layers", CLIPPED)["error"]


# What is refused before anything runs.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size=0, expected 1 or more"),
        ({"data_parallel_size": -1}, "data_parallel_size=-1, expected 1 or more"),
        ({"gather_dtype": "fp8"}, "gather_dtype='fp8'; it knows bf16, fp16"),
        ({"timeout_minutes": 0}, "timeout_minutes=0, expected more than 0"),
    ],
)
def test_impossible_arguments_are_refused_at_construction(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ShardedStrategy(**arguments)


def test_a_module_that_holds_weights_itself_is_refused() -> None:
    module = OwnModule()
    assert list(parts_of(module)) == ["model"]
    module.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="OwnModule holds the weights scale itself"):
        parts_of(module)


def test_a_plan_speaks_in_known_words() -> None:
    with pytest.raises(ValueError, match="Did you mean 'colwise'"):
        style_of("blocks.0.query", "columnwise")


def test_a_decoder_whose_heads_cannot_be_dealt_out_says_so() -> None:
    with pytest.raises(ValueError, match="4 heads cannot be dealt out to 3 devices"):
        Decoder(40, d_model=32, num_heads=4).tensor_parallel_plan(3)
    # A vocabulary that does not divide leaves the head whole.
    untied = Decoder(41, d_model=32, num_heads=4, tie_embeddings=False)
    assert "head" not in untied.tensor_parallel_plan(2)


def test_a_skeleton_has_real_buffers_and_no_memory_for_weights() -> None:
    network = Decoder(40, d_model=32, num_layers=1, num_heads=2)
    skeleton = skeleton_of(network)
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(skeleton.buffers(), network.buffers(), strict=True))
    assert not any(parameter.is_meta for parameter in network.parameters())
    network.load_state_dict(skeleton.to_empty(device="cpu").state_dict())


def test_networks_name_their_blocks() -> None:
    from musictrain.models.recomputing import blocks_of, recompute

    assert [name for name, _ in blocks_of(Decoder(40, d_model=32, num_layers=2, num_heads=2))] == ["blocks.0", "blocks.1"]
    assert [name for name, _ in blocks_of(Recurrent(40))] == ["recurrent"]
    assert [name for name, _ in blocks_of(Foreign(), "inner.layers")] == [f"inner.layers.{layer}" for layer in range(3)]
    assert blocks_of(Foreign()) == []
    with pytest.raises(ValueError, match="Foreign names no blocks"):
        recompute(Foreign())
