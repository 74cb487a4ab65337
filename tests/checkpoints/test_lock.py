"""Two trainers never write into one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from musictrain.checkpoints.lock import FolderInUseError, FolderLock

HOLD = """
import sys, time
from pathlib import Path
from musictrain.checkpoints.lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_trainer_of_this_process_is_refused(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    first.acquire()
    with pytest.raises(FolderInUseError, match="Give each its own dirpath"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_another_process_holds_the_folder_until_it_dies(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=rf"Process {holder.pid} on \S+ is training this run"):
            FolderLock(tmp_path).acquire()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_forked_worker_does_not_keep_the_lock_of_its_dead_parent(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    parent = os.fork()
    if parent == 0:
        FolderLock(tmp_path).acquire()
        if os.fork() == 0:
            os.write(write_end, b"x")
            time.sleep(30)
            os._exit(0)
        time.sleep(30)
        os._exit(0)
    os.read(read_end, 1)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()
