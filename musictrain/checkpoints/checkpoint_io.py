"""CompressedCheckpointIO: a Lightning plugin that stores checkpoints sealed, packed and off the training thread.

    Trainer(plugins=[CompressedCheckpointIO()])

When: in any Trainer with strategies that write one file; it works with Lightning's own ModelCheckpoint. Cost: a copy of the state in memory
(two at most) and the time to make it; packing and writing happen in a thread. A file that cannot be written is said loudly and training
goes on; what it was to replace stays.
"""

from __future__ import annotations

import atexit
import errno
import logging
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from lightning.fabric.plugins.io import CheckpointIO

from musictrain.checkpoints import disk
from musictrain.checkpoints.packing import PACKINGS
from musictrain.checkpoints.places import place_of, put, remove
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.snapshot import Buffers, first_not_finite, snapshot
from musictrain.checkpoints.storing import load, load_outline, store
from musictrain.checkpoints.writer import BackgroundWriter
from musictrain.runs.alerts import alert
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
REQUEST = "musictrain_request"
# What lies in shards; everything else of a sharded version is in its ``meta.pt``.
SHARDED = ("state_dict", "optimizer_states", "current_model_state")


@dataclass
class SaveRequest:
    """What a caller wants beyond Lightning's interface; handed over as ``storage_options={REQUEST: SaveRequest(...)}``.

    Args:
        facts: for the seal.
        replace: whether an older file of that name gives way.
        stored: called with path and seal once the file is durable.
        failed: called with path and error if it could not be stored.
        make_room: called when the disk is full; whether trying again is worth while.
        next_name: called when the name is taken; gives another one and its facts.
        began: when it was asked for.
        stall_seconds: filled in: how long the training thread was held up.
    """

    facts: Seal = field(default_factory=lambda: Seal("", 0))
    replace: bool = True
    stored: Callable[[Path, Seal], None] | None = None
    failed: Callable[[Path, BaseException], None] | None = None
    make_room: Callable[[], bool] | None = None
    next_name: Callable[[], tuple[Path, Seal]] | None = None
    began: float = 0.0
    stall_seconds: float = 0.0


