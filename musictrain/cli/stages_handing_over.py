"""What a stage begins with: versions of earlier stages, chosen once and written down, so that a second start takes the same ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from musictrain.checkpoints.catalog import Version, list_versions
from musictrain.cli.exits import FINISHED, CommandError
from musictrain.cli.version_choice import version_of
from musictrain.runs import RunFolder
from musictrain.runs.names import new_run_name
from musictrain.stages.folder import ProtocolFolder
from musictrain.stages.protocol import HandOver
from musictrain.stages.references import references_in
from musictrain.stages.resolving import Resolved
from musictrain.stages.state import Record, State

AVERAGED = ("full", "sharded", "weights")
FEWEST = 2
Run = Callable[[Sequence[str]], int]
"""Runs one of musictrain's commands in a process, and gives back its exit status."""


def begun_record(folder: ProtocolFolder, resolved: Resolved, state: State, run: Run) -> Record | None:
    """The record of a stage that is about to begin: its run's name, and what it takes over; None if an average could not be made.

    Raises:
        CommandError, UsageError: if a stage before it has no version to give.
    """
    stage = resolved.stage
    references = {}
    for found in references_in(resolved.config):
        giver = run_of(folder, state, found.stage)
        references[f"{found.stage}@{found.version}"] = called(giver, version_of(giver, found.version))
    started_from = ""
    if stage.hand_over is not None:
        giver = run_of(folder, state, stage.hand_over.source)
        path = handed_over(giver, stage.hand_over, run)
        if path is None:
            return None
        started_from = called(giver, path)
    name = new_run_name(f"{folder.name}-{stage.name}")
    return Record(stage.name, name, resolved.told(), began=time.time(), started_from=started_from, references=references)


def run_of(folder: ProtocolFolder, state: State, stage: str) -> RunFolder:
    """The run of an earlier stage.

    Raises:
        CommandError: if its folder is gone.
    """
    record = state.record(stage)
    assert record is not None, f"{stage} has not begun"
    run = folder.run(record.run)
    if not run.path.is_dir():
        raise CommandError(f"The run of stage {stage!r} is gone: {run.path}. Bring it back, or begin that stage anew with --from {stage}.")
    return run


def called(run: RunFolder, version: Path) -> str:
    """How a version is called among the runs.

    >>> called(RunFolder(Path("runs/2025-a")), Path("v000003_step000450.pinned.ckpt"))
    '2025-a@v000003_step000450'
    """
    return f"{run.name}@{version.name.partition('.')[0]}"


def handed_over(run: RunFolder, over: HandOver, command: Run) -> Path | None:
    """The version that is taken over; an average is made now, unless it was made before; None if that failed."""
    if over.version != "average":
        return version_of(run, over.version)
    chosen = to_average(run, over.of)
    if len(chosen) < FEWEST:
        print(f"Of {run.name} there are not {FEWEST} versions to average: its last one is taken.", flush=True)
        return version_of(run, "last")
    if (made := average_of(run, chosen)) is None:
        if command(["checkpoints", "average", str(run.path), "--last", str(len(chosen)), "--runs", str(run.path.parent)]) != FINISHED:
            return None
        made = average_of(run, chosen)
    return made


def to_average(run: RunFolder, most: int) -> list[Version]:
    """The last healthy versions with full weights, as ``checkpoints average --last`` chooses them, oldest first."""
    fit = [
        each
        for each in list_versions(run.checkpoints)
        if each.seal is not None and each.good and not each.thin and each.seal.kind in AVERAGED
    ]
    return sorted(fit, key=lambda version: (version.step, version.number))[-most:]


def average_of(run: RunFolder, chosen: Sequence[Version]) -> Path | None:
    """An average of just these that is there already."""
    names = {version.name for version in chosen}
    for version in list_versions(run.checkpoints):
        if version.seal is not None and version.seal.kind == "average" and set(version.seal.sources) == names:
            return version.path
    return None


def words_of_hand_over(over: HandOver | None, started_from: str) -> list[str]:
    """What ``fit`` is told of it."""
    if over is None:
        return []
    optimizer = ["--init_optimizer", "true"] if over.optimizer else []
    return ["--init_from", started_from, "--init_vocabulary", over.vocabulary, *optimizer]
