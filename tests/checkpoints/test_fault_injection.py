"""The injectors strike where they say, and find what is wrong with savers that are known to be."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.checkpoints import fault_injection, toy_savers
from tests.checkpoints.fault_injection import (
    OPERATIONS,
    Fault,
    Outcome,
    Program,
    Say,
    at_every_operation,
    file_size_limit,
    folder_in_memory,
    make_read_only,
    run_here,
    run_in_child,
    small_disk,
)
from tests.checkpoints.toy_savers import RIGHT, Saver, last_good

FAULTS = ("SIGKILL", "ENOSPC", "EIO", "EROFS", "EDQUOT", "EMFILE", "EFBIG", "MemoryError", "short write")
OPERATIONS_OF_BY_LINK = [
    *("unlink", "open", "write", "write", "write", "fsync", "close", "link", "unlink", "open", "fsync", "close"),
    *("unlink", "open", "fsync", "close"),
]


@pytest.fixture
def fresh_folder() -> Iterator[Callable[[], Path]]:
    numbers = itertools.count()
    with folder_in_memory() as parent:

        def fresh() -> Path:
            folder = parent / str(next(numbers))
            folder.mkdir()
            return folder

        yield fresh


def saving(saver: Saver, steps: int = 2) -> Program:
    def save(folder: Path, say: Say) -> None:
        for step in range(1, steps + 1):
            saver(folder, step)
            say(str(step))

    return save


def acknowledged(outcome: Outcome) -> int:
    return max(map(int, outcome.said), default=0)


def test_without_a_fault_the_program_runs_through(fresh_folder: Callable[[], Path]) -> None:
    folder = fresh_folder()
    outcome = run_in_child(saving(toy_savers.by_link, steps=1), folder)
    assert (outcome.ending, outcome.said, outcome.error, outcome.reached) == ("finished", ("1",), "", False)
    assert list(outcome.operations) == OPERATIONS_OF_BY_LINK
    assert last_good(folder) == 1


@pytest.mark.parametrize("name", ["SIGKILL", "EIO", "MemoryError"])
def test_the_fault_strikes_before_each_operation_in_turn(name: str, fresh_folder: Callable[[], Path]) -> None:
    outcomes = [outcome for _, outcome in at_every_operation(saving(toy_savers.by_link, 1), fresh_folder, Fault(name))]
    assert [outcome.operation for outcome in outcomes] == [*OPERATIONS_OF_BY_LINK, ""]
    assert [outcome.ending for outcome in outcomes] == ["killed" if name == "SIGKILL" else "raised"] * len(OPERATIONS_OF_BY_LINK) + [
        "finished"
    ]
    assert all("in by_link" in outcome.error for outcome in outcomes if outcome.ending == "raised")


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(
    ("saver", "name"), [*((toy_savers.by_link, name) for name in FAULTS), *((saver, "SIGKILL") for saver in RIGHT[2:])]
)
def test_a_right_saver_loses_nothing(saver: Saver, name: str, lasting: bool, fresh_folder: Callable[[], Path]) -> None:
    run = run_in_child if name == "SIGKILL" else run_here
    for folder, outcome in at_every_operation(saving(saver), fresh_folder, Fault(name, lasting=lasting), run):
        assert outcome.ending != "lost"
        assert last_good(folder) >= acknowledged(outcome), outcome


@pytest.mark.parametrize("saver", [toy_savers.in_place, toy_savers.old_away_before_new_is_there], ids=lambda saver: saver.__name__)
@pytest.mark.parametrize("name", ["SIGKILL", "ENOSPC", "MemoryError", "short write"])
def test_a_wrong_saver_is_caught(saver: Saver, name: str, fresh_folder: Callable[[], Path]) -> None:
    runs = at_every_operation(saving(saver), fresh_folder, Fault(name, lasting=True))
    assert any(last_good(folder) < acknowledged(outcome) for folder, outcome in runs)


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "SIGKILL"])
def test_a_fault_in_this_process_does_what_it_does_in_a_child(name: str, fresh_folder: Callable[[], Path]) -> None:
    operations_before = {name: getattr(os, name) for name in OPERATIONS}
    there, here = (
        [outcome for _, outcome in at_every_operation(saving(hushed_up, 1), fresh_folder, Fault(name), run)]
        for run in (run_in_child, run_here)
    )
    assert here == there
    assert {name: getattr(os, name) for name in OPERATIONS} == operations_before


def test_a_fault_that_kills_is_for_children() -> None:
    with pytest.raises(ValueError, match="use run_in_child"):
        run_here(saving(toy_savers.by_link), Path(), Fault("SIGKILL"))


def hushed_up(folder: Path, step: int) -> None:
    """Says that it has saved whatever happened."""
    try:
        toy_savers.by_rename(folder, step)
    except (OSError, MemoryError):
        (folder / "temporary").unlink(missing_ok=True)


def careless_about_counts(folder: Path, step: int) -> None:
    """Believes that os.write takes everything."""
    descriptor = os.open(folder / toy_savers.name_of(step), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(descriptor, toy_savers.sealed(step))
    os.fsync(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(("saver", "name"), [(hushed_up, "ENOSPC"), (hushed_up, "MemoryError"), (careless_about_counts, "short write")])
def test_a_saver_that_promises_too_much_is_caught(saver: Saver, name: str, fresh_folder: Callable[[], Path]) -> None:
    runs = at_every_operation(saving(saver), fresh_folder, Fault(name))
    assert any(last_good(folder) < acknowledged(outcome) for folder, outcome in runs)


def test_a_full_disk_stays_full_but_lets_files_be_removed(fresh_folder: Callable[[], Path]) -> None:
    def program(folder: Path, say: Say) -> None:
        (folder / "subfolder").mkdir()
        for attempt in (folder / "one", folder / "two"):
            try:
                toy_savers.write(attempt, b"content")
            except OSError as error:
                say(errno.errorcode[error.errno or 0])
        (folder / "subfolder").rmdir()
        toy_savers.sync_existing(folder)

    once, lasting = (run_in_child(program, fresh_folder(), Fault("ENOSPC", at=2, lasting=lasting)) for lasting in (False, True))
    assert (once.ending, once.said) == ("finished", ("ENOSPC",))
    assert (lasting.ending, lasting.said) == ("finished", ("ENOSPC", "ENOSPC"))


def test_a_short_write_takes_half_and_the_next_raises_if_the_disk_is_full(fresh_folder: Callable[[], Path]) -> None:
    def program(folder: Path, say: Say) -> None:
        toy_savers.write(folder / "a", b"0123456789")

    half, whole = fresh_folder(), fresh_folder()
    assert "No space left" in run_in_child(program, half, Fault("short write", lasting=True)).error
    assert (half / "a").read_bytes() == b"01234"
    assert run_in_child(program, whole, Fault("short write")).ending == "finished"
    assert (whole / "a").read_bytes() == b"0123456789"


def test_a_close_that_fails_has_closed(fresh_folder: Callable[[], Path]) -> None:
    def program(folder: Path, say: Say) -> None:
        descriptor = os.open(folder / "a", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="Input/output"):
            os.close(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        say("closed")

    assert run_in_child(program, fresh_folder(), Fault("EIO", at=2)).said == ("closed",)


def test_operations_elsewhere_and_in_other_threads(fresh_folder: Callable[[], Path]) -> None:
    elsewhere = fresh_folder()

    def program(folder: Path, say: Say) -> None:
        toy_savers.write(elsewhere / "a", b"not counted")
        thread = threading.Thread(target=toy_savers.write, args=(folder / "a", b"counted"))
        thread.start()
        thread.join()

    assert run_in_child(program, fresh_folder()).operations == ("open", "write", "fsync", "close")


def test_a_child_that_hangs_is_lost_and_not_waited_for_forever(fresh_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_injection, "LONGEST_SECONDS", 1)
    assert run_in_child(lambda folder, say: time.sleep(600), fresh_folder()).ending == "lost"


def test_a_name_that_is_no_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'ENOSPACE'"):
        Fault("ENOSPACE")


def test_a_small_disk_fills_up_and_turns_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_kib=16) as disk:
        with pytest.raises(OSError, match="No space left"):
            toy_savers.write(disk / "large", bytes(100_000))
        (disk / "large").unlink()
        toy_savers.write(disk / "small", b"content")
        make_read_only(disk)
        with pytest.raises(OSError, match="Read-only"):
            (disk / "small").unlink()
        make_read_only(disk, read_only=False)
        (disk / "small").unlink()
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_file_cannot_outgrow_its_limit(fresh_folder: Callable[[], Path]) -> None:
    def program(folder: Path, say: Say) -> None:
        with file_size_limit(1000), pytest.raises(OSError, match="File too large"):
            toy_savers.write(folder / "a", bytes(2000))
        toy_savers.write(folder / "b", bytes(2000))

    folder = fresh_folder()
    assert run_in_child(program, folder).error == ""
    assert ((folder / "a").stat().st_size, (folder / "b").stat().st_size) == (1000, 2000)
