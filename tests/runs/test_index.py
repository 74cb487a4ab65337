"""The index says what the folders say, reads only what changed, and can be thrown away at any time."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from musictrain.runs import RunFolder, index_opening
from musictrain.runs import index as index_module
from musictrain.runs.index import INDEX, RunIndex, update_run
from musictrain.runs.labels import add_tags
from musictrain.runs.lineage import add_parent
from musictrain.runs.rows import marker
from musictrain.runs.status import process_start
from tests.runs.some_runs import append, losses, read_json, write_run, write_status

CONFIG = {
    "model": {"class_path": "m.MusicModule", "init_args": {"network": {"class_path": "musictrain.Decoder", "init_args": {"d_model": 8}}}},
    "data": {"init_args": {"corpus": "chorales", "tokenizer": {"class_path": "musictrain.VoiceGrid"}}},
    "trainer": {"callbacks": [{"class_path": "x.Ema", "init_args": {"decay": 0.9}}]},
}


def everything(runs_dir: Path) -> dict[str, Any]:
    """All that the index says, but for numbers and times that differ from one index to the next."""
    with RunIndex(runs_dir, read_json) as index:
        index.refresh()
        tables = ("runs", "metrics", "config", "tags", "lineage")
        found = {table: index.select(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables}
    for row in found["runs"]:
        del row["id"]
    found["runs"].sort(key=lambda row: row["name"])
    return found


def row_of(runs_dir: Path, name: str) -> dict[str, Any]:
    return next(row for row in everything(runs_dir)["runs"] if row["name"] == name)


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    best = {"metric": "val/loss", "value": 0.5, "step": 20}
    write_run(runs, "a-calm-fugue", losses(0.9, 0.5, 0.6), config=CONFIG, state="finished", step=30, total=30, best=best)
    write_run(runs, "b-brisk-gigue", losses(0.7), events=["started", "finished"])
    return runs


def test_the_index_says_what_the_folders_say(runs_dir: Path) -> None:
    a, b = everything(runs_dir)["runs"]
    told = {key: a[key] for key in ("state", "step", "total", "model", "corpus", "tokenizer", "best_value", "best_step", "archived")}
    assert told == {
        **{"state": "finished", "step": 30, "total": 30, "model": "Decoder", "corpus": "chorales", "tokenizer": "VoiceGrid"},
        **{"best_value": 0.5, "best_step": 20, "archived": 0},
    }
    assert (b["state"], b["step"], b["best_value"], b["created"], b["elapsed_seconds"]) == ("finished", 10, 0.7, 1000.0, 10.0)


def test_metrics_and_configuration_are_tables(runs_dir: Path) -> None:
    found = everything(runs_dir)
    assert found["metrics"][0] == {
        **{"run": "a-calm-fugue", "key": "val/loss", "last": 0.6, "last_step": 30},
        **{"min": 0.5, "min_step": 20, "max": 0.9, "max_step": 10},
    }
    assert {row["key"]: row["value"] for row in found["config"]}["trainer.callbacks.Ema.init_args.decay"] == 0.9


def test_nothing_is_read_again_that_did_not_change(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("a run was read again")

    with RunIndex(runs_dir, read_json) as index:
        assert sorted(index.refresh()) == ["a-calm-fugue", "b-brisk-gigue"]
        monkeypatch.setattr(index_module, "read_facts", refuse)
        assert index.refresh() == []
    with RunIndex(runs_dir, read_json) as index:
        assert index.refresh() == []


@pytest.mark.parametrize("what", ["status", "metrics", "labels", "lineage", "config"])
def test_a_change_in_any_file_is_seen(runs_dir: Path, what: str) -> None:
    was = everything(runs_dir)
    run = run_a(runs_dir)
    if what == "status":
        write_status(run, state="failed", step=11)
    elif what == "metrics":
        append(run.metrics, [{"step": 40, "val/loss": 0.1}])
    elif what == "labels":
        add_tags(run, ["paper"])
    elif what == "lineage":
        add_parent(run, "started from", "b-brisk-gigue", version="v000001_step000010", step=10)
    else:
        run.config.write_text(json.dumps({"seed_everything": 3}))
    table = {"status": "runs", "labels": "tags"}.get(what, what)
    assert everything(runs_dir)[table] != was[table]


def run_a(runs_dir: Path) -> RunFolder:
    return RunFolder(runs_dir / "a-calm-fugue")


def test_two_states_of_one_size_within_a_tick_of_the_clock_are_told_apart(runs_dir: Path) -> None:
    run = run_a(runs_dir)
    everything(runs_dir)
    told = run.status.stat()
    shorter = run.status.read_text().replace('"step": 30', '"step": 31')
    new = run.path / "new"
    new.write_text(shorter)
    os.utime(new, ns=(told.st_atime_ns, told.st_mtime_ns))
    new.replace(run.status)
    assert row_of(runs_dir, run.name)["step"] == 31


def test_a_refreshed_index_is_the_one_made_anew(runs_dir: Path) -> None:
    run = run_a(runs_dir)
    everything(runs_dir)
    append(run.metrics, losses(0.4, 0.8)[1:])  # step 20 again: the later one counts
    everything(runs_dir)
    append(run.metrics, [marker(2, 10, 0.0), {"step": 15, "val/loss": 0.85, "val/groove": 1.0}])
    append(run.metrics, [{"step": 25, "val/loss": "NaN"}])
    add_tags(run, ["x", "y"])
    refreshed = everything(runs_dir)
    (runs_dir / INDEX).unlink()
    assert everything(runs_dir) == refreshed
    assert [(row["last"], row["min"], row["max"]) for row in refreshed["metrics"][:2]] == [(1.0, 1.0, 1.0), (None, 0.85, 0.9)]


def test_metrics_that_grew_are_read_on_and_not_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, "a", losses(*[1 / step for step in range(1, 500)]))
    everything(tmp_path)
    read: list[int] = []
    monkeypatch.setattr("musictrain.runs.rows.json.loads", lambda line: read.append(1) or json.JSONDecoder().decode(line.decode()))
    append(run.metrics, [{"step": 10_000, "val/loss": 7.0}])
    metric = everything(tmp_path)["metrics"][0]
    assert read == [1]
    assert (metric["last"], metric["max"], metric["min"]) == (7.0, 7.0, 1 / 499)


def test_a_run_that_is_gone_is_forgotten_and_its_numbers_too(runs_dir: Path) -> None:
    everything(runs_dir)
    shutil.rmtree(runs_dir / "a-calm-fugue")
    found = everything(runs_dir)
    assert [row["name"] for row in found["runs"]] == ["b-brisk-gigue"]
    assert {row["run"] for row in found["metrics"]} == {"b-brisk-gigue"}


def test_a_run_whose_process_is_gone_is_stale_though_its_files_never_changed(tmp_path: Path) -> None:
    here = {"host": socket.gethostname(), "pid": os.getpid(), "process_started": process_start(os.getpid()), "updated": time.time()}
    run = write_run(tmp_path, "a", state="training", **here)
    assert row_of(tmp_path, "a")["state"] == "training"
    write_status(run, state="training", **{**here, "pid": 2**22 + 1})
    assert row_of(tmp_path, "a")["state"] == "stale"


def test_an_old_run_that_only_began_is_stale_once_it_is_silent(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", losses(0.5), events=["started"])
    assert row_of(tmp_path, "a")["state"] == "training"
    for path in run.path.iterdir():
        os.utime(path, (1000, 1000))
    assert row_of(tmp_path, "a")["state"] == "stale"


def test_without_a_reader_configurations_wait_for_somebody_who_has_one(runs_dir: Path) -> None:
    assert update_run(runs_dir, runs_dir / "a-calm-fugue")
    with RunIndex(runs_dir) as index:
        assert index.refresh() == ["b-brisk-gigue"]
        assert index.refresh() == []
        assert index.select("SELECT * FROM config") == []
    assert row_of(runs_dir, "a-calm-fugue")["model"] == "Decoder"


def test_what_takes_long_is_announced_once(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MUCH", 20)
    told: list[str] = []
    for _ in range(2):
        with RunIndex(runs_dir, read_json, tell=told.append) as index:
            index.refresh()
    assert told == ["Indexing 2 runs, once ..."]


def test_children_are_found_by_their_parent(runs_dir: Path) -> None:
    add_parent(run_a(runs_dir), "distilled from", "b-brisk-gigue")
    with RunIndex(runs_dir) as index:
        index.refresh()
        assert [child["run"] for child in index.children_of("b-brisk-gigue")] == ["a-calm-fugue"]
        assert index.children_of("a-calm-fugue") == []


@pytest.mark.parametrize("content", [b"no database at all, but some text" * 9, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_broken_index_is_set_aside_and_made_again(runs_dir: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    was = everything(runs_dir)
    (runs_dir / INDEX).write_bytes(content)
    assert everything(runs_dir) == was
    assert re.search(r"could not be used .* set aside as index\.sqlite\.\S+\.aside and is made again", caplog.text)
    assert [path.read_bytes() for path in runs_dir.glob("*.aside")] == [content]


def test_an_index_broken_in_the_middle_is_made_again(runs_dir: Path) -> None:
    was = everything(runs_dir)
    path = runs_dir / INDEX
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    assert everything(runs_dir) == was


@pytest.mark.parametrize("change", ["CREATE TABLE theirs (x)", "PRAGMA user_version = 99"])
def test_somebody_elses_or_a_later_index_is_left_whole(runs_dir: Path, change: str) -> None:
    if "user_version" in change:
        everything(runs_dir)
    connection = sqlite3.connect(runs_dir / INDEX)
    connection.execute(change)
    connection.close()
    content = (runs_dir / INDEX).read_bytes()
    assert len(everything(runs_dir)["runs"]) == 2
    assert [path.read_bytes() for path in runs_dir.glob("*.aside")] == [content]


def test_where_nothing_can_be_written_it_works_from_memory(runs_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def refuse(path: Any, *args: Any) -> sqlite3.Connection:
        if path == ":memory:":
            return real(path)
        raise sqlite3.OperationalError("attempt to write a readonly database")

    was = everything(runs_dir)
    real = index_opening.connect
    monkeypatch.setattr(index_opening, "connect", refuse)
    assert everything(runs_dir) == was
    assert "readonly database): working from memory" in caplog.text
    assert not update_run(runs_dir, runs_dir / "a-calm-fugue")


def test_while_somebody_holds_the_file_it_works_from_memory(runs_dir: Path) -> None:
    was = everything(runs_dir)
    add_tags(run_a(runs_dir), ["new"])
    holder = sqlite3.connect(runs_dir / INDEX, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with RunIndex(runs_dir, read_json, wait_seconds=0.05) as index:
        index.refresh()
        assert index.in_memory
        assert [row["tag"] for row in index.select("SELECT tag FROM tags")] == ["new"]
    holder.execute("ROLLBACK")
    holder.close()
    assert everything(runs_dir)["metrics"] == was["metrics"]


def test_updating_a_run_never_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not update_run(tmp_path / "missing", "a")
    monkeypatch.setattr(index_opening, "connect", lambda *args: 1 / 0)
    assert not update_run(tmp_path, "a")
    assert "which does it no harm" in caplog.text


def test_hostile_files_harm_nobody_elses_run(runs_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    evil = write_run(runs_dir, "'; DROP TABLE runs; --", state="training")
    evil.status.write_text(json.dumps({"name": [], "state": {}, "step": 10**40, "best": [1], "pid": "x", "host": {"a": 1}, "updated": "y"}))
    evil.metrics.write_text('{"step": 1e400, "a": 1}\n{"step": 5, "a\\ud800": 1e999, "b": [1], "c": 1' + "0" * 400 + "}\nnull\n[]\n\xff")
    evil.events.write_text('{"event": ["started"]}\n{"event": "finished", "time": "x", "step": "y"}\n')
    evil.labels.write_text('{"tags": [["x"]], "note": 3}')
    evil.lineage.write_text('{"relation": 1}')
    evil.config.write_text("[1, {}, {}]")
    evil.environment.write_text('{"parameters": 1e300}')
    names = {row["name"] for row in everything(runs_dir)["runs"]}
    assert names == {"a-calm-fugue", "b-brisk-gigue", evil.name}
