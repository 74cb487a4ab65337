"""From a configuration to Lightning's Trainer: devices, strategy, precision."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from musictrain.models import Decoder, Recurrent
from musictrain.module import MusicModule
from musictrain.strategies import ExactDDPStrategy, ShardedStrategy
from musictrain.strategies import spreading as under_test
from musictrain.strategies.precision import Device
from musictrain.strategies.spreading import count_of, kind_of, spread, started_from_outside

OUTSIDE = ("TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_NNODES", "SLURM_JOB_NAME")


class Data:
    batch_size = 8


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(under_test, "device_at_hand", lambda kind: Device(kind, True, "CPU"))
    monkeypatch.setattr(under_test, "memory_gib", lambda: 16.0)


def small() -> MusicModule:
    return MusicModule(Decoder(40, d_model=32, num_layers=1, num_heads=4))


def of(module: Any = None, data: Any = Data(), **settings: Any) -> under_test.Spread:  # noqa: B008
    return spread({"accelerator": "cpu", "devices": 1, **settings}, module or small(), data)


def test_one_process_is_left_to_lightning() -> None:
    found = of(strategy="auto", precision=None)
    assert (found.options, found.reasons, found.local, found.nodes) == ({}, [], 1, 1)


def test_two_devices_that_hold_everything_are_ddp_with_the_reason() -> None:
    found = of(devices=2)
    assert isinstance(found.options["strategy"], ExactDDPStrategy)
    assert found.reasons[0].startswith("strategy ddp: 2 devices, and weights, gradients and optimizer of 0.0 M parameters")


def test_a_model_too_large_for_a_device_lies_in_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "memory_gib", lambda: 0.0001)
    found = of(devices=2)
    assert isinstance(found.options["strategy"], ShardedStrategy)
    assert "strategy fsdp" in found.reasons[0]


def test_rows_that_cannot_be_dealt_out_make_neighbours_share_them() -> None:
    class OneRow:
        batch_size = 1

    found = of(data=OneRow(), devices=2)
    assert "strategy tp: 1 rows a batch cannot be dealt out to 2 devices" in found.reasons[0]
    assert found.options["strategy"]._tensor_parallel_size == 2
    # A network without a plan cannot: the data module will say what is wrong.
    assert "strategy ddp" in of(MusicModule(Recurrent(40)), data=OneRow(), devices=2).reasons[0]


@pytest.mark.parametrize(
    ("word", "kind", "devices"), [("ddp", ExactDDPStrategy, 2), ("fsdp", ShardedStrategy, 2), ("fsdp+tp", ShardedStrategy, 4)]
)
def test_a_word_is_obeyed(word: str, kind: type, devices: int) -> None:
    found = of(strategy=word, devices=devices)
    assert type(found.options["strategy"]) is kind
    assert found.reasons == [f"strategy {word}: as asked, over {devices} devices"]


def test_lightnings_own_words_and_objects_are_passed_on() -> None:
    assert "strategy" not in of(strategy="ddp_spawn", devices=2).options
    assert "strategy" not in of(strategy=ShardedStrategy(), devices=2).options
    with pytest.raises(ValueError, match=r"no strategy 'dpp'\. Did you mean 'ddp'"):
        of(strategy="dpp", devices=2)


def test_how_long_a_silent_process_is_waited_for_reaches_the_strategy() -> None:
    for word in ("ddp", "fsdp"):
        found = spread({"accelerator": "cpu", "devices": 2, "strategy": word}, small(), Data(), timeout_minutes=0.5)
        assert found.options["strategy"]._timeout.total_seconds() == 30


def test_precision_auto_is_chosen_with_the_reason_and_others_are_checked() -> None:
    found = of(precision="auto")
    assert found.options == {"precision": "bf16-mixed"}
    assert found.reasons == ["precision bf16-mixed: CPU multiplies bfloat16 in hardware; weights stay in 32 bits"]
    assert of(precision="bf16-true").options == {}
    with pytest.raises(ValueError, match="16-mixed needs a GPU"):
        of(precision="16-mixed")


@pytest.mark.parametrize(("devices", "count"), [(3, 3), ("2", 2), ("auto", 1), (-1, 1), ("-1", 1), ([0, 1], 2), ("0,2", 2), (None, 1)])
def test_devices_are_counted_as_lightning_counts_them(devices: Any, count: int) -> None:
    assert count_of(devices, "cpu") == count


def test_what_torchrun_started_says_itself_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    found = of(devices="auto")
    assert (found.local, found.nodes) == (2, 3)
    assert (found.options["devices"], found.options["num_nodes"]) == (2, 3)


def test_what_slurm_started_too_but_not_its_shell() -> None:
    job = {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_JOB_NAME": "train"}
    assert started_from_outside(job) == (4, 2)
    assert started_from_outside({**job, "SLURM_JOB_NAME": "bash"}) is None
    assert started_from_outside({}) is None


def test_devices_that_are_not_known_here_are_left_to_lightning() -> None:
    assert kind_of("cpu") == "cpu"
    assert kind_of("tpu") == "tpu"
    assert spread({"accelerator": "tpu", "devices": 8, "strategy": "auto"}, small()).options == {}


def test_a_network_that_cannot_be_split_is_refused_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="Recurrent declares no tensor_parallel_plan"):
        of(MusicModule(Recurrent(40)), strategy="tp", devices=2)
    with pytest.raises(ValueError, match="4 heads cannot be dealt out to 3 devices"):
        of(strategy="tp", devices=3)


def test_buffers_are_sent_around_only_where_training_changes_them() -> None:
    assert of(strategy="ddp", devices=2).options["strategy"]._ddp_kwargs["broadcast_buffers"] is False
    with_mean = MusicModule(nn.Sequential(nn.Embedding(40, 40), nn.BatchNorm1d(8)))
    assert of(with_mean, strategy="ddp", devices=2).options["strategy"]._ddp_kwargs["broadcast_buffers"] is True
