"""VersionFolder: what the one process that writes a folder of versions does there, from the lock to the removals.

Everything after ``request`` happens in the writer's thread: the version is stored, read back, and only then may older ones go.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from musictrain.checkpoints import disk
from musictrain.checkpoints.catalog import (
    Version,
    first_that_verifies,
    list_versions,
    next_number,
    put_aside,
    version_name,
    version_path,
)
from musictrain.checkpoints.checkpoint_io import SaveRequest
from musictrain.checkpoints.lock import FolderLock
from musictrain.checkpoints.retention import Retention, decide
from musictrain.checkpoints.run_mirror import mirror_of_run
from musictrain.checkpoints.seal import LATER_SCHEMA, Seal
from musictrain.checkpoints.sharded import seal_directory
from musictrain.checkpoints.sizes import mib
from musictrain.checkpoints.verification import UNREADABLE, BrokenCheckpointError, verify
from musictrain.checkpoints.writer import BackgroundWriter
from musictrain.runs.alerts import alert

log = logging.getLogger(__name__)

# Versions that must fit beside each other while one replaces another.
ROOM_FOR = 2


class LostCheckpointError(OSError):
    """Training is over, and its last version could not be stored."""


class VersionFolder:
    """Owns a folder of versions.

    Args:
        folder: made if missing.
        retention: which versions stay.
        mirror: URL of where verified versions are copied to, None for nowhere.
        record: called with an event's name and details whenever something happens; from another thread too.
    """

    def __init__(
        self, folder: Path, retention: Retention, mirror: str | None = None, record: Callable[..., None] = lambda event, **details: None
    ) -> None:
        self.folder, self.retention, self._record = Path(folder), retention, record
        self.mirror = mirror_of_run(mirror, self.folder.resolve().parent.name) if mirror else None
        self._lock = FolderLock(self.folder)
        self._copies = BackgroundWriter()
        self._guard = threading.Lock()
        self.parent = ""
        self.protected: set[int] = set()
        self.stored: list[Version] = []
        self.stored_bytes = self.plain_bytes = 0
        self._asked = self._last_stored = 0
        self._failure = (0, "")

    def open(self) -> None:
        """Take the folder, and clear away what writers that died have left in it.

        Raises:
            FolderInUseError: if another process is training there.
            OSError: if it cannot be written, saying why.
        """
        try:
            disk.make_folder(self.folder)
            self._lock = FolderLock(self.folder)
            self._lock.acquire()
        except OSError as error:
            why = error.strerror or str(error)
            raise OSError(error.errno, f"No version can be saved in {self.folder}: {why}. Free it, or give another dirpath.") from error
        if leftovers := disk.remove_leftovers(self.folder):
            log.info("Removed %d unfinished files from %s.", leftovers, self.folder)

    def close(self, wait_seconds: float) -> None:
        """Let the copies to the mirror finish, and give the folder back."""
        if self.mirror is not None and not self._copies.wait(wait_seconds):
            log.warning("The mirror %s is behind: not every version has been copied.", self.mirror.url)
        self._lock.release()

    def go_on_from(self, path: Path | None, step: int) -> None:
        """Training goes on after ``step`` from the version at ``path``: what lies beyond in this folder is on a branch it turned away from.

        Broken versions become ``*.corrupt``, sound ones ``*.abandoned``; none is removed. Without a path it goes on from what the trainer
        has come to itself: the last version of that step.
        """
        versions = list_versions(self.folder)
        here = [version for version in versions if path is not None and version.path.resolve() == Path(path).resolve()]
        if path is None and step > 0:
            here = sorted((version for version in versions if version.step == step), key=lambda version: version.number)[-1:]
        self.parent = here[0].name if here else ""
        self.protected = {version.number for version in here}
        for version in versions:
            beyond = version.step > step or (version.step == step and bool(here) and version.number > here[0].number)
            if beyond and (version.seal is None or version.resumable or version.thin):
                _, reasons = first_that_verifies([version])
                broken = bool(reasons) and not any(passing in reasons[0] for passing in (UNREADABLE, LATER_SCHEMA))
                put_aside(version.path, "corrupt" if broken else "abandoned")
                self._tell("version_set_aside", version=version.name, reason=reasons[0] if reasons else "another branch is trained")

    def highest_step(self) -> int | None:
        """The highest step of any version, None if there is none."""
        return max((version.step for version in list_versions(self.folder)), default=None)

    def check_room(self, size: int) -> None:
        """Refuse to begin where not even two versions of ``size`` bytes fit.

        Raises:
            OSError: saying how much there is.
        """
        free = shutil.disk_usage(self.folder).free
        if free < ROOM_FOR * size:
            raise OSError(
                f"{self.folder} has {mib(free)} left, and a version of this run takes up to {mib(size)}, of which {ROOM_FOR} must fit. "
                "Make room, or keep runs elsewhere with --runs."
            )

    # A save.

    def request(self, facts: Seal) -> tuple[Path, SaveRequest]:
        """Where the next version goes, and how it is to be stored."""
        path, facts = self._next_name(facts)
        self.parent = version_name(facts.number, facts.step)
        self._asked += 1
        request = SaveRequest(facts, replace=False, make_room=self._make_room)
        request.stored, request.failed = partial(self._stored, self._asked), partial(self._failed, self._asked)
        request.next_name = lambda: self._next_name(request.facts)
        request.began = time.monotonic()
        return path, request

    def _next_name(self, facts: Seal) -> tuple[Path, Seal]:
        try:
            number = next_number(self.folder)
        except OSError as error:  # the save will say so itself, and not end the training
            log.warning("%s cannot be listed: %s", self.folder, error)
            number = 1
        with self._guard:
            # One that is still being written has its number already.
            number = max(number, self._last_number + 1)
            self._last_number = number
        parent = facts.parent or self.parent
        return version_path(self.folder, number, facts.step), replace(facts, number=number, created=time.time(), parent=parent)

    _last_number = 0

    def store_shards(self, hidden: Path, path: Path, request: SaveRequest) -> None:
        """Seal a directory that all processes have written their share into."""
        assert request.stored is not None
        assert request.failed is not None
        try:
            seal = seal_directory(hidden, path, request.facts)
        except (OSError, ValueError) as error:
            request.failed(path, error)
        else:
            request.stored(path, seal)

    def _stored(self, turn: int, path: Path, seal: Seal) -> None:
        try:
            verify(path)
        except (BrokenCheckpointError, MemoryError) as error:
            # What cannot be read today may be whole tomorrow.
            if isinstance(error, BrokenCheckpointError) and UNREADABLE not in error.reason:
                put_aside(path, "corrupt")
            self._failed(turn, path, error)
            return
        size = path.stat().st_size if path.is_file() else sum(int(each["size"]) for each in seal.files.values())
        with self._guard:
            self._last_stored = max(self._last_stored, turn)
            self.stored.append(Version(path, seal.number, seal.step, seal=seal, stored_bytes=size))
            self.stored_bytes += size
            self.plain_bytes += seal.plain_size
        self._tell("saved", version=path.name, step=seal.step, reason=seal.reason, bytes=size, plain_bytes=seal.plain_size,
                   healthy=seal.healthy, ill=seal.ill or None, vetoed=seal.vetoed or None, metrics=dict(seal.metrics))  # fmt: skip
        if seal.ill:
            alert(log, f"{path.name} does not count as good: {seal.ill}.", kind="version_unhealthy", step=seal.step)
        if self.mirror is not None:
            self._copies.submit(lambda: self._copy(path))
        self._lock.renew()
        self.prune(self.retention)

    def _copy(self, path: Path) -> None:
        if not path.exists():
            return  # removed again before its turn came
        try:
            assert self.mirror is not None
            self.mirror.copy(path)
        except Exception as error:
            alert(log, f"{path.name} could not be copied to the mirror: {error} Training goes on.", kind="mirror_failed")
            self._tell("mirror_failed", version=path.name, error=str(error))
        else:
            self._tell("mirrored", version=path.name)

    def _failed(self, turn: int, path: Path, error: BaseException) -> None:
        reason = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
        with self._guard:
            self._failure = max(self._failure, (turn, reason))
        advice = "Training goes on; the next save tries again."
        alert(log, f"{path.name} could not be stored: {reason}.", kind="save_failed", advice=advice, level=logging.ERROR)
        self._tell("save_failed", version=path.name, error=f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError, ValueError):  # a terminal may be closed, or of few letters
            print(f"\nNOT SAVED  {path.name}: {reason}. {advice}", flush=True)

    def _tell(self, event: str, **details: Any) -> None:
        """Record an event; a full disk under the records must not keep versions from being stored or removed."""
        try:
            self._record(event, **details)
        except OSError as error:
            log.warning("The event %r could not be recorded: %s", event, error)

    # What goes.

    def prune(self, retention: Retention) -> bool:
        """Remove and thin what the rule says; gives back whether anything went."""
        decision = decide(list_versions(self.folder), retention, self.protected)
        for version in decision.remove:
            self._try(disk.remove, version, "removed")
        for version in decision.thin:
            self._try(lambda path, whole=version: _thin(whole), version, "thinned")  # type: ignore[misc]
        return bool(decision.remove or decision.thin)

    def _try(self, act: Callable[[Path], Any], version: Version, event: str) -> None:
        try:
            act(version.path)
        except (OSError, ValueError, MemoryError) as error:
            log.warning("%s could not be %s: %s", version.path.name, event, error)
        else:
            self._tell(event, version=version.path.name)

    def _make_room(self) -> bool:
        # The version that found no room would have taken the place of the oldest of the newest.
        return self.prune(replace(self.retention, newest=max(1, self.retention.newest - 1)))

    def check_stored(self, step: int) -> None:
        """Whether the last save of a run that is over was stored.

        Raises:
            LostCheckpointError: if not, naming what there is.
        """
        there = max(self.stored, key=lambda version: (version.step, version.number), default=None)
        if self._last_stored == self._asked or (there is not None and there.step >= step):
            return
        turn, reason = self._failure
        if turn != self._asked:
            reason = "the disk has not taken it in time (see wait_seconds of CompressedCheckpointIO)"
        last = f"The last version is {there.path} after step {there.step:,}." if there is not None else "There is no version."
        raise LostCheckpointError(f"The training reached step {step:,}, but could not be saved: {reason}. {last}")


def saving_summary(folder: VersionFolder, stalls: list[float]) -> str:
    """How much was stored, what packing has saved, and how long training was held up."""
    packed = f", {100 * (1 - folder.stored_bytes / folder.plain_bytes):.0f} % less than unpacked" if folder.plain_bytes else ""
    return (
        f"{len(folder.stored)} versions saved, {mib(folder.stored_bytes)}{packed}; "
        f"training was held up for {sum(stalls):.2f} s in all, {1000 * max(stalls, default=0.0):.0f} ms at most."
    )


def _thin(version: Version) -> Path:
    from musictrain.checkpoints.exporting import thin_version

    return thin_version(version)
