"""A process that is lost is said in words that help, whoever says it first: gloo, NCCL, torch's store, or Lightning's launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from musictrain.strategies.lost_peer import LastWords, killed_child, lost_peer
from tests.strategies.launched import (
    BOUND_SECONDS,
    config_of,
    fit_words,
    is_alive,
    rank_of,
    run_to_end,
    started,
    steps_saved,
    until,
    workers_of,
)

GONE = {
    "gloo": "[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:4937",
    "gloo in version 6": "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection reset by peer [fe80::1]:4937",
    "nccl": "NCCL error: remote process exited or there was a network error. Last error: socketProgress: Connection closed by remote "
    "peer gpu2<40000>, remote process has terminated, ProcessGroupNCCL.cpp:2251",
    "store": "TCPStore: sendBytes failed on SocketImpl(fd=3): Broken pipe",
}
SILENT = {
    "gloo": "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 12000ms for recv operation to complete",
    "nccl": "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE, Timeout(ms)=12000) ran for 12003 ms",
    "store": "c10d: wait timeout after 12000ms, keys: /default_pg/0//cpu//0/1",
}


@pytest.mark.parametrize("message", GONE.values(), ids=GONE)
def test_a_peer_that_has_ended_is_told_from_any_other_error(message: str) -> None:
    assert str(lost_peer(RuntimeError(message))).startswith("Another process of this run has ended")


@pytest.mark.parametrize("message", SILENT.values(), ids=SILENT)
def test_a_peer_that_is_silent_is_told_with_how_long_was_waited(message: str) -> None:
    assert "has not answered for 0.2 minutes" in str(lost_peer(RuntimeError(message)))


def test_what_gloo_says_without_a_number_counts_too() -> None:
    said = lost_peer(RuntimeError("Application timeout caused pair closure"))
    assert str(said).startswith("Another process of this run has not answered: its machine or the network between is down")


def test_the_address_of_the_peer_is_told_where_it_is_known() -> None:
    assert "on 10.0.0.2:" in str(lost_peer(RuntimeError(GONE["gloo"])))
    assert "on fe80::1:" in str(lost_peer(RuntimeError(GONE["gloo in version 6"])))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Connection closed by peer of gloo is a fine name for a piece"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        BrokenPipeError("Broken pipe"),
        RuntimeError("NCCL is not built in"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_other_errors_speak_for_themselves(error: BaseException) -> None:
    assert lost_peer(error) is None


def test_the_launcher_says_which_process_ended_and_how() -> None:
    line = "[rank: 3] Child process with PID 9 terminated with code {}. Forcefully terminating all other processes to avoid zombies"
    assert "Rank 3 of this run (process 9) has ended with status 1" in str(killed_child(line.format(1)))
    assert "was ended by SIGKILL" in str(killed_child(line.format(-9)))
    assert "was ended by signal 99" in str(killed_child(line.format(-99)))
    assert killed_child("Child process with a toy") is None


def test_only_the_launchers_last_line_reaches_the_terminal(capsys: Any) -> None:
    words = LastWords()
    for message in ("Seed set to 1", "[rank: 1] Child process with PID 9 terminated with code -9. Forcefully"):
        words.handle(logging.LogRecord("lightning.fabric", logging.INFO, "", 0, message, None, None))
    assert capsys.readouterr().err.startswith(
        "error: Rank 1 of this run (process 9) was ended by SIGKILL, and with it all others.\nNothing"
    )


# Lightning's own launcher, for real.


@contextmanager
def training(folder: Path) -> Iterator[tuple[Any, int]]:
    """A fit with two processes on this machine that has saved some versions: the first process, and the number of the second."""
    config = config_of(folder, steps=2000, rank=99, pause=0.05)
    words = fit_words(config, folder / "runs", "--trainer.devices", "2", "--timeout_minutes", "1")
    with started([sys.executable, "-m", "musictrain", *words], folder / "log") as first:
        until(lambda: max(steps_saved(folder / "runs"), default=0) >= 6, BOUND_SECONDS)
        (second,) = [number for number in workers_of([first.pid]) if rank_of(number) == "1"]
        yield first, second


@pytest.mark.slow
def test_when_the_second_process_is_killed_the_first_ends(tmp_path: Path) -> None:
    with training(tmp_path) as (first, second):
        os.kill(second, signal.SIGKILL)
        assert first.wait(BOUND_SECONDS) != 0
    printed = (tmp_path / "log").read_text()
    assert "Another process of this run has ended" in printed or "was ended by SIGKILL" in printed
    assert "--ckpt_path auto" in printed


@pytest.mark.slow
def test_when_the_first_process_is_killed_the_second_does_not_stay_behind(tmp_path: Path) -> None:
    with training(tmp_path) as (first, second):
        first.kill()
        first.wait(BOUND_SECONDS)
        until(lambda: not is_alive(second), BOUND_SECONDS)
    assert "error on rank 1: Another process of this run has ended" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_process_that_ends_while_the_first_does_something_else_is_told_too(tmp_path: Path) -> None:
    config = config_of(tmp_path, absence=60)
    words = fit_words(config, tmp_path / "runs", "--trainer.devices", "2")
    status, printed = run_to_end([sys.executable, "-m", "musictrain", *words], tmp_path / "log")
    assert status != 0
    assert "error: Rank 1 of this run (process" in printed
    assert "was ended by SIGKILL, and with it all others.\nNothing that was saved is lost" in printed
