"""A folder as a file system sees it: inodes, names that stand for them, and the operations that change either.

Conventions: an inode is a number, the folder under test is inode 0; a slot is (inode of a directory, name in it); a data operation changes
what one file holds, a naming changes what slots stand for. Paths are relative to the folder under test, parts joined by "/".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = 0
Slot = tuple[int, str]
Kind = Literal["file", "folder", "symlink"]


@dataclass(frozen=True)
class Writing:
    """Bytes put into a file at an offset."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Sizing:
    """A file cut, or filled with zeros, to a size in bytes."""

    inode: int
    size: int


@dataclass(frozen=True)
class Naming:
    """What slots stand for from now on (None: nothing). A rename binds the new name first and removes the old one second."""

    call: str
    changes: tuple[tuple[Slot, int | None], ...]


@dataclass(frozen=True)
class Syncing:
    """A file or a directory was synced; ``failed`` if that raised: what was pending may then never reach the disk, whoever syncs again."""

    inode: int
    failed: bool = False


@dataclass(frozen=True)
class Mark:
    """Something the program under test has promised by now, as ("acknowledged", 3)."""

    name: str
    value: Any = None


Operation = Writing | Sizing | Naming | Syncing | Mark


@dataclass(frozen=True)
class Inode:
    """A file, a folder or a symbolic link; ``content`` is a file's bytes when recording began, or a link's target."""

    kind: Kind
    content: bytes = b""


@dataclass(frozen=True, order=True)
class Entry:
    """One path of a folder; ``same_as`` is the first path of the same file where a hard link gave it several."""

    path: str
    kind: Kind
    content: bytes = b""
    same_as: str = ""


@dataclass
class Recording:
    """The folder when recording began, all of it durable, and what happened to it since."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    names: dict[Slot, int] = field(default_factory=dict)
    log: list[Operation] = field(default_factory=list)

    def final(self) -> tuple[Entry, ...]:
        """What the folder holds if nothing is lost."""
        names: dict[Slot, int | None] = dict(self.names)
        for operation in self.log:
            names.update(operation.changes if isinstance(operation, Naming) else ())
        return tree(self.inodes, names, lambda inode: written(self.inodes[inode].content, data_of(inode, self.log)))


def data_of(inode: int, log: Iterable[Operation]) -> list[Writing | Sizing]:
    """The data operations on one file, in order."""
    return [operation for operation in log if isinstance(operation, Writing | Sizing) and operation.inode == inode]


def written(content: bytes, operations: Iterable[Writing | Sizing]) -> bytes:
    """What a file holds after data operations; a gap is zeros."""
    for operation in operations:
        if isinstance(operation, Sizing):
            content = content[: operation.size].ljust(operation.size, b"\0")
        else:
            end = operation.offset + len(operation.data)
            content = content[: operation.offset].ljust(operation.offset, b"\0") + operation.data + content[end:]
    return content


def tree(inodes: Mapping[int, Inode], names: Mapping[Slot, int | None], content: Callable[[int], bytes]) -> tuple[Entry, ...]:
    """Every path that can be reached from the root, sorted."""
    first: dict[int, str] = {}
    entries = []
    for path, inode in sorted(reachable(inodes, names)):
        kind = inodes[inode].kind
        same_as = first.setdefault(inode, path)
        data = {"file": content, "folder": lambda _: b"", "symlink": lambda number: inodes[number].content}[kind](inode)
        entries.append(Entry(path, kind, data, "" if same_as == path else same_as))
    return tuple(entries)


def reachable(
    inodes: Mapping[int, Inode], names: Mapping[Slot, int | None], folder: int = ROOT, prefix: str = ""
) -> Iterator[tuple[str, int]]:
    """(path, inode) of everything below a directory."""
    for (directory, name), inode in names.items():
        if directory == folder and inode is not None:
            yield prefix + name, inode
            if inodes[inode].kind == "folder":
                yield from reachable(inodes, names, inode, f"{prefix}{name}/")


def read_folder(folder: Path) -> tuple[Entry, ...]:
    """What a real folder holds, sorted by path."""
    first: dict[tuple[int, int], str] = {}
    entries = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        name, status = path.relative_to(folder).as_posix(), path.lstat()
        if path.is_symlink():
            entries.append(Entry(name, "symlink", os.fsencode(path.readlink())))
        elif path.is_dir():
            entries.append(Entry(name, "folder"))
        else:
            same_as = first.setdefault((status.st_dev, status.st_ino), name)
            entries.append(Entry(name, "file", path.read_bytes(), "" if same_as == name else same_as))
    return tuple(entries)


def write_folder(entries: Iterable[Entry], folder: Path) -> Path:
    """Make ``folder``, which must not exist, hold exactly these entries; gives it back."""
    folder.mkdir()
    for entry in sorted(entries):
        path = folder / entry.path
        if entry.kind == "folder":
            path.mkdir()
        elif entry.kind == "symlink":
            path.symlink_to(os.fsdecode(entry.content))
        elif entry.same_as:
            path.hardlink_to(folder / entry.same_as)
        else:
            path.write_bytes(entry.content)
    return folder
