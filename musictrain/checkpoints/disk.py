"""How bytes reach the disk so that a crash leaves the old state or the new one. Standard library only.

Every call that changes the disk goes through ``os.open``, ``os.write``, ``os.fsync``, ``os.link``, ``os.rename``, ``os.replace``,
``os.unlink``, ``os.mkdir`` and ``os.rmdir``: the tests kill the program before each of them, and work out what a power cut may leave.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".incoming-"
CHUNK = 4 * 2**20
# What some network file systems say to the fsync of a directory: they need none.
NO_NEED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
# What file systems without hard links say.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS, errno.EACCES}
_numbers = itertools.count()


class HashedFile:
    """A new file that is written from front to back, with the SHA-256 of what was written.

    Args:
        path: must not exist; a symbolic link is not followed.
        hold_back: so many bytes at the end stay in memory until ``finish``, which may change them.

    Raises:
        OSError: if it cannot be created.
    """

    def __init__(self, path: Path, hold_back: int = 0) -> None:
        self.path = path
        self.error: BaseException | None = None
        self._descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666
        )
        self._hold_back = hold_back
        self._pending = bytearray()
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes; small ones are gathered.

        Raises:
            OSError: if the disk refuses them. It is kept in ``error`` too, since libraries in between replace it by one of their own.
        """
        view = memoryview(data).cast("B")
        if len(view) >= CHUNK:
            # Past the buffer: a large tensor is not copied once more.
            self._spill(keep=0)
            cut = len(view) - self._hold_back
            self._write_through(view[:cut])
            self._pending += view[cut:]
        else:
            self._pending += view
            if len(self._pending) >= CHUNK:
                self._spill(keep=self._hold_back)
        return len(view)

    def flush(self) -> None:
        """Nothing: ``finish`` does it."""

    def _spill(self, keep: int) -> None:
        end = len(self._pending) - keep
        if end > 0:
            with memoryview(self._pending) as whole, whole[:end] as part:
                self._write_through(part)
            del self._pending[:end]

    def _write_through(self, view: memoryview) -> None:
        self._digest.update(view)
        self.size += len(view)
        done = 0
        try:
            while done < len(view):
                with view[done : done + CHUNK] as part:
                    done += os.write(self._descriptor, part)
        except BaseException as error:
            self.error = error
            raise

    def held_back(self) -> bytes:
        """The bytes at the end that can still be changed, after everything before them has been written."""
        self._spill(keep=self._hold_back)
        return bytes(self._pending)

    def replace_end(self, end: bytes) -> str:
        """Write other bytes instead of those held back; gives back the SHA-256 of all bytes so far, in hexadecimal."""
        self._pending.clear()
        self._write_through(memoryview(end))
        return self._digest.hexdigest()

    def append(self, data: bytes) -> None:
        """Write bytes that the digest does not cover."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self) -> str:
        """Write what is left, and wait until the disk has it all; gives back the SHA-256 in hexadecimal."""
        self._spill(keep=0)
        os.fsync(self._descriptor)
        return self._digest.hexdigest()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def temporary_name(final: Path) -> Path:
    """A name beside ``final`` that nobody else uses: a rename is atomic within one file system only."""
    return final.with_name(f"{TEMPORARY}{os.getpid()}-{next(_numbers)}-{final.name}")


@contextmanager
def new_file(final: Path, *, replace: bool, hold_back: int = 0) -> Iterator[HashedFile]:
    """A file that takes its final name when the block is left, whole and durable, or not at all.

    Args:
        final: the name; its folder exists.
        replace: whether an older file of that name gives way; otherwise it is an error, and the older one stays.
        hold_back: see HashedFile.

    Raises:
        FileExistsError: if the name is taken and ``replace`` is off.
        OSError: whatever the disk says; the temporary file is removed if that is still possible.
    """
    file = HashedFile(temporary_name(final), hold_back)
    try:
        yield file
        file.finish()
        file.close()
        commit(file.path, final, replace=replace)
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            os.unlink(file.path)
        raise


def commit(temporary: Path, final: Path, *, replace: bool) -> None:
    """Give a synced file its final name in one step, and make that name survive a power cut."""
    if replace:
        os.replace(temporary, final)
    else:
        _take_name(temporary, final)
    sync_folder(final.parent)


def _take_name(temporary: Path, final: Path) -> None:
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error
        os.replace(temporary, final)
    else:
        os.unlink(temporary)


def make_folder(folder: Path) -> None:
    """Make a folder, and see to it that its name and its parent's survive a power cut, whoever made them just now."""
    folder.mkdir(parents=True, exist_ok=True)
    for parent in list(folder.resolve().parents)[:2]:
        sync_folder(parent)


def sync_folder(folder: Path) -> None:
    """Make new names, renames and removals in ``folder`` survive a power cut.

    Raises:
        OSError: if the disk fails; not where a file system knows no such thing.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return  # Windows cannot open a folder
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_NEED:
            raise
    finally:
        os.close(descriptor)


def rename(old: Path, new: Path) -> None:
    """Give a file or directory another name in its folder, durably.

    Raises:
        FileExistsError: if the new name is taken.
    """
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    os.rename(old, new)
    sync_folder(new.parent)


def remove(path: Path) -> None:
    """Remove a file, or a directory of files, durably. A directory first takes a temporary name, so that no half of it is ever seen."""
    if path.is_dir() and not path.is_symlink():
        hidden = temporary_name(path)
        os.rename(path, hidden)
        sync_folder(path.parent)
        _remove_tree(hidden)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    sync_folder(path.parent)


def _remove_tree(folder: Path) -> None:
    with os.scandir(folder) as entries:
        inside = list(entries)
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(Path(entry.path))
        else:
            os.unlink(entry.path)
    os.rmdir(folder)


def _lives_elsewhere(name: str) -> bool:
    number = name[len(TEMPORARY) :].partition("-")[0]
    if not number.isdigit() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def remove_leftovers(folder: Path) -> int:
    """Remove what writers that died have left behind; gives back how many. Other processes that live may be writing still."""
    found = list(folder.glob(f"{TEMPORARY}*")) if folder.is_dir() else []
    leftovers = [path for path in found if not _lives_elsewhere(path.name)]
    for path in leftovers:
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                _remove_tree(path)
            else:
                os.unlink(path)
    return len(leftovers)
