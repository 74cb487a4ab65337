"""The enumerator of crash states finds every known way to lose a file, and nothing wrong with a right saver."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.checkpoints import toy_savers
from tests.checkpoints.crash_states import MODELS, CrashState, Model, crash_states, materialize
from tests.checkpoints.disk_model import Entry, Naming, Recording, Slot, Syncing, read_folder, tree
from tests.checkpoints.fault_injection import folder_in_memory
from tests.checkpoints.recorder import Recorder, UnrecordedWriteError
from tests.checkpoints.toy_savers import (
    RIGHT,
    WRONG,
    WRONG_WHERE_NAMES_ARE_LOST_IN_ANY_ORDER,
    Saver,
    has_the_right_size,
    is_whole,
    last_good,
)

STEPS = 3


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as parent:
        (parent / "versions").mkdir()
        yield parent / "versions"


def record(folder: Path, saver: Saver, steps: int = STEPS) -> Recording:
    with Recorder(folder) as recorder:
        for step in range(1, steps + 1):
            saver(folder, step)
            recorder.mark("acknowledged", step)
    return recorder.recording


def bad_states(recording: Recording, model: Model, folder: Path, passes: Callable[[bytes], bool] = is_whole) -> Iterator[CrashState]:
    """Those that lose an acknowledged version, or have a broken one picked."""
    for number, state in enumerate(crash_states(recording, model)):
        picked = last_good(materialize(state, folder.parent / f"{model}-{number}"), passes)
        if picked < max(state.values("acknowledged"), default=0):
            yield state


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("saver", RIGHT, ids=lambda saver: saver.__name__)
def test_a_right_saver_has_no_bad_state(saver: Saver, model: Model, folder: Path) -> None:
    recording = record(folder, saver)
    assert len(crash_states(recording, model)) > 20 * STEPS
    assert list(bad_states(recording, model, folder)) == []


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("saver", WRONG, ids=lambda saver: saver.__name__)
def test_a_wrong_saver_is_caught(saver: Saver, model: Model, folder: Path) -> None:
    assert any(bad_states(record(folder, saver, steps=2), model, folder))


@pytest.mark.parametrize("saver", WRONG_WHERE_NAMES_ARE_LOST_IN_ANY_ORDER, ids=lambda saver: saver.__name__)
def test_a_saver_that_trusts_the_order_of_names_is_caught_in_any_order(saver: Saver, folder: Path) -> None:
    recording = record(folder, saver)
    assert list(bad_states(recording, "journal-ordered", folder)) == []
    assert any(bad_states(recording, "any-order", folder))


@pytest.mark.parametrize("model", MODELS)
def test_a_reader_that_checks_the_size_alone_picks_a_broken_version(model: Model, folder: Path) -> None:
    recording = record(folder, toy_savers.without_sync_of_the_file, steps=1)
    picked = bad_states(recording, model, folder, has_the_right_size)
    zeros = bytes(len(toy_savers.sealed(1)))
    assert Entry("step_1.version", "file", zeros) in {entry for state in picked for entry in state.entries}


@pytest.mark.parametrize("model", MODELS)
def test_a_second_fsync_does_not_make_up_for_one_that_failed(model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OSError(5, "Input/output error"), None, None])
    real = os.fsync

    def fail_at_first(descriptor: int) -> None:
        if error := next(answers):
            raise error
        real(descriptor)

    def save_stubbornly(folder: Path, step: int) -> None:
        path = folder / toy_savers.name_of(step)
        toy_savers.write(path, toy_savers.sealed(step), sync=False)
        with pytest.raises(OSError, match="Input/output"):
            toy_savers.sync_existing(path)
        toy_savers.sync_existing(path)
        toy_savers.sync_existing(folder)

    monkeypatch.setattr(os, "fsync", fail_at_first)
    assert any(bad_states(record(folder, save_stubbornly, steps=1), model, folder))


def file_contents(recording: Recording, model: Model, path: str) -> set[bytes]:
    return {entry.content for state in crash_states(recording, model) for entry in state.entries if entry.path == path}


def test_a_file_that_was_not_synced_may_hold_any_prefix_or_zeros(folder: Path) -> None:
    with Recorder(folder) as recorder:
        descriptor = os.open(folder / "a", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"abcd")
        os.write(descriptor, b"ef")
        os.close(descriptor)
    ordered = {b"", b"a", b"ab", b"abc", b"abcd", b"abcde", b"abcdef"}
    filled = {content.ljust(6, b"\0") for content in ordered} | {content.ljust(4, b"\0") for content in ordered if len(content) < 4}
    assert file_contents(recorder.recording, "journal-ordered", "a") == ordered | filled
    holes = {b"\0\0cd", b"\0\0cd\0\0", b"\0\0\0\0ef", b"\0\0\0\0e", b"\0\0\0\0\0f"} | {b"ab\0\0ef", b"ab\0\0e", b"ab\0\0\0f"}
    more_holes = {b"\0\0cdef", b"\0\0cde", b"\0\0cd\0f", b"abcd\0f", b"\0\0\0\0e\0", b"ab\0\0e\0", b"\0\0cde\0"}
    assert file_contents(recorder.recording, "any-order", "a") == ordered | filled | holes | more_holes


def test_what_was_synced_is_there_in_every_later_state(folder: Path) -> None:
    (folder / "kept").write_bytes(b"from before")
    with Recorder(folder) as recorder:
        toy_savers.write(folder / "a", b"content")
        toy_savers.sync_existing(folder)
        recorder.mark("durable")
    for model in MODELS:
        (after,) = (state for state in crash_states(recorder.recording, model) if state.marks)
        assert after.entries == (Entry("a", "file", b"content"), Entry("kept", "file", b"from before"))


def test_a_hard_link_shares_the_bytes(folder: Path) -> None:
    with Recorder(folder) as recorder:
        toy_savers.write(folder / "a", b"content", sync=False)
        os.link(folder / "a", folder / "b")
    for model in MODELS:
        both = [state.entries for state in crash_states(recorder.recording, model) if len(state.entries) == 2]
        assert len(both) > 3
        assert {(second.content, second.same_as) for _, second in both} == {(first.content, "a") for first, _ in both}


def test_a_rename_may_leave_both_names_but_never_neither(folder: Path) -> None:
    (folder / "old").write_bytes(b"content")
    with Recorder(folder) as recorder:
        (folder / "old").rename(folder / "new")
    names = {model: {tuple(entry.path for entry in state.entries) for state in crash_states(recorder.recording, model)} for model in MODELS}
    assert names == {"journal-ordered": {("old",), ("new",)}, "any-order": {("old",), ("new",), ("new", "old")}}


def test_states_before_and_after_a_promise_are_told_apart(folder: Path) -> None:
    with Recorder(folder) as recorder:
        (folder / "a").mkdir()
        recorder.mark("promised", 1)
    found = {(state.entries, tuple(state.values("promised"))) for state in crash_states(recorder.recording, "journal-ordered")}
    there = (Entry("a", "folder"),)
    assert found == {((), ()), (there, ()), (there, (1,)), ((), (1,))}


@pytest.mark.parametrize("saver", [*RIGHT, *WRONG], ids=lambda saver: saver.__name__)
def test_an_ordered_disk_does_nothing_that_one_without_order_may_not(saver: Saver, folder: Path) -> None:
    recording = record(folder, saver, steps=2)
    ordered, any_order = ({(state.entries, state.marks) for state in crash_states(recording, model)} for model in MODELS)
    assert ordered <= any_order


# The names of the any-order model, against dropping every subset of what is not durable, one change after the other.


def names_after_dropping(recording: Recording, point: int) -> Iterator[frozenset[tuple[Slot, int]]]:
    log = recording.log[:point]
    changes = [
        (index, place, slot, inode)
        for index, op in enumerate(log)
        if isinstance(op, Naming)
        for place, (slot, inode) in enumerate(op.changes)
    ]
    for kept in itertools.product([False, True], repeat=len(changes)):
        is_kept = {(index, place): keep for (index, place, _, _), keep in zip(changes, kept, strict=True)}
        names = dict(recording.names)
        for index, place, slot, inode in changes:
            synced = Syncing(slot[0]) in log[index + 1 :]
            if (synced and not is_kept[index, place]) or (place == 1 and is_kept[index, 1] and not is_kept[index, 0]):
                break
            if is_kept[index, place]:
                names.pop(slot, None)
                names.update({slot: inode} if inode is not None else {})
        else:
            yield frozenset(names.items())


def scramble(folder: Path, seed: int) -> Recording:
    """A few random operations on empty files in two folders."""
    chance = random.Random(seed)
    (folder / "d").mkdir()
    (folder / "b").touch()
    paths = [folder / "a", folder / "b", folder / "d" / "a"]
    with Recorder(folder) as recorder:
        for _ in range(6):
            one, other = chance.sample(paths, 2)
            act = chance.choice(["create", "link", "rename", "replace", "unlink", "sync", "sync"])
            if act == "sync":
                toy_savers.sync_existing(one.parent)
            elif act == "create" and not one.exists():
                os.close(os.open(one, os.O_CREAT | os.O_WRONLY))
            elif act == "link" and one.exists() and not other.exists():
                os.link(one, other)
            elif act in ("rename", "replace") and one.exists():
                getattr(os, act)(one, other)
            elif act == "unlink" and one.exists():
                one.unlink()
    return recorder.recording


@pytest.mark.parametrize("seed", range(40))
def test_names_are_those_of_every_subset_that_may_be_lost(seed: int, folder: Path) -> None:
    recording = scramble(folder, seed)
    expected = {
        tree(recording.inodes, dict(names), lambda _: b"")
        for point in range(len(recording.log) + 1)
        for names in names_after_dropping(recording, point)
    }
    assert {state.entries for state in crash_states(recording, "any-order")} == expected


# The recorder.


def test_a_state_is_materialized_as_it_is(folder: Path) -> None:
    for model in MODELS:
        for number, state in enumerate(crash_states(record(folder, toy_savers.by_link, steps=1), model)):
            assert read_folder(materialize(state, folder.parent / f"{model}{number}")) == state.entries
        for path in folder.iterdir():
            path.unlink()


def test_every_kind_of_operation_is_recorded(folder: Path) -> None:
    (folder / "old").write_bytes(b"0123456789")
    with Recorder(folder) as recorder:
        parent = os.open(folder, os.O_RDONLY)
        descriptor = os.open("old", os.O_WRONLY | os.O_APPEND, dir_fd=parent)
        os.write(descriptor, b"abc")
        os.ftruncate(descriptor, 20)
        another = os.open(folder / "old", os.O_WRONLY)
        copy = os.dup(another)
        os.pwrite(copy, b"!", 15)
        (folder / "symbolic").symlink_to("old")
        (folder / "x" / "y").mkdir(parents=True)
        os.replace("old", "x/y/new", src_dir_fd=parent, dst_dir_fd=parent)
        os.link(folder / "x" / "y" / "new", folder / "hard")
        os.mkdir("nothing", dir_fd=parent)
        os.rmdir("nothing", dir_fd=parent)
        os.remove("symbolic", dir_fd=parent)
        (folder / "x").rename(folder / "z")
        for open_descriptor in (descriptor, another, copy, parent):
            os.close(open_descriptor)
    expected = recorder.recording.final()
    assert expected == read_folder(folder)
    assert [entry.path for entry in expected] == ["hard", "z", "z/y", "z/y/new"]
    assert expected[0].content.startswith(b"0123456789abc\0\0!\0")


@pytest.mark.parametrize("mode", ["w", "ab", "r+b", "x"])
def test_a_write_past_os_is_refused_and_cannot_be_hushed_up(mode: str, folder: Path) -> None:
    (folder / "old").touch()
    with pytest.raises(UnrecordedWriteError, match="cannot be recorded"), Recorder(folder), contextlib.suppress(UnrecordedWriteError):
        (folder / ("new" if mode == "x" else "old")).open(mode)
    assert (folder / "old").read_bytes() == b""
    (folder / "old").write_bytes(b"once the block is over, open is itself again")


def test_a_write_by_a_library_of_another_language_is_found_out(folder: Path) -> None:
    with pytest.raises(UnrecordedWriteError, match="stray: not as the log"), Recorder(folder) as recorder:
        recorder._real_open(folder / "stray", "w").close()


def test_what_lies_elsewhere_is_neither_recorded_nor_refused(folder: Path) -> None:
    with Recorder(folder) as recorder:
        (folder.parent / "elsewhere").write_bytes(b"content")
        (folder.parent / "elsewhere").rename(folder.parent / "another")
        with pytest.raises(UnrecordedWriteError, match="into or out of"):
            os.link(folder.parent / "another", folder / "a")
        recorder._refusals.clear()
    assert recorder.recording.log == []
