"""``checkpoints average``, ``export``, ``pin``, ``prune`` and ``restore``: what people do with versions by hand."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from musictrain.checkpoints import disk
from musictrain.checkpoints.catalog import Version, list_versions, version_path
from musictrain.checkpoints.lock import FolderInUseError, FolderLock
from musictrain.checkpoints.retention import Decision, Retention, decide
from musictrain.checkpoints.sizes import mib
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from musictrain.cli.checkpoint_looking import file_of
from musictrain.cli.exits import FINISHED, CommandError, UsageError
from musictrain.cli.resume import read_config, value_at
from musictrain.cli.version_choice import version_of
from musictrain.runs import RunFolder, find_run
from musictrain.runs.summary import shown

ASIDE = re.compile(r"(?P<name>v(?P<number>\d{6,})_step\d{6,})(?:\.\w+)*?\.ckpt\.(?:corrupt|abandoned)(?:-\d+)?")


def average_command(options: argparse.Namespace) -> int:
    """Average, and say what came of it."""
    from musictrain.checkpoints.averaging import save_average, select

    run = find_run(options.run, options.runs)
    versions = list_versions(run.checkpoints)
    try:
        chosen = select(
            versions, last=options.last, best=options.best, metric=options.metric, mode=options.mode, steps=options.steps
        )  # fmt: skip
        path = save_average(run.checkpoints, [version.path for version in chosen])
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise CommandError(f"The average could not be stored: {error}") from error
    print(f"{shown(path)}: the mean of {', '.join(version.name for version in chosen)}.")
    print(f"Hear it: musictrain sample {run.name} --ckpt {path.stem}")
    return FINISHED


def export_command(options: argparse.Namespace) -> int:
    """Write the file, and say how large it is."""
    from musictrain.checkpoints.exporting import export

    source = file_of(options)
    try:
        export(source, options.to, weights_only=options.weights_only, dtype=options.dtype, replace=options.replace)
    except FileExistsError as error:
        raise UsageError(f"{options.to} is there already. Say --replace to overwrite it, or choose another name.") from error
    except BrokenCheckpointError as error:
        raise CommandError(str(error)) from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{options.to} could not be written: {error.strerror or error}") from error
    print(f"{shown(options.to)}: {mib(options.to.stat().st_size)}, from {source.name}.")
    return FINISHED


def pin_command(options: argparse.Namespace) -> int:
    """Rename the version so that its name says that it stays, or no longer."""
    run = find_run(options.run, options.runs)
    path = version_of(run, options.version)
    version = next((each for each in list_versions(run.checkpoints) if each.path == path), None)
    if version is None:
        raise UsageError(f"{options.version} is no version of {run.name}.")
    tags = version.tags | {"pinned"} if options.action == "pin" else version.tags - {"pinned"}
    if tags != version.tags:
        try:
            disk.rename(path, version_path(run.checkpoints, version.number, version.step, *tags))
        except OSError as error:
            raise CommandError(f"{version.name} could not be renamed: {error.strerror or error}") from error
    print(f"{version.name} {'stays, whatever the rules say' if 'pinned' in tags else 'is left to the rules'}.")
    return FINISHED


def prune_command(options: argparse.Namespace) -> int:
    """Apply the rules of the run's configuration now, with other numbers if they are given."""
    run = find_run(options.run, options.runs)
    given = {name: getattr(options, name) for name in ("newest", "best") if getattr(options, name) is not None}
    try:
        rules = replace(retention_of(run), **given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    versions = list_versions(run.checkpoints)
    decision = decide(versions, rules)
    if not options.dry_run:
        with owned(run):
            carry_out(decision)
    if options.json:
        print(json.dumps({what: [version.name for version in getattr(decision, what)] for what in ("keep", "thin", "remove")}, indent=2))
    else:
        print("\n".join(told(decision, versions, dry_run=options.dry_run)))
    return FINISHED


def told(decision: Decision, versions: list[Version], *, dry_run: bool) -> list[str]:
    """What becomes of each version and why."""
    fates = {version.path: "keep" for version in decision.keep}
    fates |= {version.path: "thin" for version in decision.thin} | {version.path: "remove" for version in decision.remove}
    lines = [
        f"{fates[version.path]:<7} {version.name}  {mib(version.stored_bytes):>10}  {decision.why(version)}".rstrip()
        for version in versions
    ]
    freed = mib(sum(version.stored_bytes for version in decision.remove))
    verb = "would be removed" if dry_run else "removed"
    return [*lines, f"{len(decision.remove)} of {len(versions)} versions {verb}, {freed}."]


def carry_out(decision: Decision) -> None:
    """Remove and thin.

    Raises:
        CommandError: if the disk refuses; what was done until then stays done.
    """
    try:
        for version in decision.remove:
            disk.remove(version.path)
        for version in decision.thin:
            from musictrain.checkpoints.exporting import thin_version

            thin_version(version)
    except (OSError, ValueError) as error:
        raise CommandError(f"Not everything could be removed: {error}") from error


@contextmanager
def owned(run: RunFolder) -> Iterator[None]:
    """Hold a run's versions, so that nobody trains in between.

    Raises:
        CommandError: if somebody does, or the folder cannot be written.
    """
    lock = FolderLock(run.checkpoints)
    try:
        lock.acquire()
    except (FolderInUseError, OSError) as error:
        raise CommandError(str(error)) from error
    try:
        yield
    finally:
        lock.release()


def retention_of(run: RunFolder) -> Retention:
    """The rules in a run's configuration, the usual ones if it has none."""
    settings = checkpoint_settings(run)
    named = {"newest": "newest", "best": "best", "every_n_steps": "keep_every_n_steps", "every_n_minutes": "keep_every_n_minutes",
             "thin_after": "thin_after"}  # fmt: skip
    rules = {ours: settings[theirs] for ours, theirs in named.items() if settings.get(theirs) is not None}
    monitor = settings.get("monitor", "val/loss")
    metrics = {**({monitor: settings.get("mode", "min")} if monitor else {}), **(settings.get("metrics") or {})}
    return Retention(**rules, metrics=metrics)


def checkpoint_settings(run: RunFolder) -> dict[str, Any]:
    """The arguments of VersionedCheckpoint in a run's configuration, empty if it has the usual one."""
    callbacks = value_at(read_config(run), "trainer.callbacks")
    given = callbacks if isinstance(callbacks, list) else [callbacks]
    mine = [each for each in given if isinstance(each, dict) and str(each.get("class_path", "")).endswith("VersionedCheckpoint")]
    return dict(mine[0].get("init_args") or {}) if mine else {}


def restore_command(options: argparse.Namespace) -> int:
    """Bring a version back; without a version say which there are."""
    run = find_run(options.run, options.runs)
    url = options.source or checkpoint_settings(run).get("mirror")
    aside = set_aside(run)
    away = mirrored(run, url) if url else {}
    if options.version is None:
        print("\n".join(choices(run, aside, away, url)))
        return FINISHED
    for name in [name for name in (*aside, *away) if options.version in (name, name.partition(".")[0], str(int(name[1:7])))]:
        with owned(run):
            path = back_from_aside(run, aside[name]) if name in aside else back_from_mirror(run, name, away[name])
        print(f"{shown(path)} is back and whole.")
        return FINISHED
    raise UsageError(f"There is no {options.version} to bring back. " + " ".join(choices(run, aside, away, url)))


def choices(run: RunFolder, aside: dict[str, Path], away: dict[str, str], url: str | None) -> list[str]:
    """What could be brought back."""
    lines = [f"Set aside: {', '.join(path.name for path in aside.values())}."] if aside else [f"Nothing was set aside in {run.name}."]
    if url:
        return [*lines, f"In the mirror {url}: {', '.join(away) or 'nothing of this run'}."]
    return [*lines, "Its configuration has no mirror; name one with --from."]


def set_aside(run: RunFolder) -> dict[str, Path]:
    """Files that were set aside, by the name of their version."""
    found = [(match["name"], path) for path in sorted(run.checkpoints.glob("v*")) if (match := ASIDE.fullmatch(path.name))]
    return dict(found)


def mirrored(run: RunFolder, url: str) -> dict[str, str]:
    """Names of this run's versions in a mirror that are not in its folder, each with the URL it lies under."""
    from musictrain.checkpoints.mirror import MirrorError
    from musictrain.checkpoints.run_mirror import mirror_of_run

    here = {version.path.name for version in list_versions(run.checkpoints) if not version.problem}
    mirror = mirror_of_run(url, run.name)
    try:
        return {name: mirror.url for name in mirror.names() if name not in here}
    except MirrorError as error:
        raise CommandError(str(error)) from error


def back_from_aside(run: RunFolder, path: Path) -> Path:
    """Give a file that was set aside its name again, if it is whole.

    Raises:
        CommandError: if it is not, or the name is taken.
    """
    target = path.with_name(path.name[: path.name.index(".ckpt") + len(".ckpt")])
    try:
        verify(path)
        disk.rename(path, target)
    except BrokenCheckpointError as error:
        raise CommandError(f"{path.name} stays aside: {error.reason}.") from error
    except OSError as error:
        raise CommandError(f"{path.name} could not be renamed to {target.name}: {error.strerror or error}") from error
    return target


def back_from_mirror(run: RunFolder, name: str, url: str) -> Path:
    """Fetch a version from the mirror; a broken one under its name is set aside first.

    Raises:
        CommandError: if it cannot be fetched.
    """
    from musictrain.checkpoints.catalog import put_aside
    from musictrain.checkpoints.mirror import Mirror, MirrorError

    broken = [version for version in list_versions(run.checkpoints) if version.path.name == name and version.problem]
    for version in broken:
        put_aside(version.path, "corrupt")
    try:
        return Mirror(url).fetch(name, run.checkpoints)
    except MirrorError as error:
        raise CommandError(str(error)) from error
