"""Sixteen processes write sixteen runs at once: nothing is lost, nobody is locked out, and killing some of them breaks nothing."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from musictrain.runs import Records, RunFolder, atomic_write, read_records
from musictrain.runs.index import INDEX, RunIndex, update_run
from musictrain.runs.labels import add_tags, read_labels
from musictrain.runs.lineage import add_parent, parents_of
from musictrain.runs.status import Status
from tests.runs.some_runs import read_json

WRITERS = 16
ROUNDS = 12

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")


class NoComplaint(logging.Handler):
    """Any warning ends the process, with status 1."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)
        os._exit(1)


def write_and_update(runs_dir: Path, name: str, rounds: int) -> None:
    logging.getLogger().addHandler(NoComplaint(logging.WARNING))
    run = RunFolder(runs_dir / name)
    run.path.mkdir(exist_ok=True)
    run.config.write_text(json.dumps({"name": name}))
    rows = Records(run.metrics)
    for step in range(1, rounds + 1):
        rows.append({"step": step, "val/loss": 1 / step})
        status = Status(name, "training", step=step, total=rounds, host="elsewhere", updated=time.time())
        atomic_write(run.status, status.as_json(), durable=False)
        if not update_run(runs_dir, run, read_json):
            os._exit(1)


def in_processes(act: Callable[..., None], *arguments: tuple[object, ...]) -> list[multiprocessing.process.BaseProcess]:
    started: list[multiprocessing.process.BaseProcess] = []
    for each in arguments:
        process = multiprocessing.get_context("fork").Process(target=act, args=each, daemon=True)
        process.start()
        started.append(process)
    return started


def exit_codes(processes: list[multiprocessing.process.BaseProcess], seconds: float = 300) -> list[int | None]:
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    return [process.exitcode for process in processes]


def test_sixteen_processes_lose_nothing_and_lock_nobody_out(tmp_path: Path) -> None:
    names = [f"run-{number:02d}" for number in range(WRITERS)]
    processes = in_processes(write_and_update, *((tmp_path, name, ROUNDS) for name in names))
    while any(process.is_alive() for process in processes):
        with RunIndex(tmp_path, read_json, wait_seconds=60) as index:  # somebody who looks meanwhile
            index.refresh()
            assert not index.in_memory
        time.sleep(0.05)
    assert exit_codes(processes) == [0] * WRITERS
    connection = sqlite3.connect(tmp_path / INDEX)  # as the writers left it, without a further look at the folders
    assert connection.execute("SELECT name, step FROM runs ORDER BY name").fetchall() == [(name, ROUNDS) for name in names]
    assert connection.execute("SELECT run, last_step, min FROM metrics ORDER BY run").fetchall() == [(n, ROUNDS, 1 / ROUNDS) for n in names]
    connection.close()
    assert not list(tmp_path.glob("*.aside"))


def test_who_was_overtaken_while_it_read_does_not_undo_what_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text(json.dumps({"name": "run"}))

    def told(step: int) -> None:
        atomic_write(run.status, Status("run", "training", step=step, host="elsewhere", updated=time.time()).as_json(), durable=False)

    told(1)
    assert update_run(tmp_path, run, read_json)
    told(2)
    with RunIndex(tmp_path, read_json) as slow:
        read, steps = slow._read, [3]

        def overtaken(name: str, prints: tuple[str, ...]) -> object:
            facts = read(name, prints)
            if steps:
                told(steps.pop(0))
                assert update_run(tmp_path, run, read_json)
            return facts

        monkeypatch.setattr(slow, "_read", overtaken)
        slow.refresh()
        assert slow.select("SELECT step FROM runs") == [{"step": 3}]  # the other read 3 and wrote it first
        told(4)
        slow.refresh()
        assert slow.select("SELECT step FROM runs") == [{"step": 4}]


def test_killed_writers_break_neither_the_index_nor_the_rows(tmp_path: Path) -> None:
    names = [f"run-{number}" for number in range(6)]
    processes = in_processes(write_and_update, *((tmp_path, name, 10_000) for name in names))
    for process in processes[:4]:
        time.sleep(0.15)
        process.kill()
    time.sleep(0.2)
    assert [process.is_alive() for process in processes[4:]] == [True, True]
    with RunIndex(tmp_path, read_json, wait_seconds=60) as index:  # the others go on while somebody looks
        index.refresh()
        assert not index.in_memory
    for process in processes:
        process.kill()
    assert exit_codes(processes) == [-9] * 6
    connection = sqlite3.connect(tmp_path / INDEX)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    with RunIndex(tmp_path, read_json) as index:
        index.refresh()
        last = {row["run"]: row["last_step"] for row in index.select("SELECT run, last_step FROM metrics")}
    written = {run.name: read_records(RunFolder(run).metrics) for run in tmp_path.iterdir() if run.is_dir()}
    assert last == {name: rows[-1]["step"] for name, rows in written.items() if rows}
    assert all([row["step"] for row in rows] == list(range(1, len(rows) + 1)) for rows in written.values())


def tag_many(run: RunFolder, name: str) -> None:
    for number in range(10):
        add_tags(run, [f"{name}-{number}"])
        add_parent(run, "trial of", f"{name}-{number}")


def test_people_who_tag_one_run_at_once_lose_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert exit_codes(in_processes(tag_many, *((run, f"person-{number}") for number in range(8)))) == [0] * 8
    everything = {f"person-{person}-{number}" for person in range(8) for number in range(10)}
    assert set(read_labels(run).tags) == everything
    assert {parent.run for parent in parents_of(run)} == everything
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")} == {"labels.json", "lineage.json"}
