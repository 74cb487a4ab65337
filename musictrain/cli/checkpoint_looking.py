"""``checkpoints list``, ``show`` and ``verify``: what there is, and whether it is whole."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from musictrain.checkpoints.catalog import Version, best_versions, list_versions
from musictrain.checkpoints.seal import SealError, read_seal
from musictrain.checkpoints.sizes import mib
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from musictrain.cli.exits import FAILED, FINISHED, CommandError
from musictrain.cli.version_choice import version_of
from musictrain.runs import find_run
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.records import plain
from musictrain.runs.summary import shown

SAVINGS_FROM = 1.005


def list_command(options: argparse.Namespace) -> int:
    """A line for each version."""
    run = find_run(options.run, options.runs)
    versions = list_versions(run.checkpoints)
    if options.json:
        print(json.dumps([as_record(version) for version in versions], indent=2))
        return FINISHED
    if not versions:
        print(f"Run {run.name} has no versions: it has not saved any yet.")
        return FINISHED
    metric = shown_metric(versions)
    print("\n".join(table(rows_of(versions, metric), metric)))
    print(f"{footing(versions)}, in {shown(run.checkpoints)}.")
    return FINISHED


def shown_metric(versions: list[Version]) -> str:
    """The metric of the table's column: val/loss, or else the first that any version has."""
    names = [name for version in versions if version.seal is not None for name in version.seal.metrics]
    return BEST_METRIC if BEST_METRIC in names or not names else names[0]


def rows_of(versions: list[Version], metric: str) -> list[tuple[str, ...]]:
    """Name, step, when, why, size, metric and marks of each version."""
    best = best_versions(versions, metric)[:1]
    last = sorted((version for version in versions if version.resumable), key=lambda version: (version.step, version.number))[-1:]
    rows: list[tuple[str, ...]] = []
    for version in versions:
        seal = version.seal
        marks = [*(["last"] if version in last else []), *(["best"] if version in best else []), *sorted(version.tags)]
        marks += [seal.kind] if seal is not None and seal.kind not in ("full", "weights") else []
        marks += [version.problem or (seal.ill if seal is not None else "")]
        marks += [f"vetoed: {version.vetoed}"] if version.vetoed else []
        when = datetime.fromtimestamp(seal.created).strftime("%m-%d %H:%M") if seal is not None and seal.created else ""
        value = version.metric(metric)
        rows.append(
            (
                version.name,
                f"{version.step:,}",
                when,
                seal.reason if seal is not None else "",
                mib(version.stored_bytes),
                "" if math.isnan(value) else f"{value:.4g}",
                ", ".join(mark for mark in marks if mark),
            )
        )
    return rows


def table(rows: list[tuple[str, ...]], metric: str) -> list[str]:
    """The rows under their headings."""
    titled = [("version", "step", "saved", "why", "size", metric, ""), *rows]
    widths = [max(len(row[column]) for row in titled) for column in range(6)]
    left = {0, 2, 3}
    lines = []
    for row in titled:
        cells = [row[i].ljust(widths[i]) if i in left else row[i].rjust(widths[i]) for i in range(6)]
        lines.append("  ".join([*cells, row[6]]).rstrip())
    return lines


def footing(versions: list[Version]) -> str:
    """How much there is, and how much packing saves: ``3 versions, 158.4 MiB, packing saves 23 %``."""
    stored = sum(version.stored_bytes for version in versions)
    plain_bytes = sum(version.seal.plain_size if version.seal is not None else 0 for version in versions)
    packed = f", packing saves {100 * (1 - stored / plain_bytes):.0f} %" if plain_bytes > SAVINGS_FROM * stored else ""
    num = f"{len(versions):,} version{'s' if len(versions) != 1 else ''}"
    return f"{num}, {mib(stored)}{packed}"


def as_record(version: Version) -> dict[str, Any]:
    """A version as plain JSON values."""
    seal = None if version.seal is None else {key: value for key, value in asdict(version.seal).items() if key != "files"}
    facts = {"name": version.name, "path": str(version.path), "step": version.step, "bytes": version.stored_bytes}
    record: dict[str, Any] = plain({**facts, "tags": sorted(version.tags), "problem": version.problem, "seal": seal})
    return record


def show_command(options: argparse.Namespace) -> int:
    """Everything a seal says."""
    path = file_of(options)
    try:
        seal = read_seal(path)
    except (SealError, OSError) as error:
        raise CommandError(f"{path} has no seal to show: {error}.") from error
    facts: dict[str, Any] = {"path": str(path), **plain(asdict(seal))}
    if options.json:
        print(json.dumps(facts, indent=2))
        return FINISHED
    facts["created"] = datetime.fromtimestamp(seal.created).isoformat(sep=" ", timespec="seconds") if seal.created else ""
    facts["healthy"] = "yes" if seal.healthy else f"no: {seal.ill}"
    facts["size"], facts["plain_size"] = mib(seal.size), mib(seal.plain_size)
    facts["metrics"] = ", ".join(f"{name} {value:.6g}" for name, value in seal.metrics.items())
    facts["files"] = f"{len(seal.files)} files" if seal.files else ""
    facts["sources"] = ", ".join(seal.sources)
    del facts["ill"]
    width = max(map(len, facts))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items() if value not in ("", None)))
    return FINISHED


def file_of(options: argparse.Namespace) -> Path:
    """The checkpoint that was meant: a file by its path, else a version of a run."""
    path = Path(options.run)
    if path.is_file() or (path.is_dir() and path.suffix == ".ckpt"):
        return path
    return version_of(find_run(options.run, options.runs), getattr(options, "version", "last"))


def verify_command(options: argparse.Namespace) -> int:
    """Every byte of a file, or of all versions of a run; 1 if one is bad."""
    path = Path(options.run)
    if path.is_file() or path.suffix == ".ckpt":
        paths = [path]
    else:
        run = find_run(options.run, options.runs)
        paths = [version.path for version in list_versions(run.checkpoints)]
        if not paths:
            print("[]" if options.json else f"Run {run.name} has no versions: it has not saved any yet.")
            return FINISHED
    problems = {path: problem_of(path) for path in paths}
    if options.json:
        print(json.dumps([{"path": str(path), "good": not problem, "problem": problem} for path, problem in problems.items()], indent=2))
    else:
        for path, problem in problems.items():
            print(f"{'BAD ' if problem else 'good'}  {path.name}{f': {problem}' if problem else ''}")
        bad = sum(map(bool, problems.values()))
        print(f"{len(paths) - bad} of {len(paths)} are whole." if bad else f"All {len(paths)} are whole.")
    return FAILED if any(problems.values()) else FINISHED


def problem_of(path: Path) -> str:
    """What is wrong with a checkpoint, empty if nothing is."""
    try:
        if not path.exists():
            return "there is no such file"
        verify(path)
    except BrokenCheckpointError as error:
        return error.reason
    return ""
