"""Writes down what a program does to one folder through ``os``, while really doing it."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints.disk_model import Inode, Kind, Mark, Naming, Operation, Recording, Sizing, Slot, Syncing, Writing, read_folder

RECORDED = (
    *("open", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "link", "symlink"),
    *("rename", "replace", "unlink", "remove", "mkdir", "rmdir"),
)
# Not recorded, so refused below the root: each with the place of the argument that it changes.
REFUSED = {
    **dict.fromkeys(("writev", "pwritev", "sendfile", "posix_fallocate", "truncate", "mkfifo", "mknod"), 0),
    "copy_file_range": 1,
}
WRITING_MODES = set("wax+")


class UnrecordedWriteError(AssertionError):
    """The folder was changed by a way that the recorder does not see, so that its log would not tell the truth."""


class Recorder:
    """Records every change below ``root`` while the ``with`` block runs, in every thread.

    Files are known by device and inode number, so that copies of a descriptor, relative paths and ``dir_fd`` are all the same to it.
    ``os.close`` is not in the log: it promises nothing. ``os.sync`` is not either: POSIX lets it return before anything is written.

    Raises:
        UnrecordedWriteError: at ``open(..., "w")`` and the like below ``root``, and at the end of the block, also if a program has
            swallowed the first, or if the folder holds anything that the log does not explain (a C library's own writes).
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.recording = Recording()
        self._known: dict[tuple[int, int], int] = {}
        self._lock = threading.RLock()
        self._real: dict[str, Callable[..., Any]] = {}
        self._real_open = builtins.open
        self._refusals: list[str] = []

    def mark(self, name: str, value: Any = None) -> None:
        """Put a promise into the log: what a program has told its user by now must be true after every later crash."""
        with self._lock:
            self.recording.log.append(Mark(name, value))

    def __enter__(self) -> Recorder:
        self._take_inventory()
        for name in RECORDED:
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}"))
        for name in filter(lambda name: hasattr(os, name), REFUSED):
            self._real[name] = getattr(os, name)
            setattr(os, name, self._refusing(name, REFUSED[name]))
        self._real_open = builtins.open
        builtins.open = io.open = self._python_open  # type: ignore[assignment]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)
        builtins.open = io.open = self._real_open
        if kind is None:
            self._check_that_the_log_explains_the_folder()

    def _take_inventory(self) -> None:
        """Everything below the root, as it is now, is durable."""
        self._learn(self.root.stat(), Inode("folder"))
        for entry in read_folder(self.root):
            path = self.root / entry.path
            number = self._number(path.lstat())
            if number is None:
                number = self._learn(path.lstat(), Inode(entry.kind, entry.content))
            parent = self._number(path.parent.stat())
            assert parent is not None
            self.recording.names[parent, path.name] = number

    def _check_that_the_log_explains_the_folder(self) -> None:
        if self._refusals:
            raise UnrecordedWriteError("; ".join(self._refusals))
        differing = set(self.recording.final()) ^ set(read_folder(self.root))
        if differing:
            paths = ", ".join(sorted({entry.path for entry in differing}))
            raise UnrecordedWriteError(f"{paths}: not as the log of os calls says. Somebody wrote past os.open, os.write and their like.")

    def _learn(self, status: os.stat_result, inode: Inode) -> int:
        # A number that the file system uses again belongs to the newest file.
        number = len(self.recording.inodes)
        self.recording.inodes[number] = inode
        self._known[status.st_dev, status.st_ino] = number
        return number

    def _number(self, status: os.stat_result) -> int | None:
        return self._known.get((status.st_dev, status.st_ino))

    def _number_of(self, descriptor: int) -> int | None:
        try:
            return self._number(os.fstat(descriptor))
        except OSError:
            return None

    def _slot(self, path: Any, dir_fd: int | None = None) -> Slot | None:
        """Where a path stands below the root; None if it stands elsewhere."""
        head, name = os.path.split(os.fsdecode(path).rstrip("/"))
        try:
            directory = self._number(os.stat(head or ".", dir_fd=dir_fd))
        except OSError:
            return None
        return None if directory is None else (directory, name)

    def _note(self, operation: Operation) -> None:
        self.recording.log.append(operation)

    def _create(self, call: str, slot: Slot, status: os.stat_result, kind: Kind, content: bytes = b"") -> None:
        self._note(Naming(call, ((slot, self._learn(status, Inode(kind, content))),)))

    def _forget(self, status: os.stat_result | None) -> None:
        """A file without a name is no longer ours: its number may come back for a file elsewhere."""
        if status is not None and (stat.S_ISDIR(status.st_mode) or status.st_nlink == 1):
            self._known.pop((status.st_dev, status.st_ino), None)

    def _refuse(self, what: str) -> None:
        refusal = f"{what} cannot be recorded: write below {self.root} with os.open, os.write and os.fsync"
        self._refusals.append(refusal)
        raise UnrecordedWriteError(refusal)

    # What the program calls.

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._lock:
            slot = self._slot(path, dir_fd)
            is_new = slot is not None and bool(flags & os.O_CREAT) and _status(path, dir_fd) is None
            descriptor: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
            number = self._number_of(descriptor)
            if is_new and slot is not None:
                self._create("open", slot, os.fstat(descriptor), "file")
            elif flags & os.O_TRUNC and number is not None:
                self._note(Sizing(number, 0))
            return descriptor

    def _write(self, descriptor: int, data: Any) -> int:
        if self._number_of(descriptor) is None:
            return int(self._real["write"](descriptor, data))
        with self._lock:
            count = int(self._real["write"](descriptor, data))
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            self._note_writing(descriptor, data, count, end - count)
            return count

    def _pwrite(self, descriptor: int, data: Any, offset: int) -> int:
        with self._lock:
            count = int(self._real["pwrite"](descriptor, data, offset))
            self._note_writing(descriptor, data, count, offset)
            return count

    def _note_writing(self, descriptor: int, data: Any, count: int, offset: int) -> None:
        number = self._number_of(descriptor)
        if number is not None and count:
            self._note(Writing(number, offset, bytes(memoryview(data).cast("B")[:count])))

    def _ftruncate(self, descriptor: int, length: int) -> None:
        with self._lock:
            self._real["ftruncate"](descriptor, length)
            number = self._number_of(descriptor)
            if number is not None:
                self._note(Sizing(number, length))

    def _fsync(self, descriptor: Any) -> None:
        self._sync("fsync", descriptor)

    def _fdatasync(self, descriptor: Any) -> None:
        self._sync("fdatasync", descriptor)

    def _sync(self, call: str, file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        with self._lock:
            number = self._number_of(descriptor)
            failed = True
            try:
                self._real[call](descriptor)
                failed = False
            finally:
                if number is not None:
                    self._note(Syncing(number, failed))

    def _link(self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None, **options: Any) -> None:
        with self._lock:
            slots = self._slot(src, src_dir_fd), self._slot(dst, dst_dir_fd)
            self._refuse_to_cross("os.link", *slots)
            self._real["link"](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **options)
            status = _status(dst, dst_dir_fd)
            if slots[1] is not None and status is not None:
                self._note(Naming("link", ((slots[1], self._number(status)),)))

    def _rename(self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        self._move("rename", src, dst, src_dir_fd, dst_dir_fd)

    def _replace(self, src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        self._move("replace", src, dst, src_dir_fd, dst_dir_fd)

    def _move(self, call: str, src: Any, dst: Any, src_dir_fd: int | None, dst_dir_fd: int | None) -> None:
        with self._lock:
            source, target = self._slot(src, src_dir_fd), self._slot(dst, dst_dir_fd)
            self._refuse_to_cross(f"os.{call}", source, target)
            moved, replaced = _status(src, src_dir_fd), _status(dst, dst_dir_fd)
            self._real[call](src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            if source is None or target is None or moved is None:
                return
            if replaced is not None and (moved.st_dev, moved.st_ino) == (replaced.st_dev, replaced.st_ino):
                return  # two names of one file: POSIX leaves both
            self._note(Naming(call, ((target, self._number(moved)), (source, None))))
            self._forget(replaced)

    def _refuse_to_cross(self, call: str, source: Slot | None, target: Slot | None) -> None:
        if (source is None) != (target is None):
            self._refuse(f"{call} into or out of the folder")

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._drop("unlink", path, dir_fd)

    def _remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._drop("remove", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._drop("rmdir", path, dir_fd)

    def _drop(self, call: str, path: Any, dir_fd: int | None) -> None:
        with self._lock:
            slot, status = self._slot(path, dir_fd), _status(path, dir_fd)
            self._real[call](path, dir_fd=dir_fd)
            if slot is not None:
                self._note(Naming(call, ((slot, None),)))
                self._forget(status)

    def _mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self._lock:
            self._real["mkdir"](path, mode, dir_fd=dir_fd)
            self._note_new("mkdir", "folder", path, dir_fd)

    def _symlink(self, src: Any, dst: Any, target_is_directory: bool = False, *, dir_fd: int | None = None) -> None:
        with self._lock:
            self._real["symlink"](src, dst, target_is_directory, dir_fd=dir_fd)
            self._note_new("symlink", "symlink", dst, dir_fd, os.fsencode(src))

    def _note_new(self, call: str, kind: Kind, path: Any, dir_fd: int | None, content: bytes = b"") -> None:
        slot, status = self._slot(path, dir_fd), _status(path, dir_fd)
        if slot is not None and status is not None:
            self._create(call, slot, status, kind, content)

    def _is_ours(self, file: Any) -> bool:
        if isinstance(file, int):
            return self._number_of(file) is not None
        return isinstance(file, str | bytes | os.PathLike) and self._slot(file) is not None

    def _refusing(self, name: str, place: int) -> Callable[..., Any]:
        def refuse_below_the_root(*arguments: Any, **options: Any) -> Any:
            if self._is_ours(arguments[place]):
                self._refuse(f"os.{name}")
            return self._real[name](*arguments, **options)

        return refuse_below_the_root

    def _python_open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if WRITING_MODES & set(mode) and self._is_ours(file):
            self._refuse(f"open({file!r}, {mode!r})")
        return self._real_open(file, mode, *arguments, **options)


def _status(path: Any, dir_fd: int | None) -> os.stat_result | None:
    with contextlib.suppress(OSError):
        return os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    return None
