"""A driver whose stages are no fits: each answers at once with the exit status that the test wants, and leaves what a run would."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from musictrain.runs import RunFolder
from musictrain.runs.status import Status

Ends = Callable[["FakeFits", list[str]], int]


@dataclass
class Ended:
    """A process that has ended."""

    status: int
    pid: int = 2**22 + 1

    def poll(self) -> int:
        return self.status


@dataclass
class FakeFits:
    """In place of ``launch``.

    Args:
        ends: gives back the exit status of each start of a stage; 0 if left out.
    """

    ends: Ends = lambda fits, words: 0
    started: list[list[str]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def __call__(self, words: Sequence[str], log: Path, variables: Mapping[str, str], descriptor: int) -> Ended:
        if words[0] == "stages":
            return Ended(0)
        assert os.fstat(descriptor), "it inherits the lock"
        self.started.append(list(words))
        run = RunFolder(Path(variables["MUSICTRAIN_RUN_FOLDER"]) if words[0] == "fit" else Path(words[1]))
        self.folders.append(run.name)
        run.config.write_text("{}")
        with log.open("a") as out:
            out.write(f"said by {run.name}\nstep 1/2\n")
        status = self.ends(self, list(words))
        state = {0: "finished", 3: "stopped"}.get(status, "failed")
        run.status.write_text(
            Status(run.name, state=state, step=10, total=10, by_guard=status == 3, reason="copies" if status == 3 else "").as_json()
        )
        return Ended(status)


def write_protocol(folder: Path, *stages: Mapping[str, Any], **more: Any) -> Path:
    """A protocol of stages without hand-overs, of ten steps unless said otherwise."""
    base = {"extends": "base.yaml", "budget": {"steps": 10}, "hand_over": "nothing"}
    (folder / "base.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"width": 3}}, "data": {"init_args": {"corpus": "x"}}}))
    told = {"name": "small", "stages": [{"name": "abc"[place], **base, **stage} for place, stage in enumerate(stages)], **more}
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump(told, sort_keys=False))
    return path
