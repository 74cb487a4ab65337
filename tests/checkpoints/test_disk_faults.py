"""Disks that are full, read-only, gone, slow or hung under a training run: it goes on, says so, and keeps what it has."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from musictrain.checkpoints.catalog import last_good, list_versions
from musictrain.checkpoints.checkpoint_io import CompressedCheckpointIO
from musictrain.checkpoints.snapshot import Buffers
from musictrain.checkpoints.verification import verify
from musictrain.checkpoints.version_folder import LostCheckpointError
from musictrain.runs.records import read_records
from tests.checkpoints.fault_injection import folder_in_memory, make_read_only, small_disk
from tests.checkpoints.small_fits import LONGEST_SECONDS, At, Line, fit, hung_disk, on_writers_thread, steps_in

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:You're resuming")
SHORT = 0.05
WIDTH = 2048  # weights of 16 KiB; a version with its optimizer takes about 50 KiB


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run folder where fsync costs nothing, with a file of events in it."""
    with folder_in_memory() as parent:
        (parent / "run").mkdir()
        (parent / "run" / "events.jsonl").touch()
        yield parent / "run"


@pytest.fixture
def disk(run: Path) -> Iterator[Path]:
    """The versions' folder, a disk of 512 KiB of its own."""
    with small_disk(run / "checkpoints", 512) as disk:
        yield disk


@pytest.fixture
def io() -> CompressedCheckpointIO:
    return CompressedCheckpointIO(packing="none", wait_seconds=LONGEST_SECONDS)


class Steps(Callback):
    """Counts the batches that were trained on."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.count += 1


def fill(disk: Path, leave: int = 0) -> None:
    """Use up all but so many bytes."""
    with (disk / "filler").open("ab") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))


def events(run: Path, *wanted: str) -> list[str]:
    return [f"{event['event']} {event['version']}" for event in read_records(run / "events.jsonl") if event["event"] in wanted]


def all_whole(folder: Path) -> bool:
    return all(verify(version.path) for version in list_versions(folder))


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives what makes a folder read-only while files in it are open, as a failing disk does; it is over when the block is left."""
    mounted: list[bool] = []

    def lay_over() -> None:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        mounted.append(True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)

    try:
        yield lay_over
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


# A full disk.


