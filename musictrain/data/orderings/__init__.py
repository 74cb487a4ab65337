"""How hard each part of a corpus is, in several respects: computed once, kept beside the token store, looked up for every window."""

from musictrain.data.orderings.asked import NOTHING_ASKED, AskedOrderings
from musictrain.data.orderings.computing import ORDERINGS, REFERENCE_LOSS, checked_orderings, difficulty_of
from musictrain.data.orderings.difficulty import Difficulty
from musictrain.data.orderings.stretches import Ordering, Stretches, TargetSums

__all__ = [
    "NOTHING_ASKED",
    "ORDERINGS",
    "REFERENCE_LOSS",
    "AskedOrderings",
    "Difficulty",
    "Ordering",
    "Stretches",
    "TargetSums",
    "checked_orderings",
    "difficulty_of",
]
