"""A folder anywhere that fsspec reaches, and files that are whole there: read back before they take their name.

Conventions: names are relative to the folder, parts joined by "/". Errors are whatever the file system raises.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from musictrain.checkpoints import disk

BLOCK = 4 * 2**20


class RemoteError(OSError):
    """A place gave back other bytes than it was given."""


class RemoteFolder:
    """A folder at a URL; nothing is opened before it is used.

    Args:
        url: what ``fsspec.url_to_fs`` takes.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec

        filesystem, root = fsspec.url_to_fs(self.url)
        return filesystem, str(root).rstrip("/")

    def _at(self, name: str) -> tuple[Any, str]:
        filesystem, root = self._opened
        return filesystem, f"{root}/{name}"

    @property
    def local(self) -> Path | None:
        """Where it lies if it is an ordinary folder of this machine."""
        filesystem, root = self._opened
        protocols = [filesystem.protocol] if isinstance(filesystem.protocol, str) else filesystem.protocol
        return Path(root) if "file" in protocols else None

    def entries(self) -> list[str]:
        """Names of what lies in it, sorted; none if there is no such folder."""
        filesystem, root = self._opened
        filesystem.invalidate_cache()
        try:
            return sorted(PurePosixPath(str(entry)).name for entry in filesystem.ls(root, detail=False))
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""
        filesystem, path = self._at(name)
        filesystem.invalidate_cache()
        return bool(filesystem.exists(path))

    def is_folder(self, name: str) -> bool:
        """Whether it is a folder."""
        filesystem, path = self._at(name)
        return bool(filesystem.isdir(path))

    def digest(self, name: str) -> tuple[int, str]:
        """Size in bytes and SHA-256, in hexadecimal, of what is read from there."""
        filesystem, path = self._at(name)
        digest, size = hashlib.sha256(), 0
        with filesystem.open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                size += len(block)
        return size, digest.hexdigest()

    def tail(self, name: str, most: int) -> bytes:
        """The last bytes of a file, ``most`` of them at the most."""
        filesystem, path = self._at(name)
        with filesystem.open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return bytes(file.read())

    def put(self, source: Path, name: str, expected: tuple[int, str]) -> None:
        """Copy a file there. It takes its name, from a damaged one if need be, after its size and SHA-256 were found as expected there.

        Raises:
            RemoteError: if they were not; nothing is kept there then.
        """
        filesystem, final = self._at(name)
        folder, _, last = final.rpartition("/")
        temporary = f"{folder}/{disk.temporary_name(Path(last)).name}"
        filesystem.makedirs(folder, exist_ok=True)
        try:
            filesystem.put_file(str(source), temporary)
            self._sync_file(temporary)
            self._check(temporary, expected)
            if self.exists(name):
                filesystem.rm_file(final)
            self._rename(temporary, final)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong before is what matters
                filesystem.rm_file(temporary)
            raise
        if self.local is not None:
            disk.sync_folder(Path(folder))
            disk.sync_folder(Path(folder).parent)

    def _rename(self, temporary: str, final: str) -> None:
        filesystem, _ = self._opened
        if self.local is not None:
            filesystem.mv(temporary, final)
        else:
            # What mv does elsewhere, but for names with brackets, stars and question marks: it takes them for patterns.
            filesystem.cp_file(temporary, final)
            filesystem.rm_file(temporary)

    def _sync_file(self, path: str) -> None:
        if self.local is None:
            return
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _check(self, path: str, expected: tuple[int, str]) -> None:
        _, root = self._opened
        found = self.digest(path.removeprefix(f"{root}/"))
        if found != expected:
            raise RemoteError(
                f"it gave back {found[0]:,} bytes with SHA-256 {found[1][:12]}, and was given {expected[0]:,} with {expected[1][:12]}"
            )

    def get(self, name: str, file: disk.HashedFile) -> None:
        """Copy what a file holds there into one that is being written here."""
        filesystem, path = self._at(name)
        with filesystem.open(path, "rb") as source:
            while block := source.read(BLOCK):
                file.write(block)

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all in it."""
        filesystem, path = self._at(name)
        if self.local is not None:
            filesystem.rm(path, recursive=True)
            return
        # Elsewhere rm takes names for patterns, and could reach into other runs.
        for each in filesystem.find(path):
            filesystem.rm_file(each)
        with contextlib.suppress(Exception):  # where folders are more than a part of names
            filesystem.rmdir(path)
