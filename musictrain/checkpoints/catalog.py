"""Which versions a folder holds, found by their names and seals alone. Standard library only.

Conventions:

- ``v000012_step000450.ckpt`` is version 12, saved after 450 optimizer steps. ``.pinned`` before the ending means that nothing removes it,
  ``.thin`` that it was reduced to its weights.
- What has another name is somebody else's and never touched. ``*.corrupt`` did not verify and was set aside, ``*.abandoned`` lies on
  a branch that training turned away from; neither is ever picked.
- The last version is the one with the highest step that verifies, whatever clocks, pointers and databases say.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from musictrain.checkpoints import disk
from musictrain.checkpoints.seal import Seal, SealError, read_seal
from musictrain.checkpoints.verification import UNREADABLE, BrokenCheckpointError, verify

log = logging.getLogger(__name__)

NAME = re.compile(r"v(?P<number>\d{6,})_step(?P<step>\d{6,})(?P<tags>(?:\.(?:pinned|thin))*)\.ckpt")
MOST_REASONS = 5


class NoGoodVersionError(ValueError):
    """A folder holds versions, and none can be used; the message says why each cannot."""


@dataclass(frozen=True)
class Version:
    """One stored version as its name and its seal describe it.

    Args:
        path: the file or directory.
        number: counts the versions of the folder.
        step: optimizer steps done.
        tags: ``pinned``, ``thin``.
        seal: None if it cannot be read.
        problem: why not, empty otherwise.
        stored_bytes: its size on disk.
    """

    path: Path
    number: int
    step: int
    tags: frozenset[str] = frozenset()
    seal: Seal | None = None
    problem: str = ""
    stored_bytes: int = 0

    @property
    def name(self) -> str:
        """Its name without tags and ending: ``v000012_step000450``."""
        return version_name(self.number, self.step)

    @property
    def pinned(self) -> bool:
        """Whether nothing removes it."""
        return "pinned" in self.tags

    @property
    def thin(self) -> bool:
        """Whether only its weights are left."""
        return "thin" in self.tags

    @property
    def good(self) -> bool:
        """Whether its seal can be read and calls it healthy."""
        return self.seal is not None and self.seal.healthy

    @property
    def vetoed(self) -> str:
        """Why it is never called best, empty if it may be."""
        return "" if self.seal is None else self.seal.vetoed

    @property
    def resumable(self) -> bool:
        """Whether training can go on from it, as far as its seal tells."""
        return self.seal is not None and self.seal.resumable

    def metric(self, name: str) -> float:
        """A value that was logged at its step, nan if it was not."""
        return math.nan if self.seal is None else self.seal.metrics.get(name, math.nan)


def version_name(number: int, step: int) -> str:
    """The name of a version without tags and ending.

    >>> version_name(12, 450)
    'v000012_step000450'
    """
    return f"v{number:06d}_step{step:06d}"


def version_path(folder: Path, number: int, step: int, *tags: str) -> Path:
    """Where a version with these tags lies."""
    return folder / "".join([version_name(number, step), *(f".{tag}" for tag in sorted(tags)), ".ckpt"])


def list_versions(folder: str | Path) -> list[Version]:
    """All versions of a folder by number, none if it is missing. Only their seals are read.

    Where a thinned version's original is still there (its removal was interrupted), the original alone is listed.
    """
    found: dict[tuple[int, int], Version] = {}
    for version in sorted((_version(entry) for entry in _entries(folder)), key=lambda each: (each.number, each.step, each.thin)):
        key = (version.number, version.step)
        if key not in found or found[key].seal is None:
            found[key] = version
    return [found[key] for key in sorted(found)]


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []


def _version(entry: os.DirEntry[str]) -> Version:
    name = NAME.fullmatch(entry.name)
    assert name is not None
    tags = frozenset(tag for tag in name["tags"].split(".") if tag)
    version = Version(Path(entry.path), int(name["number"]), int(name["step"]), tags)
    try:
        if entry.is_symlink():
            raise SealError("it is a symbolic link")
        seal = read_seal(entry.path)
        if seal.number != version.number or seal.step != version.step:
            raise SealError(f"its seal is that of {version_name(seal.number, seal.step)}: it was renamed or copied")
        return replace(version, seal=seal, stored_bytes=_size(entry, seal))
    except SealError as error:
        return replace(version, problem=str(error), stored_bytes=_plain_size(entry))
    except OSError as error:
        return replace(version, problem=f"{UNREADABLE} ({error.strerror or error})", stored_bytes=_plain_size(entry))


def _size(entry: os.DirEntry[str], seal: Seal) -> int:
    return sum(int(each.get("size", 0)) for each in seal.files.values()) if seal.files else _plain_size(entry)


def _plain_size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def next_number(folder: str | Path) -> int:
    """One more than any version ever had here, those that were set aside included."""
    try:
        names = [path.name for path in Path(folder).iterdir()]
    except FileNotFoundError:
        return 1
    numbers = [int(found[1]) for name in names if (found := re.match(r"v(\d{6,})_step\d{6,}\.", name))]
    return max(numbers, default=0) + 1


def last_good(folder: str | Path, *, set_aside: bool = False) -> Version | None:
    """The version with the highest step that verifies and can be resumed; None if the folder holds no version at all.

    Args:
        folder: of the versions.
        set_aside: whether those that do not verify are renamed to ``*.corrupt`` on the way. Only for who owns the folder.

    Raises:
        NoGoodVersionError: if there are versions and none will do.
    """
    versions = [version for version in list_versions(folder) if not version.thin]
    newest_first = sorted(versions, key=lambda version: (version.step, version.number), reverse=True)
    usable = [version for version in newest_first if not _unfit(version)]
    # A version with weights that are not finite is better than none, and worse than any other.
    finite = [version for version in usable if version.seal is None or "finite" not in version.seal.ill]
    chosen, reasons = first_that_verifies([*finite, *(version for version in usable if version not in finite)], set_aside=set_aside)
    if chosen is None and (reasons or versions):
        reasons = [*reasons, *(f"{version.path.name}: {_unfit(version)}" for version in newest_first if _unfit(version))]
        raise NoGoodVersionError(no_good(folder, reasons))
    return chosen


def _unfit(version: Version) -> str:
    return f"it is a version of kind {version.seal.kind}" if version.seal is not None and not version.resumable else ""


def no_good(folder: str | Path, reasons: list[str]) -> str:
    """What to say where versions are and none is good."""
    more = f" And {len(reasons) - MOST_REASONS} more." if len(reasons) > MOST_REASONS else ""
    return (
        f"None of the {len(reasons)} versions in {folder} can be gone on from. "
        + " ".join(f"{each}." for each in reasons[:MOST_REASONS])
        + more
        + " Nothing was started from step 0: bring a version back with `musictrain checkpoints restore`, or start a new run."
    )


def first_that_verifies(versions: Iterable[Version], *, set_aside: bool = False) -> tuple[Version | None, list[str]]:
    """The first of some versions that is whole, and what is wrong with those before it."""
    reasons: list[str] = []
    for version in versions:
        problem = version.problem
        try:
            if not problem:
                return replace(version, seal=verify(version.path)), reasons
        except BrokenCheckpointError as error:
            problem = error.reason
        log.warning("%s is passed over: %s.", version.path.name, problem)
        reasons.append(f"{version.path.name}: {problem}")
        # What the disk refuses to show today may be whole tomorrow.
        if set_aside and UNREADABLE not in problem:
            put_aside(version.path, "corrupt")
    return None, reasons


def put_aside(path: Path, why: str) -> Path | None:
    """Rename a version so that it is never picked again, and lost neither; gives back its new path, None if the disk refuses."""
    for attempt in range(100):
        target = path.with_name(f"{path.name}.{why}" + (f"-{attempt}" if attempt else ""))
        try:
            disk.rename(path, target)
        except FileExistsError:
            continue
        except OSError as error:
            log.warning("%s could not be set aside: %s", path, error)
            return None
        return target
    return None


def best_versions(versions: Iterable[Version], metric: str, mode: str = "min") -> list[Version]:
    """The healthy versions that have a finite value of a metric and were not vetoed, best first; of equal ones the newer first."""
    sign = 1 if mode == "min" else -1
    scored = [version for version in versions if version.good and not version.vetoed and math.isfinite(version.metric(metric))]
    return sorted(scored, key=lambda version: (sign * version.metric(metric), -version.step, -version.number))


def best_good(folder: str | Path, metric: str, mode: str = "min") -> Version | None:
    """The healthy version with the best value of a metric that verifies; None if none has one."""
    return first_that_verifies(best_versions(list_versions(folder), metric, mode))[0]
