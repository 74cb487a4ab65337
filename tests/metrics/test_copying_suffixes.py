"""Sorted suffixes: the order is alphabetical, and the longest shared beginning is what comparing everything with everything finds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from musictrain.metrics.copying_suffixes import BLOCK, longest_prefixes, sorted_suffixes

LETTERS = st.lists(st.integers(1, 3), max_size=40)


def corpus_of(texts: list[list[int]]) -> np.ndarray:
    """The texts, each with an end of its own."""
    return np.array([symbol for number, text in enumerate(texts) for symbol in [*text, 1_000 + number]], np.uint64)


def shared(one: list[int], other: list[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(st.lists(LETTERS, max_size=5))
def test_suffixes_are_in_alphabetical_order(texts: list[list[int]]) -> None:
    symbols = corpus_of(texts)
    expected = sorted(range(len(symbols)), key=lambda start: symbols[start:].tolist())
    assert sorted_suffixes(symbols).tolist() == expected


@given(LETTERS, st.lists(LETTERS, max_size=4), st.sets(st.integers(0, 3)))
def test_the_longest_shared_beginning_is_that_of_all_comparisons(query: list[int], texts: list[list[int]], left_out: set[int]) -> None:
    symbols = corpus_of(texts)
    text_of = np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])
    mask = np.isin(text_of, list(left_out))
    length, where = longest_prefixes(np.array(query, np.uint64), symbols, sorted_suffixes(symbols), mask)
    kept = np.flatnonzero(~mask).tolist()
    for start in range(len(query)):
        expected = max((shared(query[start:], symbols[other:].tolist()) for other in kept), default=0)
        assert length[start] == expected
        assert symbols[where[start] : where[start] + expected].tolist() == query[start : start + expected]
        assert expected == 0 or where[start] in kept


def test_texts_that_repeat_themselves_for_long_are_sorted_and_found() -> None:
    symbols = corpus_of([[7] * 300, [7] * 200, [1, 2] * 5 * BLOCK])
    order = sorted_suffixes(symbols)
    assert sorted(order.tolist()) == list(range(len(symbols)))
    length, where = longest_prefixes(np.array([7] * 250, np.uint64), symbols, order)
    assert length.tolist() == list(range(250, 0, -1))
    assert where[0] + 250 <= 300


def test_nothing_is_found_in_nothing() -> None:
    none = np.zeros(0, np.uint64)
    assert len(sorted_suffixes(none)) == 0
    assert longest_prefixes(np.array([1, 2], np.uint64), none, sorted_suffixes(none))[0].tolist() == [0, 0]
    assert len(longest_prefixes(none, corpus_of([[1]]), sorted_suffixes(corpus_of([[1]])))[0]) == 0
