"""A second place for verified versions: another disk, or any URL that fsspec knows.

Conventions:

- A file is uploaded under a temporary name and read back, and only then takes its name: what has a version's name in a mirror was whole
  there. Of a sharded version ``SEAL.json`` comes last, and a directory without it is none.
- A mirror belongs to one folder of versions. Another version that stands there under the same name is never overwritten, a damaged copy is
  copied anew, and what has no version's name is never touched.
- Nothing runs in a thread here, and every failure is a MirrorError: whoever is training decides that it goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from musictrain.checkpoints import disk
from musictrain.checkpoints.catalog import NAME, version_name
from musictrain.checkpoints.remote import RemoteFolder
from musictrain.checkpoints.seal import LONGEST_COMMENT, SEAL_FILE, Seal, SealError, comment_length, read_seal, seal_of_comment
from musictrain.checkpoints.verification import BrokenCheckpointError, digest_of, verify

log = logging.getLogger(__name__)

LONGEST_SEAL_FILE = 2**26


class MirrorError(OSError):
    """Something could not be copied, listed, brought back or removed; the message says what, where, and what to do."""


@dataclass(frozen=True)
class Mirror:
    """The second place; nothing is opened before it is used.

    Args:
        url: a folder, or a URL such as ``s3://bucket/run``; made when the first version is copied.

    Raises:
        ValueError: if it is empty or no text.
    """

    url: str

    def __post_init__(self) -> None:
        if not isinstance(self.url, str | os.PathLike) or not str(self.url):
            raise ValueError(f"Mirror got url={self.url!r}, expected a folder or a URL such as s3://bucket/run.")
        url = str(self.url)
        # The working directory may be another one by the time it is used.
        object.__setattr__(self, "url", url if "://" in url or "::" in url else str(Path(url).expanduser().absolute()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Mirror, (self.url,)

    @cached_property
    def _there(self) -> RemoteFolder:
        return RemoteFolder(self.url)

    def copy(self, path: str | Path) -> str:
        """Copy a version, unless it is there already; gives back its name there. Both sides are read in full.

        Raises:
            MirrorError: if the version is missing or damaged, the place cannot be written or gave back other bytes than it was given, or
                another version stands there under its name.
        """
        path = Path(path)
        with self._failing(f"{path.name} could not be copied"):
            seal = self._checked(path)
            for leftover in self._leftovers():
                if leftover.endswith(f"-{path.name}"):
                    self._there.remove(leftover)
            for relative, size, digest in _files_of(path, seal):
                self._copy_file(path / relative, f"{path.name}/{relative}".rstrip("/"), (size, digest))
        return path.name

    def _checked(self, path: Path) -> Seal:
        if not NAME.fullmatch(path.name):
            raise MirrorError(f"{path} is not called as a version is (v000012_step000450.ckpt). A mirror holds versions only.")
        if self._there.local is not None and self._there.local.resolve() == path.parent.resolve():
            raise MirrorError(f"The mirror {self.url} is the folder of the versions itself. Give another place.")
        seal = verify(path)
        there = self._seal_there(path.name)
        if there is not None and there.sha256 != seal.sha256:
            raise MirrorError(
                f"{self.url} holds another {path.name} already, of step {there.step:,} of run {there.run or 'unknown'}. "
                "Give every run a mirror of its own."
            )
        return seal

    def _seal_there(self, name: str) -> Seal | None:
        """The seal of what has a version's name there; None if there is nothing, or nothing with a seal that can be read."""
        sealed = f"{name}/{SEAL_FILE}" if self._there.is_folder(name) else name
        if not self._there.exists(sealed):
            return None
        tail = self._there.tail(sealed, LONGEST_COMMENT if sealed == name else LONGEST_SEAL_FILE)
        try:
            return seal_of_comment(tail[len(tail) - comment_length(tail) :])
        except SealError:
            return None

    def _copy_file(self, source: Path, name: str, expected: tuple[int, str]) -> None:
        if self._there.exists(name):
            if self._there.digest(name) == expected:
                return
            log.warning("%s is damaged in the mirror %s, and is copied again.", name, self.url)
        self._there.put(source, name, expected)

    def names(self) -> list[str]:
        """Names of the versions there, by number; none if the place does not exist yet.

        Raises:
            MirrorError: if it cannot be listed.
        """
        with self._failing("The versions could not be listed"):
            return [name for name in self._there.entries() if NAME.fullmatch(name) and self._is_whole(name)]

    def _is_whole(self, name: str) -> bool:
        return not self._there.is_folder(name) or self._there.exists(f"{name}/{SEAL_FILE}")

    def _leftovers(self) -> list[str]:
        return [name for name in self._there.entries() if name.startswith(disk.TEMPORARY)]

    def fetch(self, name: str, folder: str | Path) -> Path:
        """Bring a version back into a folder, which is made if it is missing; gives back its path. It is verified before it takes its name.

        Raises:
            MirrorError: if it is not there, is damaged there, or the folder cannot be written or holds that name already.
        """
        folder = Path(folder)
        with self._failing(f"{name} could not be brought back to {folder}"):
            if name not in self.names():
                raise MirrorError(f"{self.url} holds no version {name}. It holds: {', '.join(self.names()) or 'none'}.")
            target = folder / name
            if os.path.lexists(target):
                raise MirrorError(f"{target} is there already. Rename or remove it first.")
            folder.mkdir(parents=True, exist_ok=True)
            if self._there.is_folder(name):
                self._fetch_folder(name, target)
            else:
                self._fetch_file(name, target)
            return target

    def _fetch_file(self, name: str, target: Path) -> None:
        with disk.new_file(target, replace=False) as file:
            self._there.get(name, file)
            file.finish()
            self._check_fetched(file.path, name)

    def _fetch_folder(self, name: str, target: Path) -> None:
        temporary = disk.temporary_name(target)
        temporary.mkdir()
        try:
            self._fetch_inside(temporary, name, SEAL_FILE)
            for relative in read_seal(temporary).files:
                self._fetch_inside(temporary, name, relative)
            self._check_fetched(temporary, name)
            for each, _, _ in os.walk(temporary):
                disk.sync_folder(Path(each))
            disk.rename(temporary, target)
        except BaseException:
            if temporary.exists():
                disk.remove(temporary)
            raise

    def _fetch_inside(self, temporary: Path, name: str, relative: str) -> None:
        if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts or "\\" in relative:
            raise MirrorError(f"The seal of {name} in {self.url} names {relative!r}, which lies outside of it: it was tampered with.")
        inside = temporary / relative
        inside.parent.mkdir(parents=True, exist_ok=True)
        with disk.new_file(inside, replace=False) as file:
            self._there.get(f"{name}/{relative}", file)

    def _check_fetched(self, path: Path, name: str) -> None:
        try:
            seal = verify(path)
        except BrokenCheckpointError as error:
            raise MirrorError(f"{name} is damaged in {self.url} too: {error.reason}. Bring back another one.") from error
        if version_name(seal.number, seal.step) != _without_tags(name):
            raise MirrorError(f"{name} in {self.url} holds {version_name(seal.number, seal.step)}: it was renamed. Bring back another one.")

    def prune(self, keep: Collection[str]) -> list[str]:
        """Remove all versions but some, and what interrupted copies left behind; gives back the names of the versions removed.

        Args:
            keep: names of versions, with or without tags and ending: a version that is thin or pinned by now keeps its full copy.

        Raises:
            MirrorError: if one of ``keep`` is no version's name (nothing is removed then), or something cannot be removed.
        """
        with self._failing("The mirror could not be pruned"):
            kept = {_without_tags(name) for name in keep}
            removed = [name for name in self.names() if _without_tags(name) not in kept]
            for name in removed:
                if self._there.is_folder(name):
                    # The seal first: half a version must not look whole.
                    self._there.remove(f"{name}/{SEAL_FILE}")
                self._there.remove(name)
            for name in self._leftovers():
                self._there.remove(name)
            return removed

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except MirrorError:
            raise
        except ImportError as error:
            raise MirrorError(f"{what}: {self.url} needs another library ({error}). Install it, or give another place.") from error
        except BrokenCheckpointError as error:
            raise MirrorError(f"{what} to the mirror {self.url}: {error}") from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise MirrorError(
                f"{what}, mirror {self.url}: {reason}. See whether the place is there, has room and can be written."
            ) from error


def _without_tags(name: str) -> str:
    found = NAME.fullmatch(name) or NAME.fullmatch(f"{name}.ckpt")
    if found is None:
        raise MirrorError(f"{name!r} is no version's name, such as v000012_step000450. Nothing was removed.")
    return version_name(int(found["number"]), int(found["step"]))


def _files_of(path: Path, seal: Seal) -> list[tuple[str, int, str]]:
    """Name inside the version, size and SHA-256 of each of its files, the seal last; the name of a single file is empty."""
    if not path.is_dir():
        return [("", *digest_of(path))]
    inside = [(relative, int(each["size"]), str(each["sha256"])) for relative, each in seal.files.items()]
    return [*inside, (SEAL_FILE, *digest_of(path / SEAL_FILE))]
