"""``search``: hyper-parameters by whole runs, begun, interrupted and gone on with by one command."""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from musictrain.checkpoints.lock import FolderInUseError, FolderLock
from musictrain.cli.exits import FAILED, FINISHED, INTERRUPTED, TERMINATED, CommandError, UsageError
from musictrain.cli.search_loading import Loaded, load, write_base, write_definition
from musictrain.cli.search_options import parser
from musictrain.runs.processes import Launch, Slot, launch, passing_on
from musictrain.runs.records import plain
from musictrain.runs.summary import shown
from musictrain.search.eta import cost_of
from musictrain.search.plan import entries_of

LOOK_SECONDS = 0.2
CHECK = "check"
MOST_SHOWN = 20
LAST_LINES = 12
ALL_USED = 100_000  # new objects before Python looks among them


def run(command: str, arguments: list[str]) -> int:
    """Train what is left of a search; gives back the exit status: 0 once nothing is left, 130 or 143 if it was asked to end before.

    Raises:
        UsageError: if it cannot work, before anything is trained.
        CommandError: if another process is at work on it, or it cannot go on.
    """
    options = parser().parse_args(arguments)
    with seldom_collected():
        return _run(options, arguments)


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Within it Python looks less often for what nobody uses: records of many trials are all small, all used, and stay."""
    earlier = gc.get_threshold()
    gc.set_threshold(ALL_USED, *earlier[1:])
    try:
        yield
    finally:
        gc.set_threshold(*earlier)


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    if options.show is not None:
        from musictrain.cli.search_showing import show_search

        return show_search(options.show, options.runs, as_json=options.json)
    loaded = load(options)
    if options.check or ((options.json or options.dry_run) and loaded.unchecked):
        from musictrain.cli import search_checking

        if options.check:
            return search_checking.check(loaded)
        loaded = search_checking.asked(loaded, keep=False)  # whoever only looks leaves nothing behind
    if options.json or options.dry_run:
        print(json.dumps(plain(as_json(loaded)), indent=1) if options.json else "\n".join(plan_lines(loaded)))
        return FINISHED
    return drive(loaded, options, arguments)


def drive(loaded: Loaded, options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Hold the search's folder, and train.

    Raises:
        UsageError: for what only ``fit`` can tell.
        CommandError: if somebody else holds it, or it cannot be written.
    """
    lock, runs = FolderLock(loaded.folder.path), loaded.folder.path.parent
    new = [path for path in (loaded.folder.path, runs) if not path.exists()]
    try:
        loaded.folder.path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except FolderInUseError as error:
        raise CommandError(f"Somebody else is at work on the search {loaded.folder.name!r}. {str(error).partition(': ')[0]}.") from error
    except OSError as error:
        raise CommandError(f"{loaded.folder.path} cannot be written: {error.strerror or error}") from error
    try:
        try:
            loaded = known(loaded, options, arguments)
        except UsageError:
            leave_nothing(new)
            raise
        return train(loaded, options)
    finally:
        lock.release()


def leave_nothing(new: Sequence[Path]) -> None:
    """Take away the folder of a search that cannot be meant, and that of the runs if there was none before."""
    if not new:
        return
    shutil.rmtree(new[0], ignore_errors=True)
    for runs in new[1:]:
        with suppress(OSError):  # others have begun there
            runs.rmdir()


def train(loaded: Loaded, options: argparse.Namespace) -> int:
    """All rounds that are left.

    Raises:
        CommandError: if it cannot go on.
    """
    from musictrain.cli.search_driving import Driver, Trials
    from musictrain.cli.search_telling import Told
    from musictrain.cli.search_workers import cluster_workers, local_workers

    print("\n".join(plan_lines(loaded, most=0)), flush=True)
    try:
        write_definition(loaded)
    except OSError as error:
        raise CommandError(f"{loaded.folder.definition} cannot be written: {error.strerror or error}") from error
    with cluster_workers(options.cluster) if options.cluster else nullcontext(local_workers(loaded.definition.slots)) as work:
        trials = Trials(
            replace(loaded.definition, slots=work.slots),  # as many as the cluster has, for all that is reckoned with them
            loaded.folder,
            loaded.planned,
            lambda job: loaded.words(job.identity, job.point, job.seed),
            loaded.last_step,
        )
        return Driver(trials, work, Told(trials)).run(retry_failed=options.retry_failed)