def test_a_disk_that_fills_up_does_not_end_the_training_and_room_lets_it_save_again(
    run: Path, disk: Path, io: CompressedCheckpointIO, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps()
    acts = At({3: lambda: fill(disk), 6: (disk / "filler").unlink})
    with caplog.at_level(logging.ERROR):
        fit(disk, acts, steps, steps=7, model=Line(WIDTH), io=io, newest=1)
    assert steps.count == 7
    failed = [f"v00000{number}_step00000{number - 1}.ckpt" for number in (5, 6, 7)]
    said = capsys.readouterr().out
    assert [name for name in failed if f"NOT SAVED  {name}: No space left on device. Training goes on" in said] == failed
    assert [name for name in failed if f"{name} could not be stored: No space left on device" in caplog.text] == failed
    assert events(run, "save_failed") == [f"save_failed {name}" for name in failed]
    assert steps_in(disk) == [7]
    assert all_whole(disk)
    assert not list(disk.glob(".incoming-*"))


def test_on_a_full_disk_the_newest_version_takes_the_place_of_the_oldest(run: Path, disk: Path, io: CompressedCheckpointIO) -> None:
    fit(disk, At({4: lambda: fill(disk, leave=8 * 1024)}), steps=6, model=Line(WIDTH), io=io, newest=3)
    assert steps_in(disk) == [4, 5, 6]
    assert events(run, "save_failed") == []
    assert all_whole(disk)


def test_an_end_that_could_not_be_stored_is_an_error_that_names_the_last_version(run: Path, disk: Path, io: CompressedCheckpointIO) -> None:
    steps = Steps()
    what = r"reached step 5, but could not be saved: No space left on device\. The last version is .*v000004_step000003\.ckpt after step 3"
    with pytest.raises(LostCheckpointError, match=what):
        fit(disk, At({3: lambda: fill(disk)}), steps, steps=5, model=Line(WIDTH), io=io, newest=1)
    assert steps.count == 5
    assert last_good(disk).step == 3  # type: ignore[union-attr]
    (disk / "filler").unlink()
    fit(disk, steps=6, model=Line(WIDTH), ckpt_path="last")
    assert steps_in(disk)[-1] == 6


@pytest.mark.parametrize("leave", [0, 100 * 1024])
def test_a_disk_too_small_from_the_start_is_refused_before_a_step_is_done(leave: int, disk: Path, run: Path) -> None:
    fill(disk, leave)
    steps = Steps()
    what = "No space left on device. Free it" if not leave else r"has 9\d\.\d KiB left, and a version of this run takes up to 6\d\.\d KiB"
    with pytest.raises(OSError, match=what):
        fit(disk, steps, model=Line(WIDTH))
    assert steps.count == 0


def test_a_start_that_cannot_be_saved_is_refused_before_a_step_is_done(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()
    monkeypatch.setattr(os, "link", _fail)
    with pytest.raises(LostCheckpointError, match=r"could not be saved: Input/output error\. There is no version"):
        fit(run / "checkpoints", steps)
    assert steps.count == 0


def _fail(*arguments: Any, **options: Any) -> None:
    raise OSError(5, "Input/output error")


def test_full_records_beside_the_versions_disturb_nothing(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(run / "records", 64) as records:
        (records / "checkpoints").mkdir()
        (records / "events.jsonl").write_text(json.dumps({"event": "x", "version": "y" * 4060}) + "\n")  # a whole page
        with small_disk(records / "checkpoints", 512) as versions:
            fill(records)
            fit(versions, steps=3, newest=1)
            fit(versions, steps=5, newest=1, ckpt_path="last")
            assert steps_in(versions) == [3, 5], "the version it went on from stays"
    assert "cannot be written, it will be tried again: [Errno 28] No space left on device" in caplog.text


# Read-only, deleted.


def test_a_read_only_disk_is_refused_at_the_start(disk: Path) -> None:
    make_read_only(disk)
    steps = Steps()
    with pytest.raises(OSError, match=r"No version can be saved in .*checkpoints: Read-only file system"):
        fit(disk, steps)
    assert steps.count == 0
    make_read_only(disk, False)


def test_a_disk_that_turns_read_only_ends_no_training_and_loses_nothing(run: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps()
    with read_only(disk) as turn, pytest.raises(LostCheckpointError, match=r"Read-only file system\. The last version is .*step000002"):
        fit(disk, At({2: turn}), steps, steps=5)
    assert steps.count == 5
    assert steps_in(disk) == [0, 1, 2]
    assert all_whole(disk)
    assert capsys.readouterr().out.count("NOT SAVED") == 3
    assert len(events(run, "save_failed")) == 3


def test_a_disk_that_is_read_only_for_a_while_is_written_again(run: Path, disk: Path) -> None:
    with contextlib.ExitStack() as stack:
        turn = stack.enter_context(read_only(disk))
        fit(disk, At({2: turn, 4: stack.close}), steps=5, newest=9)
    assert steps_in(disk) == [0, 1, 2, 5]
    assert all_whole(disk)


@pytest.mark.parametrize("what", ["checkpoints", "."])
def test_a_folder_deleted_in_mid_run_is_made_again_by_the_next_save(what: str, run: Path) -> None:
    folder = run / "checkpoints"
    fit(folder, At({2: lambda: shutil.rmtree(run / what)}), steps=4)
    assert [version.name for version in list_versions(folder)] == ["v000004_step000003", "v000005_step000004"]
    assert all_whole(folder)


def test_a_folder_that_became_a_file_ends_no_training(run: Path) -> None:
    folder, steps = run / "checkpoints", Steps()

    def replace_by_file() -> None:
        shutil.rmtree(folder)
        folder.touch()

    with pytest.raises(LostCheckpointError, match=r"reached step 4, but could not be saved"):
        fit(folder, At({2: replace_by_file}), steps, steps=4)
    assert steps.count == 4


# No memory.


def test_no_memory_for_a_copy_is_a_version_missed_and_no_end_of_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch = pytest.MonkeyPatch()

    def fail(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    acts = At({2: lambda: patch.setattr(Buffers, "take", fail), 4: patch.undo})
    fit(run / "checkpoints", acts, steps=5, newest=9)
    assert steps_in(run / "checkpoints") == [0, 1, 2, 5]
    assert events(run, "save_failed") == ["save_failed v000004_step000003.ckpt", "save_failed v000005_step000004.ckpt"]


# A slow disk.


class Order:
    """In which order files take their names and go."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        self._real = {name: getattr(os, name) for name in ("link", "unlink", "fsync")}
        patch.setattr(os, "link", self.link)
        patch.setattr(os, "unlink", self.unlink)
        patch.setattr(os, "fsync", self.fsync)

    def link(self, source: Any, target: Any, **options: Any) -> None:
        self._real["link"](source, target, **options)
        self.calls.append(("saved", Path(target).name))

    def unlink(self, path: Any, **options: Any) -> None:
        self._real["unlink"](path, **options)
        if not Path(path).name.startswith("."):
            self.calls.append(("removed", Path(path).name))

    def fsync(self, descriptor: int) -> None:
        if on_writers_thread():
            threading.Event().wait(0.004)
        self._real["fsync"](descriptor)


def test_a_slow_disk_takes_everything_in_order_and_removals_come_after_saves(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order(monkeypatch)
    buffers: set[int] = set()
    real = Buffers.take

    def take(self: Buffers, num_bytes: int, pinned: bool) -> torch.Tensor:
        buffers.add(id(self))
        return real(self, num_bytes, pinned)

    monkeypatch.setattr(Buffers, "take", take)
    saving = fit(run / "checkpoints", steps=12, newest=1)
    assert [step for what, step in order.calls if what == "saved"] == [f"v{n + 1:06d}_step{n:06d}.ckpt" for n in range(13)]
    assert order.calls == [order.calls[0], *(each for n in range(1, 13) for each in (
        ("saved", f"v{n + 1:06d}_step{n:06d}.ckpt"), ("removed", f"v{n:06d}_step{n - 1:06d}.ckpt")))]  # fmt: skip
    assert len(buffers) == 2, "copies never take more than the memory of two"
    assert len(saving.stalls) == 13


def test_training_is_not_held_up_while_a_copy_is_free(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[tuple[int, list[int]]] = []
    folder = run / "checkpoints"
    with hung_disk(monkeypatch) as gate:
        gate.set()

        def look() -> None:
            reached.append((len(reached) + 3, steps_in(folder)))
            if len(reached) == 2:
                gate.set()

        # The saves after steps 2 and 3 wait for the disk, and the batches after them are trained on all the same.
        acts, looks = At({1: gate.clear}), At({2: look, 3: look}, wait=False)
        fit(folder, acts, looks, steps=5, newest=9)
    assert reached == [(3, [0, 1]), (4, [0, 1])]
    assert steps_in(folder) == [0, 1, 2, 3, 4, 5]


# A hung disk.


def test_a_disk_that_hangs_ends_no_training_and_the_end_is_not_taken_for_stored(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, io = Steps(), CompressedCheckpointIO(wait_seconds=SHORT)
    with hung_disk(monkeypatch) as gate:
        gate.set()
        with pytest.raises(LostCheckpointError, match=r"reached step 8, .*the disk has not taken .* after step 1"):
            fit(run / "checkpoints", At({1: gate.clear}), steps, steps=8, io=io)
        assert not gate.is_set(), "it did not wait for the disk"
    assert steps.count == 8
    assert "NOT SAVED  v000005_step000004.ckpt: the disk has not taken the checkpoint before it for 0.05 seconds" in capsys.readouterr().out
    assert io.wait(LONGEST_SECONDS)
    assert steps_in(run / "checkpoints")[-2:] == [2, 3], "what was handed over is stored when the disk comes back"
    assert all_whole(run / "checkpoints")


def test_a_disk_that_comes_back_is_used_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = CompressedCheckpointIO(wait_seconds=SHORT)
    with hung_disk(monkeypatch) as gate:
        gate.set()

        def come_back() -> None:
            gate.set()
            assert io.wait(LONGEST_SECONDS)

        fit(run / "checkpoints", At({1: gate.clear}), At({5: come_back}, wait=False), steps=7, io=io, newest=9)
    assert steps_in(run / "checkpoints") == [0, 1, 2, 3, 6, 7]


def test_a_disk_that_hangs_from_the_start_is_refused_before_a_step_is_done(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps()
    with hung_disk(monkeypatch) as gate:
        with pytest.raises(LostCheckpointError, match=r"the disk has not taken it in time .* There is no version"):
            fit(run / "checkpoints", steps, io=CompressedCheckpointIO(wait_seconds=SHORT))
        assert not gate.is_set(), "it did not wait for the disk"
    assert steps.count == 0


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_is_obeyed_though_the_disk_hangs(name: str, status: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, io = Steps(), CompressedCheckpointIO(wait_seconds=SHORT)

    def hang_and_signal() -> None:
        gate.clear()
        signal.raise_signal(getattr(signal, name))

    before = signal.getsignal(getattr(signal, name))
    with hung_disk(monkeypatch) as gate:
        gate.set()
        with pytest.raises(SystemExit) as left:
            fit(run / "checkpoints", At({2: hang_and_signal}), steps, steps=9, io=io)
        assert not gate.is_set(), "it did not wait for the disk"
    assert left.value.code == status
    assert steps.count == 3, "the step that it came in was finished"
    assert signal.getsignal(getattr(signal, name)) == before
    assert io.wait(LONGEST_SECONDS)
    fit(run / "checkpoints", steps=5, ckpt_path="last")
    assert steps_in(run / "checkpoints")[-1] == 5


HANG = """
import os, signal, sys, threading
from pathlib import Path
from musictrain.checkpoints.checkpoint_io import CompressedCheckpointIO
from tests.checkpoints.small_fits import At, fit, on_writers_thread
fsync = os.fsync
def hang():
    os.fsync = lambda descriptor: threading.Event().wait() if on_writers_thread() else fsync(descriptor)
    os.kill(os.getpid(), signal.SIGTERM)
fit(Path(sys.argv[1]), At({2: hang}), steps=10**9, io=CompressedCheckpointIO(wait_seconds=0.5), trainer={"max_epochs": -1})
"""


@pytest.mark.slow
def test_a_process_ends_on_sigterm_though_the_disk_hangs(run: Path, repository: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", HANG, str(run / "checkpoints")], timeout=300, check=False, cwd=repository)
    assert ended.returncode == 143
    assert steps_in(run / "checkpoints") == [0, 1, 2]
    assert all_whole(run / "checkpoints")


def test_an_error_of_the_training_itself_comes_through_though_the_disk_hangs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = CompressedCheckpointIO(wait_seconds=SHORT)

    def hang_and_fail() -> None:
        gate.clear()
        raise ZeroDivisionError("of the training itself")

    with hung_disk(monkeypatch) as gate:
        gate.set()
        with pytest.raises(ZeroDivisionError, match="of the training itself"):
            fit(run / "checkpoints", At({2: hang_and_fail}), io=io)
        assert not gate.is_set()


def test_the_weights_of_a_run_on_failing_disks_are_those_of_any_run(run: Path, disk: Path, io: CompressedCheckpointIO) -> None:
    plain, faulty = Line(WIDTH), Line(WIDTH)
    faulty.load_state_dict(plain.state_dict())
    fit(run / "elsewhere", steps=6, model=plain)
    fit(disk, At({2: lambda: fill(disk), 5: (disk / "filler").unlink}), steps=6, model=faulty, io=io)
    assert torch.equal(plain.layer.weight, faulty.layer.weight)
