"""The plugin alone: in the background and not, with failures, removals, URLs, and under Lightning's own ModelCheckpoint."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from musictrain.checkpoints.checkpoint_io import REQUEST, CompressedCheckpointIO, SaveRequest
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.snapshot import UnsafeStateError
from musictrain.checkpoints.storing import load
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from tests.checkpoints.fault_injection import folder_in_memory
from tests.checkpoints.small_fits import LONGEST_SECONDS, At, Line, batches, hung_disk, on_writers_thread, trainer_in
from tests.checkpoints.small_versions import spoil, tiny_tree

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:You're resuming", "ignore:Checkpoint directory")
SHORT = 0.05


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder where fsync costs nothing."""
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def in_memory() -> Iterator[str]:
    """A URL of fsspec's file system in memory."""
    yield "memory://checkpoint-io"
    fsspec.filesystem("memory").rm("/checkpoint-io", recursive=True)


@pytest.fixture
def io() -> Iterator[CompressedCheckpointIO]:
    io = CompressedCheckpointIO(wait_seconds=LONGEST_SECONDS)
    yield io
    assert io.wait(LONGEST_SECONDS)


def step_of(path: Path) -> int:
    return int(load(path)["global_step"])


def the_disk_fails(monkeypatch: pytest.MonkeyPatch, name: str = "bad") -> None:
    """Opening a file to write whose name ends so is an error."""
    real = os.open

    def refuse(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(name):
            raise OSError(28, "No space left on device", str(path))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("packing", ["optimizer", "all", "none", "gzip"])
def test_what_was_saved_is_what_is_loaded(background: bool, packing: str, tmp_path: Path) -> None:
    io = CompressedCheckpointIO(packing=packing, background=background)
    tree = {"state_dict": {"w": torch.ones(2000)}, "optimizer_states": [{"m": torch.full((2000,), 2.0)}], "global_step": 7}
    io.save_checkpoint(tree, tmp_path / "deep" / "a.ckpt")
    loaded = io.load_checkpoint(tmp_path / "deep" / "a.ckpt")
    assert torch.equal(loaded["state_dict"]["w"], tree["state_dict"]["w"])  # type: ignore[index, call-overload]
    assert torch.equal(loaded["optimizer_states"][0]["m"], torch.full((2000,), 2.0))
    assert verify(tmp_path / "deep" / "a.ckpt").packing == packing


def test_a_copy_is_saved_that_training_no_longer_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO
) -> None:
    tree = tiny_tree(1)
    with hung_disk(monkeypatch):
        io.save_checkpoint(tree, tmp_path / "a.ckpt")
        tree["state_dict"]["weight"].zero_()
        assert not (tmp_path / "a.ckpt").exists(), "the disk hangs, and training goes on"
    assert torch.equal(io.load_checkpoint(tmp_path / "a.ckpt")["state_dict"]["weight"], tiny_tree(1)["state_dict"]["weight"])


