"""Where a run stands, whether it still goes on, and the heartbeat that says so."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from musictrain.runs.heartbeat import Heartbeat
from musictrain.runs.states import States
from musictrain.runs.status import ACTIVE, ENDED, SILENCE_SECONDS, STALE, Status, process_start, read_status

SECONDS = 120.0
NOW = 1_000_000.0


def status(**facts: Any) -> Status:
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "process_started": process_start(os.getpid())}
    return Status("a-run", **{"state": "training", "updated": NOW, **mine, **facts})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    whole = status(step=5, total=9, values={"val/loss": 0.5}, best={"metric": "val/loss", "value": 0.5, "step": 4}, left_seconds=1.5)
    (tmp_path / "status.json").write_text(whole.as_json())
    assert read_status(tmp_path / "status.json") == whole


def test_numbers_that_json_lacks_stay_readable(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(status(values={"loss": float("nan")}).as_json())
    assert json.loads((tmp_path / "status.json").read_text())["values"] == {"loss": "NaN"}


@pytest.mark.parametrize("text", ["", "{", "[1]", '"training"', "null", '{"step": 1}', "\x00\x00"])
def test_what_is_no_status_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "status.json").write_text(text)
    assert read_status(tmp_path / "status.json") is None
    assert read_status(tmp_path / "missing.json") is None


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"name": "a", "from_the_future": 1}))
    assert read_status(tmp_path / "status.json") == Status("a")


# Whether it goes on.


@pytest.mark.parametrize("state", ACTIVE)
def test_a_run_whose_process_lives_goes_on_however_late_its_heart_beats(state: str) -> None:
    assert status(state=state, updated=0.0).shown_state(NOW) == state


@pytest.mark.parametrize("state", ENDED)
def test_a_run_that_has_ended_is_never_stale(state: str) -> None:
    assert status(state=state, pid=0, host="elsewhere", updated=0.0).shown_state(NOW) == state


def test_a_run_whose_process_is_gone_is_stale_at_once() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        gone = status(pid=child.pid, process_started=process_start(child.pid))
        assert gone.shown_state(NOW) == "training"
        child.kill()
        deadline = time.monotonic() + SECONDS
        while gone.shown_state(NOW) != STALE:  # already while its parent has not taken note
            assert time.monotonic() < deadline
    finally:
        child.communicate(timeout=SECONDS)
    assert gone.shown_state(NOW) == STALE


def test_a_process_that_has_only_the_number_of_the_runs_own_is_another_one() -> None:
    assert status(process_started="another-boot/1").shown_state(NOW) == STALE


def test_without_a_start_time_the_number_alone_counts() -> None:
    assert status(process_started="").shown_state(NOW) == "training"
    assert status(process_started="", pid=2**22 + 5).shown_state(NOW) == STALE


@pytest.mark.parametrize(("age", "state"), [(0.0, "training"), (SILENCE_SECONDS - 1, "training"), (SILENCE_SECONDS + 1, STALE)])
def test_on_another_machine_silence_tells(age: float, state: str) -> None:
    assert status(host="elsewhere", updated=NOW - age).shown_state(NOW) == state


def test_a_clock_that_runs_ahead_is_no_silence() -> None:
    assert status(host="elsewhere", updated=NOW + 3600).shown_state(NOW) == "training"


def test_an_update_at_no_time_is_silence() -> None:
    assert status(host="elsewhere", updated=float("nan")).shown_state(NOW) == STALE


def test_there_is_no_start_of_a_process_that_is_not_there() -> None:
    assert process_start(2**22 + 5) == ""


# The heartbeat.


def wait_for(path: Path, step: int) -> Status:
    deadline = time.monotonic() + SECONDS
    while (found := read_status(path)) is None or found.step != step:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
    return found


def test_it_beats_at_once_and_again_and_again_and_a_last_time(tmp_path: Path) -> None:
    now = status(step=1, updated=0.0)
    heart = Heartbeat(tmp_path / "status.json", lambda: now, seconds=0.02)
    heart.start()
    heart.start()
    assert wait_for(heart.path, 1).updated > 0
    now.step = 2
    wait_for(heart.path, 2)
    now.step, now.state = 3, "finished"
    assert heart.stop(SECONDS)
    assert heart.stop(SECONDS)
    assert read_status(heart.path) == now
    assert list(tmp_path.iterdir()) == [heart.path]


def test_a_change_does_not_wait_for_the_next_beat(tmp_path: Path) -> None:
    now = status(step=1)
    heart = Heartbeat(tmp_path / "status.json", lambda: now, seconds=3600.0)
    heart.start()
    wait_for(heart.path, 1)
    now.step = 2
    heart.beat()
    wait_for(heart.path, 2)
    assert heart.stop(SECONDS)


def test_the_last_beat_can_be_left_out(tmp_path: Path) -> None:
    now = status(step=1)
    heart = Heartbeat(tmp_path / "status.json", lambda: now, seconds=3600.0)
    heart.start()
    wait_for(heart.path, 1)
    now.step = 2
    assert heart.stop(SECONDS, last=False)
    assert getattr(read_status(heart.path), "step", None) == 1


def test_a_disk_that_fails_and_a_status_that_fails_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = [OSError(errno.ENOSPC, "full"), ValueError("no status"), None]
    asked = threading.Event()

    def now() -> Status:
        trouble = troubles[0] if len(troubles) == 1 else troubles.pop(0)
        if trouble is not None:
            raise trouble
        asked.set()
        return status(step=7)

    heart = Heartbeat(tmp_path / "status.json", now, seconds=0.01)
    heart.start()
    wait_for(heart.path, 7)
    assert asked.is_set()
    assert heart.stop(SECONDS)


def test_what_a_killed_beat_left_behind_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".status.json.1-2.tmp").write_text("{")
    (tmp_path / ".other.json.1-2.tmp").write_text("{")
    heart = Heartbeat(tmp_path / "status.json", lambda: status(step=1))
    heart.start()
    assert heart.stop(SECONDS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.json.1-2.tmp", "status.json"]


def test_a_heart_that_does_not_beat_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seconds=0; it needs a positive number"):
        Heartbeat(tmp_path / "status.json", lambda: status(), seconds=0)


# The states.


def test_the_innermost_pause_is_the_state() -> None:
    changes: list[str] = []
    states = States(lambda: changes.append(states.state))
    states.drive("training")
    states.enter("forward")
    states.enter("sampling")
    states.enter("saving")
    states.leave("sampling")
    states.leave("saving")
    states.leave("sampling")
    states.leave("sampling")
    states.drive("training")
    assert changes == ["training", "sampling", "saving", "sampling", "training"]


def test_a_pause_that_an_error_left_open_ends_with_the_next_batch() -> None:
    states = States(lambda: None)
    states.enter("sampling")
    states.drive("training")
    assert states.state == "training"


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="no active state 'finished' of a run: starting, training"):
        States(lambda: None).drive("finished")
