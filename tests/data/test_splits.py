"""Splits are dealt by group, near the shares asked for, from seed and names alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from musictrain.data.splits import SPLITS, assign_splits, check_fractions

NAMES = [f"group {number}" for number in range(100) for _ in range(1 + number % 3)]


def test_no_group_stands_in_two_splits_and_every_share_is_near() -> None:
    for seed in range(20):
        splits = assign_splits(NAMES, (0.7, 0.2, 0.1), seed)
        assert len({*zip(NAMES, splits, strict=True)}) == 100
        counts = Counter(splits)
        for split, share in zip(SPLITS, (0.7, 0.2, 0.1), strict=True):
            assert abs(counts[split] - share * len(NAMES)) <= 3


def test_the_order_of_the_pieces_does_not_matter_and_the_seed_does() -> None:
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    assert dict(zip(shuffled, assign_splits(shuffled), strict=True)) == dict(zip(NAMES, assign_splits(NAMES), strict=True))
    assert assign_splits(NAMES, seed=1) != assign_splits(NAMES, seed=2)


def test_one_more_piece_moves_few_others() -> None:
    before, after = assign_splits(NAMES), assign_splits([*NAMES, "a new one"])
    assert sum(one != other for one, other in zip(before, after, strict=False)) <= 6


def test_a_huge_group_goes_to_train_and_leaves_the_others_their_shares() -> None:
    names = ["huge"] * 70 + [f"small {number}" for number in range(30)]
    splits = dict(zip(names, assign_splits(names), strict=True))
    assert splits["huge"] == "train"
    assert Counter(splits.values()) == {"train": 11, "valid": 10, "test": 10}


def test_a_share_above_zero_gets_a_group_if_there_are_enough() -> None:
    assert sorted(assign_splits(["a", "b", "c"])) == ["test", "train", "valid"]
    assert Counter(assign_splits(["a"] * 5 + ["b"] * 5 + ["c"] * 5))["valid"] == 5
    assert assign_splits(["a", "a"]) == ["train", "train"]
    assert "test" not in assign_splits(NAMES, (0.5, 0.5, 0.0))


def test_train_is_never_empty() -> None:
    assert "train" in assign_splits(["a", "b"], (0.01, 0.495, 0.495))
    assert "train" in assign_splits(["a", "b", "c", "d"], (0.001, 0.4995, 0.4995))


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5), (float("nan"), 0.5, 0.5)])
def test_shares_that_are_none_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected three shares of train, valid and test that sum to 1"):
        check_fractions(shares)
