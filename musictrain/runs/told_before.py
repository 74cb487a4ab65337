"""What a run has told people already of steps that it does again after a resume: nothing is told twice."""

from __future__ import annotations

from musictrain.runs.folder import RunFolder
from musictrain.runs.records import read_records


def told_beyond(run: RunFolder, step: int) -> set[tuple[str, int]]:
    """What was told, and what was recorded as done, of the steps after this one, which are done again: by kind or event, and step.

    Nothing from before the run has last gone back: since then its steps are others.
    """
    events = read_records(run.events)
    since = max((place for place, event in enumerate(events) if event.get("event") == "rolled_back"), default=-1)
    told = set()
    for event in events[since + 1 :]:
        at = event.get("step")
        if isinstance(at, int) and at > step and event.get("event") in ("alert", "skipped", "lr_reduced"):
            told.add((str(event.get("kind") if event["event"] == "alert" else event["event"]), at))
    return told
