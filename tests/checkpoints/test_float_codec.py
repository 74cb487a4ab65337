"""Words of floating-point numbers, packed and unpacked: the same words, whatever they are; damage is noticed, or changes numbers only."""

from __future__ import annotations

import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from musictrain.checkpoints.float_codec import BLOCK, HEADER_BYTES, CodecError, packed_words, unpack_words

KINDS = {2: np.float16, 4: np.float32, 8: np.float64}
Words = NDArray[np.unsignedinteger[Any]]


def weights(number: int, size: int = 4, seed: int = 0) -> Words:
    """Words of normally distributed numbers."""
    return np.random.default_rng(seed).normal(0, 0.02, number).astype(KINDS[size]).view(f"u{size}")


def noise(number: int, size: int, seed: int = 0) -> Words:
    """Words of random bits: every kind of nan, infinity, denormal and zero."""
    return np.frombuffer(np.random.default_rng(seed).bytes(number * size), f"u{size}")


def there_and_back(words: Words) -> Words:
    unpacked = np.full_like(words, 123)
    unpack_words(packed_words(words), unpacked)
    return unpacked


@pytest.mark.parametrize("size", KINDS)
@pytest.mark.parametrize("number", [0, 1, 2, 7, 8, 9, 1000, BLOCK, BLOCK + 1, 2 * BLOCK + 17])
def test_words_come_back(size: int, number: int) -> None:
    for words in (weights(number, size), noise(number, size)):
        assert np.array_equal(there_and_back(words), words)


@pytest.mark.parametrize("size", KINDS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf"), 6e-8, 1e-320])
def test_one_number_all_over_comes_back(size: int, value: float) -> None:
    words = np.full(5000, value, KINDS[size]).view(f"u{size}")
    assert np.array_equal(there_and_back(words), words)
    assert len(packed_words(words)) < words.nbytes / 3


@pytest.mark.parametrize("size", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99, 0.9999])
def test_zeros_in_between_come_back_and_do_not_cost_much(size: int, share: float) -> None:
    words = weights(20_000, size).copy()
    words[np.random.default_rng(1).random(len(words)) < share] = 0
    assert np.array_equal(there_and_back(words), words)
    assert len(packed_words(words)) < (1 - share) * words.nbytes + len(words) / 8 + 300


def test_every_word_of_two_bytes_comes_back() -> None:
    words = np.arange(2**16, dtype=np.uint16)
    assert np.array_equal(there_and_back(words), words)
    assert np.array_equal(there_and_back(words & 0x7FFF), words & 0x7FFF)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), max_size=70), st.integers(0, 40))
def test_any_few_numbers_come_back(numbers: list[float], zeros: int) -> None:
    words = np.array([*numbers, *[0.0] * zeros], np.float32).view(np.uint32)
    assert np.array_equal(there_and_back(words), words)


def test_normal_weights_become_a_sixth_smaller_and_those_of_two_bytes_a_third() -> None:
    words = weights(BLOCK)
    assert words.nbytes / len(packed_words(words)) > 1.19
    bfloat16 = (words >> 16).astype(np.uint16)
    assert bfloat16.nbytes / len(packed_words(bfloat16)) > 1.5


def test_where_all_signs_are_plus_they_cost_nothing() -> None:
    words = weights(BLOCK)
    saved = len(packed_words(words)) - len(packed_words(words & 0x7FFFFFFF))
    assert saved == pytest.approx(BLOCK / 8, rel=0.01)


def test_numbers_that_were_rounded_to_half_their_bits_cost_half() -> None:
    words = weights(BLOCK)
    assert len(packed_words(words & 0xFFFF0000)) < len(packed_words(words)) / 2


@pytest.mark.parametrize("size", KINDS)
def test_noise_hardly_grows(size: int) -> None:
    words = noise(BLOCK, size)
    assert len(packed_words(words)) < 1.02 * words.nbytes


def test_every_truncation_is_refused() -> None:
    words = weights(1024)
    packed = packed_words(words)
    for length in range(len(packed)):
        with pytest.raises(CodecError, match=r"ends after|a section"):
            unpack_words(packed[:length], np.empty_like(words))


def test_more_bytes_or_fewer_words_are_refused() -> None:
    words = weights(1024)
    packed = packed_words(words)
    with pytest.raises(CodecError, match="1 bytes follow"):
        unpack_words(np.append(packed, np.uint8(0)), np.empty_like(words))
    for number in (0, 1, 1023, 1026):
        with pytest.raises(CodecError, match=r"follow|a section"):
            unpack_words(packed, np.empty(number, np.uint32))


def test_sections_nobody_asked_for_are_refused() -> None:
    packed = packed_words(weights(1024)).copy()
    packed[2 + 4 * 5] = 1  # the size of a sixth section, which words of four bytes never have
    with pytest.raises(CodecError, match="nobody asked for"):
        unpack_words(packed, np.empty(1024, np.uint32))


def test_every_changed_bit_is_refused_or_changes_numbers_and_nothing_else_happens() -> None:
    words = weights(600)
    packed, unpacked = packed_words(words), np.empty_like(words)
    outcomes = {"refused": 0, "changed": 0}
    for bit in range(8 * len(packed)):
        damaged = packed.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            unpack_words(damaged, unpacked)
            outcomes["changed"] += 1
        except CodecError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 0


def test_every_changed_byte_in_what_zlib_packed_is_refused() -> None:
    words = weights(1024)
    packed = packed_words(words)
    pairs_size = int.from_bytes(packed[2:6].tobytes(), "little")
    assert pairs_size < 512
    for position in range(HEADER_BYTES, HEADER_BYTES + pairs_size):
        damaged = packed.copy()
        damaged[position] ^= 0xFF
        with pytest.raises(CodecError, match="a section"):
            unpack_words(damaged, np.empty_like(words))


def test_a_section_that_could_be_shorter_is_refused() -> None:
    words = weights(1024)
    packed = packed_words(words)
    end = HEADER_BYTES + int.from_bytes(packed[2:6].tobytes(), "little")
    pairs = packed[HEADER_BYTES:end].tobytes()
    followed, not_smaller = pairs + b"x", zlib.compress(zlib.decompress(pairs), 0)
    for section, reason in ((followed, "does not unpack to 512 bytes"), (not_smaller, "claims 523 bytes; its plain bytes are 512")):
        header = packed[:2].tobytes() + len(section).to_bytes(4, "little") + packed[6:HEADER_BYTES].tobytes()
        with pytest.raises(CodecError, match=reason):
            unpack_words(np.frombuffer(header + section + packed[end:].tobytes(), np.uint8), np.empty_like(words))


def test_a_bomb_is_refused_before_it_fills_the_memory() -> None:
    bomb = zlib.compress(bytes(2**24))
    header = packed_words(weights(2**17))[:HEADER_BYTES].copy()
    header[2:6] = np.frombuffer(len(bomb).to_bytes(4, "little"), np.uint8)
    packed, words = np.concatenate([header, np.frombuffer(bomb, np.uint8)]), np.empty(2**17, np.uint32)
    tracemalloc.start()
    with pytest.raises(CodecError, match=r"does not unpack to 65,536 bytes"):
        unpack_words(packed, words)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**19