class CompressedCheckpointIO(CheckpointIO):
    """Stores checkpoints as sealed zip files that ``torch.load`` reads, and loads them verified and with ``weights_only``.

    Args:
        packing: ``optimizer`` packs everything but the weights, exactly; ``all`` the weights too; ``gzip`` is slow and packs like
            ``optimizer``; ``none``.
        background: whether to write in a thread. Files are complete when the fit is over; before, ``wait`` waits for them.
        wait_seconds: how long training waits at most for a slow disk to take an earlier checkpoint, before it goes on without saving; and
            how long the end of the program waits.

    Raises:
        ValueError: for a packing that does not exist.
    """

    def __init__(self, packing: str = "optimizer", background: bool = True, wait_seconds: float = 60.0) -> None:
        if packing not in PACKINGS:
            hint = did_you_mean(packing, PACKINGS) or f"It knows {', '.join(PACKINGS)}."
            raise ValueError(f"CompressedCheckpointIO got packing={packing!r}. {hint}")
        if wait_seconds < 0:
            raise ValueError(f"CompressedCheckpointIO got wait_seconds={wait_seconds}; it needs 0 or more.")
        self.packing = packing
        self.background = background
        self.wait_seconds = wait_seconds
        self.writer = BackgroundWriter()
        self.last_failure: BaseException | None = None
        self.before_use: Callable[[str | Path, dict[str, Any]], None] | None = None
        self._expected: dict[str, SaveRequest] = {}
        self._ended = False
        self._unfollowed = False
        self._waits_at_exit = False

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("writer", "before_use", "_expected", "_waits_at_exit")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.writer, self.before_use, self._expected, self._waits_at_exit = BackgroundWriter(), None, {}, False

    def expect(self, path: str | Path, request: SaveRequest) -> None:
        """How the next save under ``path`` is to be done. Not by storage options: not every strategy passes them on."""
        self._expected[str(path)] = request

    def begin(self) -> None:
        """A fit begins: write in the background again."""
        self._ended = False

    # What Lightning calls.

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Copy the checkpoint, and store the copy under ``path`` in the background.

        Raises:
            UnsafeStateError: if it holds what could not be read back, naming the key.
            TypeError: for storage options, which this plugin does not have.
            OSError: without background, if it cannot be stored.
        """
        request = self._expected.pop(str(path), None) or _request_of(storage_options)
        began = time.perf_counter()
        if not self.background or (self._ended and request.failed is None):
            request.failed = request.failed or _raise
            self._store(snapshot(checkpoint), path, request)
        else:
            self._hand_over(checkpoint, path, request)
        request.stall_seconds = time.perf_counter() - began

    def _hand_over(self, checkpoint: dict[str, Any], path: str | Path, request: SaveRequest) -> None:
        buffers = self.writer.buffers(self.wait_seconds)
        if buffers is None:
            self._give_up(path, request, TimeoutError(f"the disk has not taken the checkpoint before it for {self.wait_seconds:g} seconds"))
            return
        try:
            tree = snapshot(checkpoint, buffers)
        except BaseException as error:
            self.writer.give_back(buffers)
            if not _for_want_of_memory(error):
                raise
            self._give_up(path, request, error)
            return
        self._finish_before_exit()
        self.writer.submit(lambda: self._store(tree, path, request), buffers)

    def do_later(self, job: Callable[[], None]) -> None:
        """Let the thread that writes do something in its turn; at once where there is no background, or it has ended."""
        if not self.background or self._ended:
            job()
            return
        self._finish_before_exit()
        self.writer.submit(job)

    def _give_up(self, path: str | Path, request: SaveRequest, error: BaseException) -> None:
        self._failed(path, request, error)
        # In its turn once more: what comes after it in the queue must not remove what it was to replace.
        self.writer.submit(lambda: setattr(self, "_unfollowed", True))

    def _finish_before_exit(self) -> None:
        if not self._waits_at_exit:
            self._waits_at_exit = True
            atexit.register(_wait_for, weakref.ref(self))

    def _store(self, tree: dict[str, Any], path: str | Path, request: SaveRequest) -> None:
        try:
            if fault := first_not_finite({"state_dict": tree.get("state_dict"), "optimizer_states": tree.get("optimizer_states")}):
                request.facts = replace(request.facts, ill=f"{fault} is not finite")
            path, seal = self._try(tree, path, request)
        except Exception as error:
            self._unfollowed = True
            self._failed(path, request, error)
            return
        self.last_failure, self._unfollowed = None, False
        if request.stored is not None:
            request.stored(Path(path), seal)

    def _try(self, tree: dict[str, Any], path: str | Path, request: SaveRequest) -> tuple[str | Path, Seal]:
        try:
            return path, self._write(tree, path, request)
        except FileExistsError:
            if request.next_name is None:
                raise
            path, request.facts = request.next_name()
        except OSError as error:
            if error.errno not in NO_ROOM or request.make_room is None or not request.make_room():
                raise
            log.warning("The disk is full. What may go was removed, and %s is tried again.", path)
        return path, self._write(tree, path, request)

    def _write(self, tree: dict[str, Any], path: str | Path, request: SaveRequest) -> Seal:
        filesystem, place = place_of(path)
        if filesystem is None:
            disk.make_folder(Path(place).parent)
            return store(tree, place, request.facts, packing=self.packing, replace=request.replace)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "checkpoint"
            seal = store(tree, file, request.facts, packing=self.packing)
            put(file, filesystem, place)
        return seal

    def _failed(self, path: str | Path, request: SaveRequest, error: BaseException) -> None:
        self.last_failure = error
        if request.failed is not None:
            request.failed(Path(path), error)
        else:
            advice = "Training goes on; older checkpoints stay."
            alert(log, f"The checkpoint {path} could not be stored: {error}.", kind="save_failed", advice=advice, level=logging.ERROR)

    def load_checkpoint(self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint, verified, unpacked, and read with ``weights_only`` whatever is asked for.

        Raises:
            FileNotFoundError: if there is none.
            BrokenCheckpointError: if it is damaged or holds more than tensors and plain values.
        """
        self.wait()
        tree = self._load(path, map_location or "cpu")
        if self.before_use is not None:
            self.before_use(path, tree)
        return tree

    def load_metadata(self, path: str | Path) -> dict[str, Any]:
        """What a sharded version holds beside weights and optimizer states, verified; for a strategy that reads those by itself.

        All processes call it; the first one alone reads every byte.

        Raises:
            BrokenCheckpointError: if there is none, or it is damaged or holds more than tensors and plain values; in every process.
        """
        self.wait()
        tree = load_outline(path)
        if self.before_use is not None:
            self.before_use(path, tree)
        return {key: value for key, value in tree.items() if key not in SHARDED}

    def _load(self, path: str | Path, map_location: Any) -> dict[str, Any]:
        filesystem, place = place_of(path)
        if filesystem is None:
            return load(place, map_location=map_location)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "checkpoint"
            filesystem.get_file(place, str(file))
            return load(file, map_location=map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file once everything saved before is durable; not at all if the save before it failed."""
        if self.background and not self._ended:
            self.writer.submit(lambda: self._remove(path))
        else:
            self._remove(path)

    def _remove(self, path: str | Path) -> None:
        if self._unfollowed:
            log.warning("%s stays: the checkpoint that was to follow it could not be stored.", path)
            return
        remove(path)

    def wait(self, timeout: float | None = None) -> bool:
        """Until everything is stored; False if it took longer than ``timeout`` seconds (None: ``wait_seconds``)."""
        return self.writer.on_its_thread or self.writer.wait(self.wait_seconds if timeout is None else timeout)

    def teardown(self) -> None:
        """Wait for what is being stored. From here on saves are complete when they return."""
        if not self.wait():
            log.error("The disk has not taken the last checkpoint for %g seconds: it may be lost.", self.wait_seconds)
        self._ended = True


def _request_of(storage_options: Any) -> SaveRequest:
    if storage_options is None:
        return SaveRequest()
    if isinstance(storage_options, dict) and isinstance(storage_options.get(REQUEST), SaveRequest):
        return cast(SaveRequest, storage_options[REQUEST])
    raise TypeError(f"CompressedCheckpointIO has no storage options, and got {storage_options!r}. Leave them out.")


def _raise(path: Path, error: BaseException) -> None:
    raise error


def _for_want_of_memory(error: BaseException) -> bool:
    # torch's allocators raise a RuntimeError.
    words = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and ("allocate memory" in words or "out of memory" in words))


def _wait_for(plugin: weakref.ref[CompressedCheckpointIO]) -> None:
    if (io := plugin()) is not None:
        io.wait()


__all__ = ["REQUEST", "Buffers", "CompressedCheckpointIO", "SaveRequest"]
