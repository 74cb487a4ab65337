"""One step of a run done again: which music it read, how well each token was foretold, what its gradients were, to be heard and seen."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musictrain.replay.chosen import Attempt, Recorded, ReplayError, attempts_of, recorded_until
    from musictrain.replay.following import FollowStep, ReadVersions
    from musictrain.replay.found import Layer, NotFinite, Replayed, StepTrace, WorkedBatch
    from musictrain.replay.row_music import Part, RowMusic, music_of_rows

_HOMES = {
    **dict.fromkeys(("Attempt", "Recorded", "ReplayError", "attempts_of", "recorded_until"), "musictrain.replay.chosen"),
    **dict.fromkeys(("FollowStep", "ReadVersions"), "musictrain.replay.following"),
    **dict.fromkeys(("Layer", "NotFinite", "Replayed", "StepTrace", "WorkedBatch"), "musictrain.replay.found"),
    **dict.fromkeys(("Part", "RowMusic", "music_of_rows"), "musictrain.replay.row_music"),
}

__all__ = [
    "Attempt",
    "FollowStep",
    "Layer",
    "NotFinite",
    "Part",
    "ReadVersions",
    "Recorded",
    "ReplayError",
    "Replayed",
    "RowMusic",
    "StepTrace",
    "WorkedBatch",
    "attempts_of",
    "music_of_rows",
    "recorded_until",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.replay' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
