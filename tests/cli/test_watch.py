"""``watch`` shows a run from its files alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.cli import watch
from musictrain.cli.watch_view import as_text, cropped, sparkline, table_view, view
from musictrain.cli.watched_run import MOST_POINTS, Curve, WatchedRun
from musictrain.runs import RunFolder, list_runs
from musictrain.runs.atomic import atomic_write
from musictrain.runs.records import Records
from musictrain.runs.status import Status, process_start
from tests.cli.tiny import type_command
from tests.speed.screen import screen_of, written_on_a_terminal

NOW = 1_800_000_000.0


def some_run(runs_dir: Path, name: str = "2026-11-22_120000-chorales-wandering-quartet", steps: int = 40, **status: Any) -> RunFolder:
    """A run that trains in this process, says its status, and has logged every tenth step."""
    run = RunFolder(runs_dir / name)
    run.path.mkdir(parents=True)
    run.config.write_text("{}")
    told = {
        "state": "training",
        "step": steps,
        "total": 100,
        "attempt_started": NOW - 100,
        "updated": NOW,
        "elapsed_seconds": 100.0,
        "left_seconds": 150.0,
        "left_low": 130.0,
        "left_high": 180.0,
        "tokens_per_second": 21500.0,
        "best": {"metric": "val/loss", "value": 0.75, "step": 30},
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "process_started": process_start(os.getpid()),
    }
    run.status.write_text(Status(name, **{**told, **status}).as_json())
    rows, events = Records(run.metrics), Records(run.events)
    for step in range(10, steps + 1, 10):
        rows.append({"time": NOW + step, "step": step, "epoch": 0, "train/loss": 40 / step, "speed/memory_peak_mib": 1159.0})
    rows.append({"time": NOW + steps, "step": steps, "epoch": 0, "val/loss": 0.75})
    events.append({"time": NOW, "event": "started"})
    events.append({"time": NOW, "event": "log", "message": "not of interest"})
    alert = {"kind": "data_wait", "message": "Waiting for data.", "advice": "More workers.", "level": "WARNING", "step": 20}
    events.append({"time": NOW, "event": "alert", **alert})
    return run


def once(run: RunFolder, now: float = NOW, width: int = 120, metrics: tuple[str, ...] = ()) -> str:
    watched = WatchedRun(run, metrics)
    watched.read()
    return as_text(view(watched, now, width))


def test_one_view_says_everything(tmp_path: Path) -> None:
    lines = once(some_run(tmp_path)).splitlines()
    assert lines[0] == "2026-11-22_120000-chorales-wandering-quartet  training"
    words = lines[1].lstrip("━─ ")
    assert words.startswith("step 40/100   40 %  21,500 tokens/s  1 min 40 s elapsed  2 min 30 s left (2 min 10 to 3 min 0), ends ")
    assert lines[1].startswith("━━━━────────  step")
    assert lines[2:] == [
        "memory 1,159 MiB",
        "train/loss           1  █▃▂▁",
        "val/loss          0.75  ▁  best 0.75 at step 30",
        "Alerts (1)",
        f"  {time.strftime('%H:%M:%S', time.localtime(NOW))}  step 20  Waiting for data.",
        "         -> More workers.",
        "Events",
        f"  {time.strftime('%H:%M:%S', time.localtime(NOW))}  started",
    ]


@pytest.mark.parametrize("width", [20, 40, 79, 200])
def test_no_line_is_wider_than_the_terminal(tmp_path: Path, width: int) -> None:
    run = some_run(tmp_path)
    assert max(map(len, once(run, width=width).splitlines())) <= width
    assert "step 40" in once(run, width=width)
    name = {20: "wandering-quartet", 40: "chorales-wandering-quartet"}.get(width, run.name)
    assert once(run, width=width).startswith(f"{name}  training"[: width - 1])


def test_time_goes_on_between_two_heartbeats(tmp_path: Path) -> None:
    watched = WatchedRun(some_run(tmp_path))
    watched.read()
    told = watched.as_json(NOW + 30)
    assert (told["elapsed_seconds"], told["left_seconds"], told["ends_at"]) == (130, 120, NOW + 150)
    assert "heard of 30 s ago" in as_text(view(watched, NOW + 30, 120))
    assert watched.as_json(NOW + 999)["left_seconds"] == 0


def test_a_stale_run_is_said_to_be_one(tmp_path: Path) -> None:
    run = some_run(tmp_path, process_started="another start/1")
    text = once(run, now=NOW + 7200)
    assert "stale" in text.splitlines()[0]
    assert f"process {os.getpid()} on {socket.gethostname()} was last heard of 2 h 0 min ago." in text
    assert f"musictrain resume {run.name}" in text
    assert "left" not in text
    watched = WatchedRun(run)
    watched.read()
    assert watched.is_over(NOW)


def test_a_silent_run_on_another_machine_may_come_back(tmp_path: Path) -> None:
    watched = WatchedRun(some_run(tmp_path, host="elsewhere"))
    watched.read()
    assert (watched.state(NOW + 3600), watched.is_over(NOW + 3600)) == ("stale", False)


def test_why_it_ended_and_what_to_do(tmp_path: Path) -> None:
    run = some_run(tmp_path, state="failed", reason="RuntimeError: \x1b[2Jno memory", advice="Take a smaller batch.")
    lines = once(run).splitlines()
    assert "failed: RuntimeError: \\x1b[2Jno memory" in lines
    assert "  -> Take a smaller batch." in lines


def test_a_run_without_a_status_is_shown_by_its_rows_and_events(tmp_path: Path) -> None:
    run = some_run(tmp_path)
    run.status.unlink()
    assert "no status.json" in once(run)
    assert once(run).splitlines()[1] == "step 40"
    Records(run.events).append({"time": NOW, "event": "finished"})
    watched = WatchedRun(run)
    watched.read()
    assert (watched.state(NOW), watched.is_over(NOW)) == ("finished", True)


def test_what_is_hostile_is_inert(tmp_path: Path) -> None:
    run = some_run(tmp_path)
    Records(run.metrics).append({"step": 41, "\x1b]0;evil\x07": 1.0})
    Records(run.events).append({"time": "soon", "event": "\x1b[31mred\nline", "note": "\u202ereversed"})
    Records(run.events).append({"event": "alert", "message": "a\rb", "step": "[bold]x"})
    text = once(run, metrics=("\x1b]0;evil\x07",))
    assert not any(sign in text for sign in ("\x1b", "\x07", "\r", "\u202e"))
    assert "\\x1b]0;evil\\x07" in text
    assert "[bold]x" in text


def test_a_resume_withdraws_what_it_does_again(tmp_path: Path) -> None:
    run = some_run(tmp_path)
    watched = WatchedRun(run)
    watched.read()
    Records(run.metrics).append({"time": NOW, "attempt": 2, "from_step": 20})
    watched.read()
    assert [step for step, _ in watched.curves["train/loss"].points] == [10, 20]
    Records(run.metrics).append({"step": 30, "train/loss": 9.0})
    watched.read()
    assert watched.curves["train/loss"].points[-1] == (30, 9.0)


def test_another_file_in_its_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    run = some_run(tmp_path)
    watched = WatchedRun(run)
    watched.read()
    run.metrics.unlink()
    Records(run.metrics).append({"step": 5, "train/loss": 2.0})
    watched.read()
    assert watched.curves["train/loss"].points == [(5, 2.0)]
    assert "val/loss" not in watched.curves


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(allow_nan=True)), max_size=80))
def test_a_curve_is_finite_and_goes_up_in_steps(rows: list[tuple[int, float]]) -> None:
    curve = Curve()
    for step, value in rows:
        curve.add(step, value)
    steps = [step for step, _ in curve.points]
    assert steps == sorted(set(steps))
    assert all(abs(value) < float("inf") for _, value in curve.points)
    assert not rows or not steps or steps[-1] <= rows[-1][0]


def test_a_long_run_opens_at_once_and_keeps_its_shape(tmp_path: Path) -> None:
    run = some_run(tmp_path, steps=0)
    count = 120_000
    with run.metrics.open("w") as file:
        file.writelines(f'{{"time": 1.0, "step": {step}, "train/loss": {1 - step / count:.6f}}}\n' for step in range(count))
    watched = WatchedRun(run)
    watched.read()
    points = watched.curves["train/loss"].points
    assert points[0][0] < count // 20
    assert points[-1][0] >= count - MOST_POINTS
    assert len(points) <= MOST_POINTS
    assert watched.step == count - 1


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(8, 60))
def test_a_sparkline_is_as_long_as_there_is_room_and_as_high_as_its_values(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    if len(values) <= width:
        assert all((a <= b) or (x >= y) for a, b, x, y in zip(values, values[1:], line, line[1:], strict=False))


def test_lines_are_cropped_over_their_styles() -> None:
    assert cropped([("abc", "x"), ("defg", "y"), ("h", "z")], 5) == [("abc", "x"), ("d…", "y"), ("", "z")]


# The command.


def test_once_prints_plain_lines_of_the_latest_run(tmp_path: Path, capsys: Any) -> None:
    some_run(tmp_path, "2026-11-21_120000-older")
    run = some_run(tmp_path, updated=time.time())
    for words in ([], ["--once"], ["latest", "--once"], ["wandering-quartet"]):
        status, out, _ = type_command(capsys, "watch", *words, "--runs", tmp_path)
        assert (status, out.splitlines()[0]) == (0, f"{run.name}  training")
        assert "\033" not in out


def test_json_is_the_same_for_programs(tmp_path: Path, capsys: Any) -> None:
    run = some_run(tmp_path, updated=time.time())
    Records(run.metrics).append({"step": 41, "train/loss": float("nan")})
    status, out, _ = type_command(capsys, "watch", "--json", "--runs", tmp_path)
    told = json.loads(out)
    assert status == 0
    assert (told["run"], told["state"], told["step"], told["total"]) == (run.name, "training", 41, 100)
    assert told["values"]["train/loss"] == "NaN"
    assert told["alerts"][0]["advice"] == "More workers."
    _, out, _ = type_command(capsys, "watch", "--all", "--json", "--runs", tmp_path)
    assert [each["run"] for each in json.loads(out)] == [run.name]


def test_all_runs_in_a_table_with_those_that_go_on_first(tmp_path: Path, capsys: Any) -> None:
    some_run(tmp_path, "2026-11-20_120000-goes-on", updated=time.time(), values={"train/loss": 0.5, "val/loss": 0.25}, num_alerts=2)
    some_run(tmp_path, "2026-11-21_120000-gone", process_started="another start/1")
    some_run(tmp_path, "2026-11-22_120000-done", state="finished", step=100)
    status, out, _ = type_command(capsys, "watch", "--all", "--once", "--runs", tmp_path)
    rows = [line.split() for line in out.splitlines()]
    assert status == 0
    assert [(row[0][18:], row[1]) for row in rows[1:]] == [("goes-on", "training"), ("done", "finished"), ("gone", "stale")]
    assert rows[1][2:8] == ["40/100", "40", "%", "0.5", "0.25", "21,500"]
    assert rows[1][-1] == "2"
    narrow = as_text(table_view([WatchedRun(run) for run in list_runs(tmp_path)], NOW, 60)).splitlines()
    assert [line.split()[0] for line in narrow] == ["run", "goes-on", "gone", "done"]
    assert max(map(len, narrow)) <= 60


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["nowhere"], 2, "No run 'nowhere'"),
        (["--every", "0"], 2, "expected seconds between 0.1 and 86400, got '0'"),
        (["--onse"], 2, "Did you mean '--once'"),
        (["--metric", "val/los"], 1, "has logged no 'val/los'. Did you mean 'val/loss'"),
    ],
)
def test_what_cannot_be_shown_is_said(tmp_path: Path, capsys: Any, words: list[str], status: int, complaint: str) -> None:
    some_run(tmp_path)
    told, _, err = type_command(capsys, "watch", *words, "--runs", tmp_path)
    assert told == status
    assert complaint in err


def test_without_any_runs_it_says_how_to_begin(tmp_path: Path, capsys: Any) -> None:
    for words in ([], ["--all"]):
        status, _, err = type_command(capsys, "watch", *words, "--runs", tmp_path)
        assert status == 2
        assert "holds no runs. Start one with `musictrain fit`" in err


class Looks:
    """Two runs, one after the other, seen by a person who waits."""

    def __init__(self, *changes: Any) -> None:
        self.changes = list(changes)

    def __call__(self, seconds: float) -> None:
        if not self.changes:
            raise KeyboardInterrupt
        self.changes.pop(0)()


def test_it_follows_the_latest_run_until_ctrl_c_and_the_last_view_stays(tmp_path: Path, capsys: Any) -> None:
    some_run(tmp_path, "2026-11-21_120000-first", updated=time.time())
    looking = watch.One(watch.parser().parse_args(["--runs", str(tmp_path)]))
    watch.live(looking, 1.0, Looks(lambda: some_run(tmp_path, "2026-11-22_120000-second", updated=time.time())))
    assert looking.watched.run.name.endswith("second")
    assert "second" in capsys.readouterr().out


def test_it_ends_when_the_run_does(tmp_path: Path, capsys: Any) -> None:
    run = some_run(tmp_path)
    looking = watch.One(watch.parser().parse_args(["--runs", str(tmp_path)]))
    watch.live(looking, 1.0, Looks(lambda: run.status.write_text(Status(run.name, state="finished", step=100, total=100).as_json())))
    assert "finished" in capsys.readouterr().out


def test_on_a_terminal_one_view_is_drawn_over_the_other(tmp_path: Path, repository: Path) -> None:
    run = some_run(tmp_path, updated=time.time(), pid=0, host="elsewhere")
    ended = Status(run.name, state="finished", step=100, total=100).as_json()

    def ends_after_some_views(written: str, program: Any) -> None:
        if written.count("wandering-quartet") > 3:
            atomic_write(run.status, ended.encode(), durable=False)

    command = [sys.executable, "-m", "musictrain", "watch", "--every", "0.2", "--runs", str(tmp_path)]
    written = written_on_a_terminal(command, 90, {"PYTHONPATH": str(repository)}, meanwhile=ends_after_some_views)
    seen = screen_of(written, 90)
    assert [line for line in seen if "wandering-quartet" in line] == [f"{run.name}  finished"]
    assert max(map(len, seen)) <= 90
    assert written.endswith("\033[?25h") or "\033[?25h" in written


@pytest.mark.skipif(not hasattr(signal, "SIGINT"), reason="needs signals")
def test_ctrl_c_is_a_clean_way_to_leave(tmp_path: Path, repository: Path) -> None:
    some_run(tmp_path, updated=time.time())
    starts = f"from musictrain.cli.commands import main\nprint('status', main(['watch', '--runs', {str(tmp_path)!r}]))"
    pressed: list[int] = []

    def press_ctrl_c_once_it_is_drawn(written: str, program: Any) -> None:
        if "wandering-quartet" in written and not pressed:
            pressed.append(program.pid)
            program.send_signal(signal.SIGINT)

    command = [sys.executable, "-c", starts]
    written = written_on_a_terminal(command, 90, {"PYTHONPATH": str(repository)}, meanwhile=press_ctrl_c_once_it_is_drawn)
    assert "status 0" in written
    assert "Traceback" not in written


def test_it_imports_neither_torch_nor_lightning_nor_rich_to_look_once(tmp_path: Path, repository: Path) -> None:
    some_run(tmp_path)
    code = (
        "import sys\nfrom musictrain.cli.commands import main\n"
        f"main(['watch', '--once', '--runs', {str(tmp_path)!r}])\n"
        "print({'torch', 'lightning', 'rich', 'numpy', 'matplotlib', 'plotly'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_a_terminal_without_such_letters_gets_others(tmp_path: Path, repository: Path) -> None:
    some_run(tmp_path)
    command = [sys.executable, "-m", "musictrain", "watch", "--once", "--runs", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "train/loss           1  @-._" in done.stdout
