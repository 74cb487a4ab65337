"""Groups of pieces become the splits train, valid and test; a group is never divided."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence

SPLITS = ("train", "valid", "test")
Fractions = tuple[float, float, float]


def check_fractions(fractions: Sequence[float]) -> Fractions:
    """The shares of train, valid and test, made to sum to 1.

    Raises:
        ValueError: unless they are three numbers, none negative, the first positive, with the sum 1 (within 0.001).
    """
    values = tuple(float(value) for value in fractions)
    if len(values) != 3 or min(values) < 0 or values[0] <= 0 or not abs(sum(values) - 1) <= 1e-3:  # nan is no share either
        expected = "three shares of train, valid and test that sum to 1, such as (0.8, 0.1, 0.1), train's above 0"
        raise ValueError(f"splits={tuple(fractions)}, expected {expected}.")
    return (values[0] / sum(values), values[1] / sum(values), values[2] / sum(values))


def assign_splits(groups: Sequence[str], fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> list[str]:
    """The split of every piece, from the name of its group.

    The groups are shuffled by a hash of the seed and their name, then dealt: to test while there is room, to valid while there is
    room, the rest to train. So splits depend on nothing but seed and names, a split misses its share by less than one group, and a
    further piece in the corpus moves few others. A split with a share above 0 gets at least one group if there are enough groups.

    >>> assign_splits(["a", "a", "b", "c"], (0.5, 0.25, 0.25))
    ['train', 'train', 'test', 'valid']
    """
    share = dict(zip(SPLITS, check_fractions(fractions), strict=True))
    sizes = Counter(groups)
    shuffled = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest())
    split_of: dict[str, str] = {}
    for split in ("test", "valid"):
        left = [name for name in shuffled if name not in split_of]
        split_of |= dict.fromkeys(_dealt(left, sizes, share[split] * len(groups)), split)
    return [split_of.get(name, "train") for name in groups]


def _dealt(names: list[str], sizes: Mapping[str, int], room: float) -> list[str]:
    """The groups, in order, that fit into ``room`` pieces; the smallest if none fits, as long as another one is left over."""
    if room <= 0 or len(names) < 2:
        return []
    taken: list[str] = []
    for name in names:
        if sizes[name] <= room + 0.5:
            taken.append(name)
            room -= sizes[name]
    return taken[: len(names) - 1] or [min(names, key=lambda name: sizes[name])]
