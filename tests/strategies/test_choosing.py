"""Which strategy `auto` stands for, and what the words mean."""

from __future__ import annotations

from dataclasses import replace

import pytest

from musictrain.strategies.choosing import WORDS, Situation, check_word, choose, tensor_parallel_size_of

GIB = 2**30
SMALL = Situation(devices=4, parameters=5_000_000, memory_bytes=12 * GIB, rows=16, tensor_parallel_sizes=(2, 4))


def test_one_device_needs_no_strategy() -> None:
    assert choose(replace(SMALL, devices=1, parameters=10**12)).word == "one"


def test_what_fits_into_each_device_is_trained_by_ddp() -> None:
    choice = choose(SMALL)
    assert (choice.word, choice.tensor_parallel_size) == ("ddp", 1)
    assert "5.0 M parameters" in choice.reason
    assert "12.0 GiB" in choice.reason


def test_what_takes_more_than_half_a_device_lies_in_shares() -> None:
    # 16 bytes a parameter: 400 M take 6.0 GiB, just under half of 12.
    assert choose(replace(SMALL, parameters=400_000_000)).word == "ddp"
    choice = choose(replace(SMALL, parameters=405_000_000))
    assert choice.word == "fsdp"
    assert "over half of the 12.0 GiB" in choice.reason


def test_where_memory_is_not_known_nothing_is_shared_out() -> None:
    assert choose(replace(SMALL, parameters=10**12, memory_bytes=None)).word == "ddp"


@pytest.mark.parametrize(("rows", "word", "size"), [(2, "fsdp+tp", 2), (6, "fsdp+tp", 2), (3, "tp", 4), (8, "ddp", 1)])
def test_rows_that_cannot_be_dealt_out_are_shared(rows: int, word: str, size: int) -> None:
    choice = choose(replace(SMALL, rows=rows))
    assert (choice.word, choice.tensor_parallel_size) == (word, size)


def test_rows_are_shared_within_a_node_only() -> None:
    two_nodes = replace(SMALL, nodes=2, rows=2)
    assert choose(two_nodes).tensor_parallel_size == 2
    # Rows for one group of four would join two nodes: the data module refuses such a batch later, with its own words.
    assert choose(replace(two_nodes, rows=1)).word == "ddp"


def test_a_network_that_cannot_be_split_is_not() -> None:
    assert choose(replace(SMALL, rows=2, tensor_parallel_sizes=())).word == "ddp"


@pytest.mark.parametrize(
    ("word", "devices", "nodes", "size"), [("ddp", 4, 1, 1), ("fsdp", 4, 1, 1), ("tp", 4, 1, 4), ("fsdp+tp", 4, 1, 2), ("fsdp+tp", 8, 2, 4)]
)
def test_a_word_says_how_many_share_rows(word: str, devices: int, nodes: int, size: int) -> None:
    assert tensor_parallel_size_of(word, Situation(devices=devices, nodes=nodes)) == size


@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (3, 1), (1, 1), (2, 2)])
def test_two_ways_at_once_need_four_devices(devices: int, nodes: int) -> None:
    with pytest.raises(ValueError, match=r"fsdp\+tp needs at least 4 devices"):
        tensor_parallel_size_of("fsdp+tp", Situation(devices=devices, nodes=nodes))


def test_an_unknown_word_is_answered_with_the_nearest() -> None:
    for word in ("auto", *WORDS):
        check_word(word)
    check_word("deepspeed", known=("deepspeed",))
    with pytest.raises(ValueError, match="Did you mean 'fsdp'"):
        check_word("fsd")
    with pytest.raises(ValueError, match="Known are auto, ddp, fsdp, tp"):
        check_word("horovod")
