"""A thread writes the records, whatever the disk does."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.runs import Records, read_records
from musictrain.runs.writer import RecordWriter

SECONDS = 120.0  # none of these tests needs them; they fail instead of hanging


class Disk:
    """Stands in for the disk under all records: takes them, refuses them, or makes them wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.free = threading.Event()
        self.free.set()
        self.asked = threading.Event()
        append = Records.append

        def watched(records: Records, record: Any) -> None:
            self.asked.set()
            assert self.free.wait(SECONDS)
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            append(records, record)

        monkeypatch.setattr(Records, "append", watched)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def writer_of() -> Iterator[Callable[..., RecordWriter]]:
    writers: list[RecordWriter] = []

    def make(path: Path, **options: Any) -> RecordWriter:
        writers.append(RecordWriter(path, **{"retry_seconds": 0.01, **options}))
        return writers[-1]

    yield make
    for writer in writers:
        assert writer.close(SECONDS)


def numbers(path: Path) -> list[int]:
    return [record["n"] for record in read_records(path)]


def test_records_of_several_threads_arrive_whole_and_each_threads_own_in_order(tmp_path: Path, writer_of: Any) -> None:
    writer = writer_of(tmp_path / "a.jsonl")

    def hand_over(who: int) -> None:
        for number in range(200):
            writer.append({"who": who, "n": number})

    threads = [threading.Thread(target=hand_over, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert writer.flush(SECONDS)
    records = read_records(tmp_path / "a.jsonl")
    assert [[record["n"] for record in records if record["who"] == who] for who in range(4)] == [list(range(200))] * 4


def test_handing_over_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, writer_of: Any, disk: Disk) -> None:
    writer = writer_of(tmp_path / "a.jsonl")
    disk.free.clear()
    writer.append({"n": 0})
    assert disk.asked.wait(SECONDS)
    for number in range(1, 50):
        writer.append({"n": number})
    assert not writer.flush(0.01)
    assert [record["n"] for record in writer.unsynced()] == list(range(50))
    disk.free.set()
    assert writer.flush(SECONDS)
    assert numbers(tmp_path / "a.jsonl") == list(range(50))


def test_what_a_full_disk_refuses_is_written_once_there_is_room(
    tmp_path: Path, writer_of: Any, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    writer = writer_of(tmp_path / "a.jsonl")
    disk.full = True
    for number in range(5):
        writer.append({"n": number})
    assert not writer.flush(0.1)
    disk.full = False
    assert writer.flush(SECONDS)
    assert numbers(tmp_path / "a.jsonl") == list(range(5))
    assert writer.lost == 0
    assert caplog.text.count("cannot be written, it will be tried again") == 1


def test_of_more_than_it_can_keep_the_oldest_go_the_vital_stay_and_the_loss_is_told_afterwards(
    tmp_path: Path, writer_of: Any, disk: Disk
) -> None:
    told: list[int] = []
    writer = writer_of(tmp_path / "a.jsonl", most=4, on_loss=told.append)
    disk.free.clear()
    writer.append({"n": 0})
    assert disk.asked.wait(SECONDS)
    for number in range(1, 10):
        writer.append({"n": number}, vital=number == 2)
    assert told == []
    disk.free.set()
    assert writer.flush(SECONDS)
    assert numbers(tmp_path / "a.jsonl") == [0, 2, 8, 9]
    assert writer.close(SECONDS)
    assert told == [6]
    assert writer.lost == 6


def test_by_default_a_loss_is_a_warning(tmp_path: Path, writer_of: Any, disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    writer = writer_of(tmp_path / "a.jsonl", most=1)
    disk.full = True
    writer.append({"n": 0})
    writer.append({"n": 1})
    writer.append({"n": 2})
    disk.full = False
    assert writer.close(SECONDS)
    assert f"{writer.lost} records were lost" in caplog.text


def test_what_cannot_be_a_record_keeps_nothing_back(tmp_path: Path, writer_of: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    writer = writer_of(tmp_path / "a.jsonl")
    writer.append({"n": 1})
    writer.append({"bad": Hostile()})
    writer.append({"n": 2})
    assert writer.flush(SECONDS)
    assert numbers(tmp_path / "a.jsonl") == [1, 2]
    assert "could not be written" in caplog.text


def test_tensors_become_numbers_in_the_thread(tmp_path: Path, writer_of: Any) -> None:
    writer = writer_of(tmp_path / "a.jsonl")
    writer.append({"n": 1, "loss": torch.tensor(0.5), "each": torch.arange(2)})
    assert writer.flush(SECONDS)
    assert read_records(tmp_path / "a.jsonl") == [{"n": 1, "loss": 0.5, "each": [0, 1]}]


def test_what_a_power_cut_could_take_is_known_until_it_is_secured(tmp_path: Path, writer_of: Any) -> None:
    writer = writer_of(tmp_path / "a.jsonl", sync_seconds=3600.0)
    writer.append({"n": 1})
    assert writer.flush(SECONDS)
    assert writer.unsynced() == [{"n": 1}]
    assert writer.flush(SECONDS, sync=True)
    assert writer.unsynced() == []


def test_after_closing_it_begins_anew(tmp_path: Path, writer_of: Any) -> None:
    writer = writer_of(tmp_path / "a.jsonl")
    for number in range(3):
        writer.append({"n": number})
        assert writer.close(SECONDS)
        assert writer.close(SECONDS)
    assert numbers(tmp_path / "a.jsonl") == [0, 1, 2]


def test_a_missing_folder_is_waited_for(tmp_path: Path, writer_of: Any) -> None:
    writer = writer_of(tmp_path / "later" / "a.jsonl")
    writer.append({"n": 1})
    assert not writer.flush(0.1)
    (tmp_path / "later").mkdir()
    assert writer.flush(SECONDS)
    assert numbers(tmp_path / "later" / "a.jsonl") == [1]


def test_a_pipe_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = RecordWriter(tmp_path / "pipe")
    writer.append({"n": 1})
    assert not writer.close(0.2)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert select.select([reader], [], [], SECONDS)[0]
        assert os.read(reader, 100) == b'{"n": 1}\n'
    finally:
        os.close(reader)


def test_no_room_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="most=0; it needs room for 1 record or more"):
        RecordWriter(tmp_path / "a.jsonl", most=0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_writes_nothing_and_hangs_nowhere(tmp_path: Path, writer_of: Any) -> None:
    writer = writer_of(tmp_path / "a.jsonl")
    writer.append({"n": 1})
    with writer._changed:  # as at the worst moment
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            writer.append({"n": 2})
            writer.flush(0.1)
            os._exit(0 if writer.close(1) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert writer.flush(SECONDS)
    assert numbers(tmp_path / "a.jsonl") == [1]


SCRIPT = """
import sys
from musictrain.runs.writer import RecordWriter

writer = RecordWriter(sys.argv[1])
for n in range(int(sys.argv[2])):
    writer.append({"n": n, "filling": "x" * 300})
if len(sys.argv) > 3:
    print("going", flush=True)
    while writer.flush(60):
        for _ in range(100):
            writer.append({"n": (n := n + 1), "filling": "x" * 300})
"""


def test_a_program_that_ends_has_written_everything(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / "a.jsonl"), "500"], check=True, timeout=300)
    assert numbers(tmp_path / "a.jsonl") == list(range(500))


def test_a_kill_in_mid_write_keeps_every_whole_line_and_the_next_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    command = [sys.executable, "-c", SCRIPT, str(path), "2000", "on"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"going\n"
        while not path.exists() or path.stat().st_size < 500_000:
            assert process.poll() is None
        process.kill()
    kept = numbers(path)
    assert len(kept) > 1000
    assert kept == list(range(len(kept)))
    Records(path).append({"n": -1})
    assert numbers(path) == [*kept, -1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB, where one can be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=300)


def test_a_disk_that_is_really_full_takes_no_half_lines(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, ballast = small_disk / "a.jsonl", small_disk / "ballast"
    ballast.write_bytes(b"x" * 40_000)
    writer = RecordWriter(path, retry_seconds=0.01)
    with caplog.at_level(logging.WARNING):
        for number in range(60):
            writer.append({"n": number, "filling": "x" * 777})
        assert not writer.flush(0.5)
        kept = numbers(path)
        assert kept == list(range(len(kept)))
        assert len(kept) < 60
        ballast.unlink()
        assert writer.close(SECONDS)
    assert numbers(path) == list(range(60))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} cannot be written, it will be tried again: [Errno 28] No space left on device"
    ]
