"""What people say of a run: tags, a note, whether it is archived. ``labels.json`` in the run folder is the truth."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from musictrain.runs.atomic import atomic_write
from musictrain.runs.folder import RunFolder
from musictrain.runs.one_at_a_time import one_at_a_time

log = logging.getLogger(__name__)

LONGEST_TAG = 60


@dataclass(frozen=True)
class Labels:
    """Tags in alphabetical order, a note, and whether the run is out of sight."""

    tags: tuple[str, ...] = ()
    note: str = ""
    archived: bool = False


def read_labels(run: RunFolder) -> Labels:
    """The labels of a run; none if nobody gave any, or if the file cannot be understood (which is logged)."""
    try:
        return _understood(run.labels)
    except FileNotFoundError:
        return Labels()
    except (OSError, ValueError) as error:
        log.warning("%s cannot be understood, so the run is shown without labels: %s", run.labels, error)
        return Labels()


def _understood(path: Path) -> Labels:
    told = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(told, dict):
        raise ValueError(f"expected an object, got {type(told).__name__}")
    tags, note = told.get("tags") or [], told.get("note") or ""
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags) or not isinstance(note, str):
        raise ValueError("expected a list of texts as tags, and a text as note")
    return Labels(tuple(sorted(set(tags))), note, bool(told.get("archived")))


def change_labels(run: RunFolder, change: Callable[[Labels], Labels]) -> Labels:
    """Read, change and write the labels while nobody else does; gives back the new ones.

    A file that cannot be understood is set aside as ``labels.json.unreadable`` before a new one is written.

    Raises:
        TimeoutError: if somebody else has been changing them for seconds.
        OSError: if the run folder cannot be written.
    """
    with one_at_a_time(run.labels):
        try:
            was = _understood(run.labels)
        except FileNotFoundError:
            was = Labels()
        except ValueError as error:
            aside = run.labels.with_name(f"{run.labels.name}.unreadable")
            run.labels.replace(aside)
            log.warning("%s could not be understood and was set aside as %s: %s", run.labels, aside.name, error)
            was = Labels()
        now = change(was)
        if now != was or not run.labels.exists():
            atomic_write(run.labels, json.dumps(asdict(now)) + "\n")
    return now


def add_tags(run: RunFolder, tags: Iterable[str]) -> Labels:
    """Add tags; those that are there already change nothing.

    Raises:
        ValueError: for a tag that is empty, longer than 60 characters, or has invisible ones.
    """
    new = {checked_tag(tag) for tag in tags}
    return change_labels(run, lambda labels: replace(labels, tags=tuple(sorted({*labels.tags, *new}))))


def remove_tags(run: RunFolder, tags: Iterable[str]) -> Labels:
    """Take tags away; those that are not there change nothing."""
    gone = set(tags)
    return change_labels(run, lambda labels: replace(labels, tags=tuple(tag for tag in labels.tags if tag not in gone)))


def set_note(run: RunFolder, note: str) -> Labels:
    """Replace the note; an empty one removes it."""
    return change_labels(run, lambda labels: replace(labels, note=note.strip()))


def set_archived(run: RunFolder, archived: bool) -> Labels:
    """Put a run out of sight, or back; its files stay where they are."""
    return change_labels(run, lambda labels: replace(labels, archived=archived))


def checked_tag(tag: str) -> str:
    """The tag without blanks around it.

    >>> checked_tag(" baseline ")
    'baseline'

    Raises:
        ValueError: if it is empty, longer than 60 characters, or has line breaks or other invisible characters.
    """
    tag = tag.strip()
    if not tag or len(tag) > LONGEST_TAG or not tag.isprintable():
        raise ValueError(f"A tag is 1 to {LONGEST_TAG} visible characters, got {tag!r}.")
    return tag
