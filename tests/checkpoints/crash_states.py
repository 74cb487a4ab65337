"""Every content that a POSIX file system may leave in a folder after a power cut at any point of a recorded program.

    with Recorder(folder) as recorder:
        save(folder, 1)
        recorder.mark("acknowledged", 1)
    for state in crash_states(recorder.recording, "any-order"):
        check(materialize(state, fresh_folder), promised=state.values("acknowledged"))

Two models of what a disk keeps. In both, everything is durable that an fsync has promised: of a file, its bytes and its size; of a
directory, the names in it (not the directory's own name, that stands in its parent; and no file's bytes). Everything else may be lost:

- ``"journal-ordered"``: changes of names reach the disk in their order, so a prefix of them is there, each whole (a rename is atomic);
- ``"any-order"``: each slot (a name in a directory) has, independently of every other, what its last fsync promised or any later value.
  Only one thing binds two slots: a rename does not take the old name away before the new one is there, but may leave both.

Bytes written since the file's last fsync, and names, know nothing of each other (delayed allocation: a name can be there before its
bytes). A hard link shares them. Enumerated exactly: all prefixes of the pending writes and truncations, each with its own size or filled
with zeros to the size it had at the crash (the size was there, the bytes were not). Bounded to a stated set:

- a write torn inside is cut after its first byte, at its middle, and before its last byte;
- ``"any-order"`` tears each write into two halves and keeps any subset of these pieces if there are at most ``MOST_PIECES``; of more, every
  prefix, every suffix, each piece alone and all but each piece.

After a failed fsync the pending bytes may be lost for good even if a later fsync succeeds, as on Linux.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, get_args

from tests.checkpoints.disk_model import (
    Entry,
    Mark,
    Naming,
    Operation,
    Recording,
    Sizing,
    Slot,
    Syncing,
    Writing,
    reachable,
    tree,
    write_folder,
    written,
)

Model = Literal["journal-ordered", "any-order"]
MODELS: tuple[Model, ...] = get_args(Model)
Names = dict[Slot, int | None]
Data = Writing | Sizing
Pieces = list[tuple[int, Data]]  # each with its place in the log, or that of the write it is a part of
MOST_PIECES = 6
MOST_STATES = 100_000


@dataclass(frozen=True)
class CrashState:
    """What a crash may leave behind, and what had been promised by then.

    Args:
        entries: every path of the folder.
        marks: the promises made before the crash, in order.
        point: after how many operations of the log the crash can first leave this.
    """

    entries: tuple[Entry, ...]
    marks: tuple[Mark, ...]
    point: int

    def values(self, name: str) -> list[Any]:
        """What was marked under a name by the time of the crash, in order."""
        return [mark.value for mark in self.marks if mark.name == name]


def crash_states(recording: Recording, model: Model) -> list[CrashState]:
    """All states of the folder after a crash before, between or after the recorded operations; two of them differ in content or in marks.

    Raises:
        ValueError: if there are more than ``MOST_STATES``: record fewer operations, or sync more often.
    """
    found: dict[tuple[tuple[Entry, ...], tuple[Mark, ...]], CrashState] = {}
    for point in range(len(recording.log) + 1):
        log = recording.log[:point]
        marks = tuple(operation for operation in log if isinstance(operation, Mark))
        for entries in _states_at(recording, log, model):
            found.setdefault((entries, marks), CrashState(entries, marks, point))
            if len(found) > MOST_STATES:
                raise ValueError(
                    f"More than {MOST_STATES:,} crash states by operation {point} of {len(recording.log)}: record less at once."
                )
    return list(found.values())


def materialize(state: CrashState, folder: Path) -> Path:
    """Write a state to ``folder``, which must not exist, so that a program can be started on it; gives the folder back."""
    return write_folder(state.entries, folder)


def _states_at(recording: Recording, log: list[Operation], model: Model) -> Iterator[tuple[Entry, ...]]:
    contents: dict[int, list[bytes]] = {}
    naming = {"journal-ordered": _names_in_order, "any-order": _names_in_any_order}[model]
    for names in _without_repeats(naming(recording.names, log)):
        files = sorted({inode for _, inode in reachable(recording.inodes, names) if recording.inodes[inode].kind == "file"})
        for inode in files:
            if inode not in contents:
                contents[inode] = _contents(recording.inodes[inode].content, *_data_of(inode, log), any_order=model == "any-order")
        for choice in itertools.product(*(contents[inode] for inode in files)):
            held = dict(zip(files, choice, strict=True))
            yield tree(recording.inodes, names, held.__getitem__)


def _without_repeats(choices: Iterator[Names]) -> Iterator[Names]:
    seen = set()
    for names in choices:
        key = frozenset((slot, inode) for slot, inode in names.items() if inode is not None)
        if key not in seen:
            seen.add(key)
            yield names


# Which names are there.


def _is_synced(log: Sequence[Operation], index: int, directory: int) -> bool:
    return any(operation == Syncing(directory) for operation in log[index + 1 :])


def _names_in_order(start: dict[Slot, int], log: list[Operation]) -> Iterator[Names]:
    """The names after each prefix of the changes that is long enough for what was synced."""
    changes = [(index, operation) for index, operation in enumerate(log) if isinstance(operation, Naming)]
    durable = [
        length
        for length, (index, operation) in enumerate(changes, 1)
        if any(_is_synced(log, index, directory) for (directory, _), _ in operation.changes)
    ]
    for length in range(max(durable, default=0), len(changes) + 1):
        names: Names = dict(start)
        for _, operation in changes[:length]:
            names.update(operation.changes)
        yield names


def _names_in_any_order(start: dict[Slot, int], log: list[Operation]) -> Iterator[Names]:
    """For each slot what is durable or anything later, in all combinations that respect renames."""
    values: dict[Slot, dict[int, int | None]] = {slot: {-1: inode} for slot, inode in start.items()}
    needs: dict[tuple[Slot, int], Slot] = {}
    for index, operation in enumerate(log):
        if isinstance(operation, Naming):
            for slot, inode in operation.changes:
                values.setdefault(slot, {-1: None})[index] = inode
            if len(operation.changes) == 2:
                (new, _), (old, _) = operation.changes
                needs[old, index] = new
    options = {slot: _not_older_than_synced(slot, changes, log) for slot, changes in values.items()}
    for picked in itertools.product(*options.values()):
        last = dict(zip(options, picked, strict=True))
        if all(last[old] != index or last[new] >= index for (old, index), new in needs.items()):
            yield {slot: values[slot][index] for slot, index in last.items()}


def _not_older_than_synced(slot: Slot, changes: dict[int, int | None], log: list[Operation]) -> list[int]:
    durable = max(index for index in changes if index < 0 or _is_synced(log, index, slot[0]))
    return [index for index in changes if index >= durable]


# What the files hold.


def _data_of(inode: int, log: list[Operation]) -> tuple[Pieces, Pieces]:
    """The data operations on a file: the durable ones, and those that may still be lost."""
    pieces = {index: op for index, op in enumerate(log) if isinstance(op, Writing | Sizing) and op.inode == inode}
    pending: set[int] = set()
    given_up: set[int] = set()
    for index, operation in enumerate(log):
        if index in pieces:
            pending.add(index)
        elif operation == Syncing(inode, failed=True):
            given_up |= pending
        elif operation == Syncing(inode):
            pending &= given_up
    return [piece for piece in pieces.items() if piece[0] not in pending], [piece for piece in pieces.items() if piece[0] in pending]


def _contents(before: bytes, durable: Pieces, pending: Pieces, any_order: bool) -> list[bytes]:
    """What a file may hold: its durable operations, and some of the pending ones."""
    size = len(_put_together(before, durable, pending))
    kept_sets = list(_prefixes(pending))
    if any_order:
        kept_sets += _subsets([half for piece in pending for half in _halves(piece)])
    found: dict[bytes, None] = {}
    for kept in kept_sets:
        content = _put_together(before, durable, kept)
        found[content] = found[content.ljust(size, b"\0")] = None
    return list(found)


def _put_together(before: bytes, durable: Pieces, kept: Pieces) -> bytes:
    return written(before, [operation for _, operation in sorted(durable + kept, key=itemgetter(0))])


def _prefixes(pending: Pieces) -> Iterator[Pieces]:
    for length in range(len(pending) + 1):
        yield pending[:length]
    for number, (index, operation) in enumerate(pending):
        if isinstance(operation, Writing):
            size = len(operation.data)
            yield from ([*pending[:number], (index, _part(operation, 0, end))] for end in {1, size // 2, size - 1} - {0, size})


def _halves(piece: tuple[int, Data]) -> Pieces:
    index, operation = piece
    if isinstance(operation, Sizing) or len(operation.data) == 1:
        return [piece]
    size = len(operation.data)
    return [(index, _part(operation, 0, size // 2)), (index, _part(operation, size // 2, size))]


def _part(operation: Writing, start: int, end: int) -> Writing:
    return Writing(operation.inode, operation.offset + start, operation.data[start:end])


def _subsets(pieces: Pieces) -> list[Pieces]:
    count = len(pieces)
    if count <= MOST_PIECES:
        return [list(subset) for size in range(count + 1) for subset in itertools.combinations(pieces, size)]
    prefixes_and_suffixes = [pieces[:cut] for cut in range(count)] + [pieces[cut:] for cut in range(count)]
    return prefixes_and_suffixes + [[piece] for piece in pieces] + [pieces[:cut] + pieces[cut + 1 :] for cut in range(count)]