def test_loading_waits_for_what_is_being_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO) -> None:
    loaded: list[Any] = []
    with hung_disk(monkeypatch):
        io.save_checkpoint(tiny_tree(3), tmp_path / "a.ckpt")
        loading = threading.Thread(target=lambda: loaded.append(io.load_checkpoint(tmp_path / "a.ckpt")))
        loading.start()
        loading.join(SHORT)
        assert not loaded
    loading.join(LONGEST_SECONDS)
    assert loaded[0]["global_step"] == 3


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"packing": "optimiser"}, "packing='optimiser'.*Did you mean 'optimizer'"),
        ({"packing": "lz4"}, "It knows none, optimizer, all, gzip"),
        ({"wait_seconds": -1}, "wait_seconds=-1; it needs 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        CompressedCheckpointIO(**options)


def test_storage_options_are_refused(tmp_path: Path, io: CompressedCheckpointIO) -> None:
    with pytest.raises(TypeError, match=r"has no storage options, and got \{'acl': 1\}\. Leave them out"):
        io.save_checkpoint(tiny_tree(1), tmp_path / "a.ckpt", storage_options={"acl": 1})


def test_an_unsafe_value_is_an_error_at_once_and_takes_no_buffers(tmp_path: Path, io: CompressedCheckpointIO) -> None:
    for _ in range(3):
        with pytest.raises(UnsafeStateError, match=r"\['best'\] is a pathlib.PosixPath"):
            io.save_checkpoint({"best": Path("x")}, tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_damaged_file_is_an_error(tmp_path: Path, io: CompressedCheckpointIO) -> None:
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        io.load_checkpoint(tmp_path / "a.ckpt")
    io.save_checkpoint(tiny_tree(1), tmp_path / "a.ckpt")
    assert io.wait()
    spoil(tmp_path / "a.ckpt")
    with pytest.raises(BrokenCheckpointError, match="not those that were sealed"):
        io.load_checkpoint(tmp_path / "a.ckpt", weights_only=False)


# Failures.


def test_in_the_background_a_failed_save_is_said_and_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, io: CompressedCheckpointIO
) -> None:
    path = tmp_path / "a.bad"
    io.save_checkpoint(tiny_tree(1), path)
    assert io.wait()
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        the_disk_fails(patch)
        io.save_checkpoint(tiny_tree(2), path)
        assert io.wait()
    assert "a.bad could not be stored: [Errno 28] No space left on device" in caplog.text
    assert isinstance(io.last_failure, OSError)
    assert step_of(path) == 1
    io.save_checkpoint(tiny_tree(3), path)
    assert io.wait()
    assert step_of(path) == 3
    assert io.last_failure is None
    assert [each.name for each in tmp_path.iterdir()] == ["a.bad"]


def test_without_background_a_failed_save_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    the_disk_fails(monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        CompressedCheckpointIO(background=False).save_checkpoint(tiny_tree(1), tmp_path / "a.bad")


@pytest.mark.parametrize("error", [AssertionError("odd"), TypeError("odd"), KeyError("odd")])
def test_whatever_goes_wrong_in_the_background_is_told(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    failures: list[BaseException] = []
    monkeypatch.setattr("musictrain.checkpoints.checkpoint_io.store", fail)
    io.save_checkpoint(tiny_tree(1), tmp_path / "a", {REQUEST: SaveRequest(failed=lambda path, error: failures.append(error))})
    assert io.wait()
    assert failures == [error]


def take_a_petabyte(*arguments: Any, **options: Any) -> torch.Tensor:
    return torch.empty(2**50, dtype=torch.uint8)


@pytest.mark.parametrize("take", [lambda *_, **__: _raise(MemoryError()), take_a_petabyte], ids=["Python", "torch"])
def test_no_memory_for_the_copy_is_a_failed_save_and_no_end_of_training(
    take: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO
) -> None:
    failures: list[BaseException] = []
    request = SaveRequest(failed=lambda path, error: failures.append(error))
    with monkeypatch.context() as patch:
        patch.setattr("musictrain.checkpoints.snapshot.Buffers.take", take)
        for _ in range(3):
            io.save_checkpoint(tiny_tree(1), tmp_path / "a.ckpt", {REQUEST: request})
    assert len(failures) == 3, "no buffers were lost"
    io.save_checkpoint(tiny_tree(1), tmp_path / "a.ckpt")
    assert io.load_checkpoint(tmp_path / "a.ckpt")["global_step"] == 1


def _raise(error: BaseException) -> Any:
    raise error


def test_another_error_of_the_copy_is_no_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO
) -> None:
    monkeypatch.setattr("musictrain.checkpoints.snapshot.Buffers.take", lambda *arguments, **options: _raise(RuntimeError("a bad stride")))
    with pytest.raises(RuntimeError, match="a bad stride"):
        io.save_checkpoint(tiny_tree(1), tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("room", "said"),
    [("made", ["asked"]), ("not made", ["asked", "lost"]), ("promised", ["asked", "lost"])],
    ids=["made", "not made", "promised"],
)
def test_a_full_disk_is_tried_again_once_if_room_was_made(
    room: str, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO
) -> None:
    heard: list[str] = []

    def make_room() -> bool:
        heard.append("asked")
        if room == "made":
            monkeypatch.undo()
        return room != "not made"

    the_disk_fails(monkeypatch)
    request = SaveRequest(make_room=make_room, failed=lambda path, error: heard.append("lost"))
    io.save_checkpoint(tiny_tree(1), tmp_path / "a.bad", {REQUEST: request})
    assert io.wait()
    assert heard == said
    assert (tmp_path / "a.bad").exists() == (room == "made")


def test_a_taken_name_gives_way_to_the_next_or_is_an_error(tmp_path: Path, io: CompressedCheckpointIO) -> None:
    (tmp_path / "a").write_text("somebody's")
    said: list[Any] = []
    request = SaveRequest(Seal("", 0, number=1), replace=False, stored=lambda path, seal: said.append((path.name, seal.number)))
    request.next_name = lambda: (tmp_path / "b", Seal("", 0, number=2))
    io.save_checkpoint(tiny_tree(1), tmp_path / "a", {REQUEST: request})
    refused = SaveRequest(replace=False, failed=lambda path, error: said.append(type(error)))
    io.save_checkpoint(tiny_tree(1), tmp_path / "a", {REQUEST: refused})
    assert io.wait()
    assert said == [("b", 2), FileExistsError]
    assert (tmp_path / "a").read_text() == "somebody's"


# A slow disk.


def test_training_goes_on_without_saving_when_both_copies_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = CompressedCheckpointIO(wait_seconds=SHORT)
    failures: list[str] = []
    with hung_disk(monkeypatch):
        for step in range(5):
            request = SaveRequest(failed=lambda path, error: failures.append(f"{path.name}: {error}"))
            io.save_checkpoint(tiny_tree(step), tmp_path / f"{step}.ckpt", {REQUEST: request})
        late = "the disk has not taken the checkpoint before it for 0.05 seconds"
        assert failures == [f"{step}.ckpt: {late}" for step in (2, 3, 4)]
        assert not io.wait()
    assert io.wait(LONGEST_SECONDS)
    assert [step_of(tmp_path / f"{step}.ckpt") for step in (0, 1)] == [0, 1]
    io.save_checkpoint(tiny_tree(5), tmp_path / "5.ckpt")
    assert io.load_checkpoint(tmp_path / "5.ckpt")["global_step"] == 5


def test_no_more_than_two_copies_are_ever_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO) -> None:
    alive, most, order = [0], [0], []
    real_snapshot, real_store = (getattr(sys.modules["musictrain.checkpoints.checkpoint_io"], name) for name in ("snapshot", "store"))
    guard, slow = threading.Lock(), threading.Event()

    def copying(*arguments: Any) -> Any:
        with guard:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return real_snapshot(*arguments)

    def storing(tree: Any, path: Any, *arguments: Any, **options: Any) -> Any:
        slow.wait(0.005)
        seal = real_store(tree, path, *arguments, **options)
        with guard:
            alive[0] -= 1
            order.append(Path(path).name)
        return seal

    monkeypatch.setattr("musictrain.checkpoints.checkpoint_io.snapshot", copying)
    monkeypatch.setattr("musictrain.checkpoints.checkpoint_io.store", storing)
    for step in range(12):
        io.save_checkpoint(tiny_tree(step), tmp_path / f"{step}.ckpt")
        if step:
            io.remove_checkpoint(tmp_path / f"{step - 1}.ckpt")
    assert io.wait()
    assert order == [f"{step}.ckpt" for step in range(12)]
    assert most == [2]
    assert [path.name for path in tmp_path.iterdir()] == ["11.ckpt"]


# Removals.


def test_a_removal_comes_after_the_save_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO) -> None:
    io.save_checkpoint(tiny_tree(1), tmp_path / "1.ckpt")
    assert io.wait()
    with hung_disk(monkeypatch):
        io.save_checkpoint(tiny_tree(2), tmp_path / "2.ckpt")
        io.remove_checkpoint(tmp_path / "1.ckpt")
        assert (tmp_path / "1.ckpt").exists(), "its successor is not on disk yet"
    assert io.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["2.ckpt"]
    io.remove_checkpoint(tmp_path / "missing.ckpt")