# What only fit can tell.


def known(loaded: Loaded, options: argparse.Namespace, arguments: Sequence[str], start: Launch | None = None) -> Loaded:
    """The search with everything that ``fit`` says of it, which is asked in a process that ends again unless it has said it before.

    Raises:
        UsageError: if ``fit`` cannot read the configuration, as it says it.
        CommandError: if it was asked to end, or the folder cannot be written.
    """
    if not loaded.unchecked:
        return loaded
    try:
        loaded.folder.logs.mkdir(parents=True, exist_ok=True)
        loaded.folder.running.mkdir(parents=True, exist_ok=True)
        write_base(loaded)
        status, said = asked(loaded, [*arguments, "--check"], start or launch)
    except OSError as error:
        raise CommandError(f"{loaded.folder.path} cannot be written: {error.strerror or error}") from error
    if status in (INTERRUPTED, TERMINATED) or status < 0:
        raise CommandError("Interrupted before anything was trained. The same command begins again.")
    if status != FINISHED:
        errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
        what = errors[-1] if errors else "\n".join([*said[-LAST_LINES:], f"(all of it: {shown(loaded.folder.logs / f'{CHECK}.log')})"])
        raise (CommandError if status == FAILED else UsageError)(what)
    checked = load(options)
    if checked.unchecked:
        raise CommandError("fit has read the configuration of the search, and what it said could not be kept. Is the disk full?")
    return checked


def asked(loaded: Loaded, arguments: Sequence[str], start: Launch) -> tuple[int, list[str]]:
    """Let ``search --check`` read every point's configuration; gives back its exit status and what it has printed."""
    slot, log = Slot(loaded.folder.running / CHECK), loaded.folder.logs / f"{CHECK}.log"
    with passing_on() as signals:
        try:
            while (descriptor := slot.take()) is None and signals.asked is None:  # one that outlived its driver
                time.sleep(LOOK_SECONDS)
            if descriptor is None:
                return TERMINATED, []
            began = log.stat().st_size if log.exists() else 0
            process = start(["search", *arguments], log, {}, descriptor)
            slot.give(process.pid)
            signals.pid = process.pid
            while (status := process.poll()) is None:
                time.sleep(LOOK_SECONDS)
            return status, log.read_bytes()[began:].decode(errors="replace").splitlines()
        finally:
            signals.pid = None
            slot.give()


# What it is.


def plan_lines(loaded: Loaded, most: int = MOST_SHOWN) -> list[str]:
    """What is tried, how it is judged, what it costs, and the first points."""
    definition = loaded.definition
    entries = entries_of(loaded.planned)
    cost, impossible = cost_of(definition, len(entries)), sum(bool(trial.error) for trial in loaded.planned)
    rungs = " -> ".join(f"{step:,}" for step in definition.rule.rungs)
    lines = [
        f"search    {definition.name}, in {shown(loaded.folder.path)}",
        f"tries     {len(entries):,} points with {len(definition.seeds):,} seed{'s' if len(definition.seeds) != 1 else ''}: {cost.words()}",
        f"judges    {', '.join(each.words() for each in definition.objectives)}; {definition.rule.name} over {rungs} steps",
        *(f"          {note}" for note in loaded.notes),
    ]
    lines += [f"          {impossible:,} of the trials cannot be, and count as failed"] if impossible else []
    lines += [f"  {each.point.words()}" for each in entries[:most]]
    return [*lines, *([f"  and {len(entries) - most:,} more"] if 0 < most < len(entries) else [])]


def as_json(loaded: Loaded) -> dict[str, Any]:
    """The same for programs."""
    cost = cost_of(loaded.definition, len(entries_of(loaded.planned)))
    trials = [
        {"point": dict(each.point.values), "seed": each.seed, "identity": each.identity, "error": each.error} for each in loaded.planned
    ]
    facts = {"folder": str(loaded.folder.path), "steps": cost.steps, "notes": list(loaded.notes), "trials": trials}
    return {"search": loaded.definition.told(), **facts}
