"""``runs tag``, ``untag``, ``note``, ``archive``, ``unarchive`` and ``reindex``: what people say of runs, and the index made again."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from musictrain.cli.exits import FINISHED, CommandError, UsageError
from musictrain.cli.runs_texts import inert
from musictrain.runs import find_run
from musictrain.runs.folder import RunFolder
from musictrain.runs.index import RunIndex
from musictrain.runs.labels import Labels, add_tags, remove_tags, set_archived, set_note
from musictrain.runs.summary import shown


def tag_command(options: argparse.Namespace, index: RunIndex) -> int:
    """Add or remove tags."""
    run = find_run(options.run, options.runs)
    change = add_tags if options.action == "tag" else remove_tags
    return told(options, index, run, changed(run, lambda: change(run, options.tag)))


def note_command(options: argparse.Namespace, index: RunIndex) -> int:
    """Write a note."""
    run = find_run(options.run, options.runs)
    return told(options, index, run, changed(run, lambda: set_note(run, options.note)))


def archive_command(options: argparse.Namespace, index: RunIndex) -> int:
    """Put runs out of sight, or back."""
    runs = [find_run(text, options.runs) for text in options.run]  # all are known before any is changed
    for run in runs:
        told(options, index, run, changed(run, lambda run=run: set_archived(run, options.action == "archive")))
    return FINISHED


def changed(run: RunFolder, change: Any) -> Labels:
    """The labels after a change.

    Raises:
        UsageError: for a tag that is none.
        CommandError: if they cannot be written.
    """
    try:
        labels: Labels = change()
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise CommandError(f"The labels of {run.name} cannot be written: {error}.") from error
    return labels


def told(options: argparse.Namespace, index: RunIndex, run: RunFolder, labels: Labels) -> int:
    """Say what a run's labels are now."""
    if index.holds(run):
        index.refresh([run.name])
    if options.json:
        print(json.dumps({"run": run.name, **asdict(labels)}))
        return FINISHED
    words = [f"tags {', '.join(labels.tags)}"] if labels.tags else ["no tags"]
    words += [f"note {labels.note!r}"] if labels.note else []
    words += ["archived"] if labels.archived else []
    print(inert(f"{run.name}: {', '.join(words)}."))
    return FINISHED


def reindex_command(options: argparse.Namespace, index: RunIndex) -> int:
    """Read every run again.

    Raises:
        CommandError: if there is no such folder.
    """
    if not options.runs.is_dir():
        raise CommandError(f"{options.runs} is no folder. Name the folder of runs with --runs.")
    names = index.rebuild()
    if options.json:
        print(json.dumps({"runs": len(names), "index": None if index.in_memory else str(index.path)}))
        return FINISHED
    where = "in memory only: nothing can be written there" if index.in_memory else shown(index.path)
    print(f"{len(names):,} run{'s' if len(names) != 1 else ''} indexed, {where}.")
    return FINISHED