def test_what_a_failed_save_was_to_replace_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, io: CompressedCheckpointIO) -> None:
    io.save_checkpoint(tiny_tree(1), tmp_path / "1.ckpt")
    with monkeypatch.context() as patch:
        the_disk_fails(patch)
        io.save_checkpoint(tiny_tree(2), tmp_path / "2.bad")
        io.remove_checkpoint(tmp_path / "1.ckpt")
        assert io.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["1.ckpt"]


def test_what_a_save_was_to_replace_that_found_no_buffers_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = CompressedCheckpointIO(wait_seconds=SHORT)
    with hung_disk(monkeypatch):
        for step in range(3):  # the third is given up
            io.save_checkpoint(tiny_tree(step), tmp_path / f"{step}.ckpt")
            if step:
                io.remove_checkpoint(tmp_path / f"{step - 1}.ckpt")
    assert io.wait(LONGEST_SECONDS)
    assert [path.name for path in tmp_path.iterdir()] == ["1.ckpt"], "the last that was stored, however late"


def test_a_directory_is_removed_with_all_that_is_in_it(tmp_path: Path, io: CompressedCheckpointIO) -> None:
    (tmp_path / "shards" / "inside").mkdir(parents=True)
    (tmp_path / "shards" / "inside" / "file").touch()
    io.remove_checkpoint(tmp_path / "shards")
    assert io.wait()
    assert list(tmp_path.iterdir()) == []


