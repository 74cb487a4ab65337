"""Every passage of a corpus in alphabetical order, and the longest beginning that a piece shares with any of them.

Conventions: a corpus is one long array of *symbols* (uint64, none of them 0), one text after the other; the last symbol of each text is
its own and occurs nowhere else, so that nothing matches across two texts. The *suffix* i is what stands from symbol i on. Sorted
suffixes answer for every length at once what a table of hashes answers for one.

Source: suffix arrays (Manber & Myers, 1993), sorted by doubling the compared length for what is still tied (Larsson & Sadakane, 2007).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.uint64]
BLOCK = 8  # symbols compared at a time


def sorted_suffixes(symbols: Symbols) -> NDArray[np.int64]:
    """Where each suffix starts, in alphabetical order, (symbols,): int32 where that is enough.

    Takes about 60 bytes a symbol while it sorts.
    """
    order = np.argsort(symbols)
    in_order = symbols[order]
    is_first = np.append(True, in_order[1:] != in_order[:-1])
    places, rank, compared = np.arange(len(symbols)), np.empty(len(symbols), np.int64), 1
    rank[order] = np.maximum.accumulate(np.where(is_first, places, 0))
    while True:
        # Only what is still tied is sorted again, by the rank of what follows the part compared so far.
        tied = np.flatnonzero(~(is_first & np.append(is_first[1:], True)))
        if not len(tied):
            return order.astype(np.int32 if len(order) < 2**31 else np.int64)
        suffix = order[tied]
        following = suffix + compared
        key = rank[suffix] * (len(symbols) + 1) + np.where(following < len(symbols), rank[np.minimum(following, len(symbols) - 1)] + 1, 0)
        by_key = np.argsort(key)
        suffix, key = suffix[by_key], key[by_key]
        new_first = np.append(True, key[1:] != key[:-1])
        order[tied], is_first[tied] = suffix, new_first
        rank[suffix] = np.maximum.accumulate(np.where(new_first, tied, 0))
        compared *= 2


def longest_prefixes(
    query: Symbols, symbols: Symbols, order: NDArray[np.int64], left_out: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every suffix of ``query`` how many of its first symbols stand in the corpus together, and where: two arrays (query,).

    Args:
        query: symbols, none of them 0.
        symbols, order: the corpus and its sorted suffixes.
        left_out: symbols of the corpus where no match may begin, (symbols,), or None.
    """
    if not len(query) or not len(symbols):
        return np.zeros(len(query), np.int64), np.zeros(len(query), np.int64)
    above = _insertion_points(query, symbols, order)
    best, where = np.zeros(len(query), np.int64), np.zeros(len(query), np.int64)
    for neighbour, step in ((above - 1, -1), (above, 1)):
        neighbour, inside = _nearest_kept(neighbour, step, order, left_out)
        suffix = np.asarray(order[np.where(inside, neighbour, 0)], np.int64)
        shared = np.where(inside, _shared(query, symbols, suffix)[0], 0)
        where = np.where(shared > best, suffix, where)
        best = np.maximum(best, shared)
    return best, where


def _insertion_points(query: Symbols, symbols: Symbols, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many suffixes of the corpus come before each suffix of the query."""
    low, high = np.zeros(len(query), np.int64), np.full(len(query), len(order))
    for _ in range(len(order).bit_length()):
        middle = np.minimum((low + high) // 2, len(order) - 1)
        later = _shared(query, symbols, np.asarray(order[middle], np.int64))[1] & (low < high)
        low, high = np.where(later, middle + 1, low), np.where(later | (low >= high), high, middle)
    return low


def _nearest_kept(
    neighbour: NDArray[np.int64], step: int, order: NDArray[np.int64], left_out: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The next place in the order that is not left out, and whether there is one."""
    while True:
        inside = (neighbour >= 0) & (neighbour < len(order))
        if left_out is None:
            return neighbour, inside
        move = inside & left_out[order[np.where(inside, neighbour, 0)]]
        if not move.any():
            return neighbour, inside
        neighbour = neighbour + step * move


def _shared(query: Symbols, symbols: Symbols, suffix: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For suffix i of the query and one of the corpus: how many symbols they share, and whether the query's comes later."""
    padded = np.append(query, np.zeros(BLOCK, np.uint64))  # 0 is no symbol: the query's end differs from everything
    shared, later = np.zeros(len(query), np.int64), np.zeros(len(query), bool)
    active, block = np.arange(len(query)), np.arange(BLOCK)
    while len(active):
        ours = padded[np.minimum((active + shared[active])[:, None] + block, len(padded) - 1)]
        theirs = symbols[np.minimum((suffix[active] + shared[active])[:, None] + block, len(symbols) - 1)]
        differs = ours != theirs
        first, resolved = differs.argmax(1), differs.any(1)
        rows = np.arange(len(active))
        shared[active] += np.where(resolved, first, BLOCK)
        later[active] = ours[rows, first] > theirs[rows, first]
        active = active[~resolved]
    return shared, later
