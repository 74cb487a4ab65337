"""Which runs a run came from, and how. ``lineage.json`` in the run folder is the truth; who came from it, the index knows."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

from musictrain.runs.atomic import atomic_write
from musictrain.runs.folder import RunFolder
from musictrain.runs.one_at_a_time import one_at_a_time
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)

RELATIONS = {
    "resumed from": "goes on with a checkpoint of the other run: weights, optimizer, place in the data",
    "started from": "began with the weights of the other run",
    "stage of": "is one stage of the other, a protocol of several",
    "distilled from": "learned from the other run's outputs",
    "trial of": "is one trial of the other, a search",
}


@dataclass(frozen=True)
class Parent:
    """One line of descent.

    Args:
        relation: one of ``RELATIONS``.
        run: name of the other run.
        version: name of its checkpoint, if one was taken.
        step: of that checkpoint, in optimizer steps.
    """

    relation: str
    run: str
    version: str | None = None
    step: int | None = None

    def sentence(self) -> str:
        """Such as ``started from 2025-01-01_100000-a-calm-fugue, v000003_step000450``."""
        at = self.version or (f"step {self.step:,}" if self.step is not None else "")
        return f"{self.relation} {self.run}" + (f", {at}" if at else "")


def add_parent(run: RunFolder, relation: str, parent: str | RunFolder, version: str | None = None, step: int | None = None) -> Parent:
    """Write down that ``run`` came from ``parent``; the same twice is written once.

    Raises:
        ValueError: if there is no such relation, or the run would be its own parent.
        OSError: if the run folder cannot be written.
    """
    if relation not in RELATIONS:
        hint = did_you_mean(relation, RELATIONS) or f"There are: {', '.join(RELATIONS)}."
        raise ValueError(f"A run cannot be {relation!r} another. {hint}")
    name = parent.name if isinstance(parent, RunFolder) else parent
    if name == run.name:
        raise ValueError(f"Run {name} cannot be {relation} itself: a resume within a run is an event, not a parent.")
    new = Parent(relation, name, version, step)
    with one_at_a_time(run.lineage):
        parents = parents_of(run)
        if new not in parents:
            atomic_write(run.lineage, json.dumps([asdict(each) for each in [*parents, new]], indent=1) + "\n")
    return new


def parents_of(run: RunFolder) -> list[Parent]:
    """The runs that ``run`` came from, in the order in which they were written down; none if nothing is."""
    try:
        told = json.loads(run.lineage.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.warning("%s cannot be understood, so the run is shown without its parents: %s", run.lineage, error)
        return []
    return [parent for each in (told if isinstance(told, list) else []) if (parent := _parent(each)) is not None]


def _parent(told: Any) -> Parent | None:
    if not isinstance(told, dict) or not isinstance(told.get("relation"), str) or not isinstance(told.get("run"), str):
        return None
    version, step = told.get("version"), told.get("step")
    return Parent(told["relation"], told["run"], version if isinstance(version, str) else None, step if isinstance(step, int) else None)