# Copies and URLs.


@pytest.mark.parametrize("again", [copy.deepcopy, lambda io: pickle.loads(pickle.dumps(io))], ids=["deepcopy", "pickle"])
def test_a_copied_plugin_works_by_itself(again: Callable[[Any], Any], tmp_path: Path, io: CompressedCheckpointIO) -> None:
    io.save_checkpoint(tiny_tree(1), tmp_path / "1.ckpt")
    other = again(io)
    assert (other.packing, other.wait_seconds) == (io.packing, io.wait_seconds)
    other.save_checkpoint(tiny_tree(2), tmp_path / "2.ckpt")
    assert other.load_checkpoint(tmp_path / "2.ckpt")["global_step"] == 2


def test_a_url_is_saved_to_loaded_from_and_removed(in_memory: str, io: CompressedCheckpointIO) -> None:
    store = fsspec.filesystem("memory")
    names = ["a.ckpt", "odd [1] 100 %.ckpt", "odd 1 100 %.ckpt"]
    for step, name in enumerate(names):
        io.save_checkpoint(tiny_tree(step), f"{in_memory}/run/{name}")
    assert [io.load_checkpoint(f"{in_memory}/run/{name}")["global_step"] for name in names] == [0, 1, 2]
    io.remove_checkpoint(f"{in_memory}/run/odd [1] 100 %.ckpt")
    io.remove_checkpoint(f"{in_memory}/run/missing.ckpt")
    assert io.wait()
    assert sorted(store.ls("/checkpoint-io/run", detail=False)) == ["/checkpoint-io/run/a.ckpt", "/checkpoint-io/run/odd 1 100 %.ckpt"]
    with pytest.raises(FileNotFoundError, match="missing"):
        io.load_checkpoint(f"{in_memory}/run/missing.ckpt")
    content = bytearray(store.cat_file("/checkpoint-io/run/a.ckpt"))
    content[len(content) // 2] ^= 1
    store.pipe_file("/checkpoint-io/run/a.ckpt", bytes(content))
    with pytest.raises(BrokenCheckpointError, match="not those that were sealed"):
        io.load_checkpoint(f"{in_memory}/run/a.ckpt")


def test_a_file_url_is_a_local_path(tmp_path: Path, io: CompressedCheckpointIO) -> None:
    io.save_checkpoint(tiny_tree(1), f"file://{tmp_path}/a.ckpt")
    assert io.wait()
    assert verify(tmp_path / "a.ckpt")
    io.remove_checkpoint(f"file://{tmp_path}/a.ckpt")
    assert io.wait()
    assert list(tmp_path.iterdir()) == []


# Under a Trainer.


class Watched(ModelCheckpoint):
    """Lightning's own, with a look at the folder after each step."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.seen: list[list[str]] = []

    def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:  # type: ignore[override]
        super().on_train_batch_end(trainer, *arguments)
        self.seen.append(sorted(path.name for path in Path(str(self.dirpath)).glob("*.ckpt")))


def test_lightnings_own_callback_always_has_a_whole_file(
    tmp_path: Path, io: CompressedCheckpointIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, slow = os.fsync, threading.Event()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (on_writers_thread() and slow.wait(0.003), real(descriptor))[1])
    saving = Watched(tmp_path / "c", every_n_train_steps=1, save_top_k=1, filename="{step}")
    trainer = trainer_in(tmp_path, saving, steps=12, io=io)
    trainer.fit(Line(), batches(num=12))
    assert all(saving.seen[2:]), "the first copies may still be on their way, and from then on there is one"
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step=12.ckpt"]
    assert verify(tmp_path / "c" / "step=12.ckpt").size > 0
    again = trainer_in(tmp_path, Watched(tmp_path / "c", every_n_train_steps=1), steps=14, io=CompressedCheckpointIO())
    again.fit(Line(), batches(num=14), ckpt_path=str(tmp_path / "c" / "step=12.ckpt"))
    assert max(step_of(path) for path in (tmp_path / "c").iterdir()) == 14


def test_a_save_after_the_fit_is_complete_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = CompressedCheckpointIO(wait_seconds=LONGEST_SECONDS)
    trainer = trainer_in(tmp_path, steps=2, io=io, enable_checkpointing=False)
    trainer.fit(Line(), batches())
    with hung_disk(monkeypatch):  # only the writer's thread would hang
        trainer.save_checkpoint(tmp_path / "after.ckpt")
        assert step_of(tmp_path / "after.ckpt") == 2
    the_disk_fails(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(tmp_path / "after.bad")


def test_a_save_in_the_fit_is_complete_when_the_fit_is(tmp_path: Path, io: CompressedCheckpointIO) -> None:
    trainers: list[Trainer] = []
    act = At({1: lambda: trainers[0].save_checkpoint(tmp_path / "within.ckpt")}, wait=False)
    trainers.append(trainer_in(tmp_path, act, steps=2, io=io, enable_checkpointing=False))
    trainers[0].fit(Line(), batches())
    assert step_of(tmp_path / "within.ckpt") == 1


def test_a_full_disk_does_not_end_the_training_of_lightnings_own_callback(
    tmp_path: Path, io: CompressedCheckpointIO, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saving = ModelCheckpoint(tmp_path / "c", every_n_train_steps=1, save_top_k=1, filename="{step}")
    full = At({2: lambda: the_disk_fails(monkeypatch, ".ckpt")})
    trainer = trainer_in(tmp_path, saving, full, steps=5, io=io)
    with caplog.at_level(logging.ERROR):
        trainer.fit(Line(), batches())
    assert trainer.global_step == 5
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step=2.ckpt"]
    assert caplog.text.count("could not be stored: [Errno 28] No space left on device") == 3


def test_a_stock_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    stock = trainer_in(tmp_path, ModelCheckpoint(tmp_path / "c", every_n_train_steps=2, filename="{step}"), steps=2)
    stock.fit(Line(), batches())
    ours = trainer_in(tmp_path, steps=3, io=CompressedCheckpointIO(), enable_checkpointing=False)
    ours.fit(Line(), batches(), ckpt_path=str(tmp_path / "c" / "step=2.ckpt"))
    assert ours.global_step == 3


AT_EXIT = """
import os, sys, time, torch
from musictrain.checkpoints.checkpoint_io import CompressedCheckpointIO
fsync = os.fsync
os.fsync = lambda descriptor: (time.sleep(1.0), fsync(descriptor))
CompressedCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(5)}}, sys.argv[1])
"""


@pytest.mark.slow
def test_a_program_that_ends_at_once_has_saved_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    # The plugin itself is gone by then.
    subprocess.run([sys.executable, "-c", AT_EXIT, str(path)], check=True, timeout=300)
    assert torch.equal(load(path)["state_dict"]["w"], torch.ones(5))
