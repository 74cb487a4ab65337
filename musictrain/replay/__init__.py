"""One step of a run done again: which music it read, how well each token was foretold, what its gradients were, to be heard and seen."""

from musictrain.replay.chosen import Attempt, Recorded, attempts_of, recorded_until
from musictrain.replay.following import FollowStep, ReadVersions
from musictrain.replay.found import Layer, NotFinite, Replayed, StepTrace, WorkedBatch
from musictrain.replay.row_music import Part, RowMusic, music_of_rows

__all__ = [
    "Attempt",
    "FollowStep",
    "Layer",
    "NotFinite",
    "Part",
    "ReadVersions",
    "Recorded",
    "Replayed",
    "RowMusic",
    "StepTrace",
    "WorkedBatch",
    "attempts_of",
    "music_of_rows",
    "recorded_until",
]
