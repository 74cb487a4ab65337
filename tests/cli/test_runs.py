"""The commands that look at many runs: what they say, what they refuse, and that they are light."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from musictrain.cli import runs as runs_command
from musictrain.runs import RunFolder
from musictrain.runs.index import INDEX
from musictrain.runs.labels import Labels, add_tags, read_labels, set_archived, set_note
from musictrain.runs.lineage import add_parent
from tests.cli.tiny import type_command
from tests.runs.some_runs import append, losses, write_run

OLD, MIDDLE, NEW = "2025-01-01_100000-a-calm-fugue", "2025-01-02_100000-b-brisk-gigue", "2025-01-03_100000-c-warm-canon"
HEAVY = ("torch", "lightning", "jsonargparse", "matplotlib", "music21", "miditok", "numpy", "plotly", "pandas", "rich")
PROBE = f"""
import sys
from musictrain.cli.commands import main
status = main(sys.argv[1:])
print("heavy:", [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
raise SystemExit(status)
"""


def config(**optimizer: Any) -> dict[str, Any]:
    return {"model": {"init_args": {"network": {"class_path": "musictrain.Decoder"}, "optimizer": {"init_args": optimizer}}}}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three runs: a finished one, a failed one with an alert, and an old one without status.json."""
    runs_dir = tmp_path / "runs"
    best = {"metric": "val/loss", "value": 0.4, "step": 20}
    times = {"first_started": 1735725600.0, "ended": 1735725700.0, "elapsed_seconds": 100.0}
    write_run(runs_dir, OLD, losses(0.9, 0.4, 0.5), config=config(lr=0.1, decay=1), state="finished", step=30, total=30, best=best, **times)
    alert = {"kind": "loss_spike", "message": "The loss jumped.", "advice": "Lower the learning rate.", "step": 10}
    failed = {
        "state": "failed",
        "step": 20,
        "total": 40,
        "reason": "OutOfMemory: no more",
        "advice": "Halve it.",
        "first_started": 1735812000.0,
    }
    rows = [*losses(0.8, 0.6), {"step": 20, "val/groove": 0.9}]
    write_run(runs_dir, MIDDLE, rows, config=config(lr=0.2, decay=1), num_alerts=2, last_alert=alert, **failed)
    write_run(runs_dir, NEW, losses(0.7), config=config(lr=0.2, decay=1, extra="x"), events=["started", "finished"])
    return runs_dir


def typed(capsys: Any, runs_dir: Path, *words: Any) -> str:
    status, out, err = type_command(capsys, "runs", *words, "--runs", runs_dir)
    assert (status, err) == (0, "")
    return out


def names(capsys: Any, runs_dir: Path, *words: Any) -> list[str]:
    """First letters of the runs that a list names."""
    return [row["name"].split("-")[3] for row in json.loads(typed(capsys, runs_dir, "list", "--json", *words))]


def test_the_list_is_a_plain_table(capsys: Any, runs: Path) -> None:
    add_tags(RunFolder(runs / OLD), ["paper", "baseline"])
    out = typed(capsys, runs)
    assert out == typed(capsys, runs, "list")
    lines = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    assert lines[0] == ["run", "state", "progress", "best val/loss", "at", "elapsed", "started", "tags"]
    assert [line[0] for line in lines[1:4]] == [MIDDLE, OLD, NEW]  # by the time they say: the old one's events are of 1970
    assert lines[2][1:6] == ["finished", "30/30 100 %", "0.4", "20", "1 min 40 s"]
    assert lines[2][-1] == "baseline, paper"
    assert lines[4][0].startswith("3 runs in ")
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--where", "val/loss<0.6"], "a"),
        (["--where", "val/loss<=0.6"], "ba"),
        (["--where", "val/loss.min < 0.5"], "a"),
        (["--where", "val/loss.max=0.9"], "a"),
        (["--where", "val/groove>0"], "b"),
        (["--where", "val/groove!=0.9"], "ac"),
        (["--where", "lr==0.2", "--where", "step>=20"], "b"),
        (["--where", "optimizer.init_args.lr>0.15"], "bc"),
        (["--where", "extra=x"], "c"),
        (["--where", "model~dec"], "bac"),
        (["--where", "created>2025-01-01T12:00"], "b"),
        (["--where", "reason~memory"], "b"),
        (["--state", "failed", "--state", "stopped"], "b"),
        (["--name", "WARM"], "c"),
        (["--sort", "val/loss"], "abc"),
        (["--sort", "val/loss", "--reverse"], "cba"),
        (["--sort", "val/groove"], "bac"),
        (["--sort", "val/loss", "--limit", "2"], "ab"),
        (["--sort", "name"], "abc"),
        (["--reverse"], "cab"),
        (["--tag", "paper"], ""),
    ],
)
def test_runs_are_chosen_and_sorted_by_any_value(capsys: Any, runs: Path, words: list[str], found: str) -> None:
    assert "".join(names(capsys, runs, *words)) == found


def test_columns_are_any_values(capsys: Any, runs: Path) -> None:
    out = typed(capsys, runs, "list", "--columns", "state, val/loss.min,val/loss.min_step,lr", "--sort", "name")
    assert [line.split() for line in out.splitlines()[:2]] == [
        ["run", "state", "val/loss.min", "val/loss.min_step", "lr"],
        [OLD, "finished", "0.4", "20", "0.1"],
    ]
    rows = json.loads(typed(capsys, runs, "list", "--columns", "lr,val/groove", "--sort", "name", "--json"))
    assert rows[0] == {"run": OLD, "lr": 0.1, "val/groove": None}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["list", "--sort", "val/los"], "No run has a value 'val/los'. Did you mean 'val/loss'?"),
        (["list", "--where", "val/loss"], "--where expects a condition such as 'val/loss<0.5' or 'model=Decoder', got 'val/loss'."),
        (["list", "--where", "class_pat=1"], "Did you mean 'class_path'?"),
        (["list", "--columns", ","], "--columns expects names with commas between"),
        (["list", "--limit", "0"], "expected a whole number above 0, got '0'"),
        (["list", "--state", "finishd"], "invalid choice: 'finishd'"),
        (["list", "--sql", "SELECT * FROM run"], "There is no table 'run'. Did you mean 'runs'?"),
        (["list", "--sql", "DROP TABLE runs"], "Only reading is allowed here"),
        (["list", "calm-fugue"], "Unexpected argument calm-fugue."),
        (["lst"], "runs cannot 'lst'. Did you mean 'list'?"),
        (["rm", "calm-fugue"], "Nothing here deletes a run: `musictrain runs archive RUN` puts it out of sight"),
        (["calm-fugue"], "To see that run: `musictrain runs show calm-fugue`."),
        (["zzz"], "There are: list, show, compare, best, overview,"),
        (["--jsn"], "Unknown option --jsn. Did you mean '--json'?"),
        (["show"], "The following arguments are required: RUN."),
        (["show", "calm-fuge"], "Did you mean 'calm-fugue'?"),
        (["compare", "calm-fugue"], "runs compare needs two different runs, got only "),
        (["compare", "calm-fugue", OLD], "runs compare needs two different runs"),
        (["best", "--metric", "val/grove"], "Did you mean 'val/groove'?"),
        (["best", "--metric", "state"], "'state' is no metric. There are: val/groove, val/loss."),
        (["tag", "calm-fugue", ""], "A tag is 1 to 60 visible characters, got ''."),
        (["archive", "calm-fugue", "nobody"], "No run 'nobody'"),
    ],
)
def test_mistakes_are_answered_with_what_there_is(capsys: Any, runs: Path, words: list[str], complaint: str) -> None:
    status, out, err = type_command(capsys, "runs", *words, "--runs", runs)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert complaint in err
    assert not read_labels(RunFolder(runs / OLD)).archived


def test_a_setting_by_its_end_has_to_be_one(capsys: Any, runs: Path) -> None:
    write_run(runs, "d", config={"data": {"lr": 1}})
    status, _, err = type_command(capsys, "runs", "list", "--sort", "lr", "--runs", runs)
    assert (status, err) == (
        2,
        "error: 'lr' fits 2 settings: data.lr, model.init_args.optimizer.init_args.lr. Type more of the key.\n",
    )


def test_no_runs_and_none_that_fit_are_said(capsys: Any, runs: Path, tmp_path: Path) -> None:
    assert "holds no runs. Start one with `musictrain fit`" in typed(capsys, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    add_tags(RunFolder(runs / OLD), ["paper"])
    set_archived(RunFolder(runs / OLD), True)
    out = typed(capsys, runs, "list", "--tag", "papr")
    assert out == "None of 3 runs fits (1 are archived: --archived shows them too). No run has the tag 'papr'. Did you mean 'paper'?\n"
    assert typed(capsys, runs, "list", "--tag", "papr", "--json") == "[]\n"


def test_archived_runs_are_out_of_sight(capsys: Any, runs: Path) -> None:
    typed(capsys, runs, "archive", "calm-fugue", "warm-canon")
    assert names(capsys, runs) == ["b"]
    assert typed(capsys, runs).endswith(", 2 archived.\n")
    assert sorted(names(capsys, runs, "--archived")) == ["a", "b", "c"]
    assert sorted(names(capsys, runs, "--archived", "only")) == ["a", "c"]
    assert json.loads(typed(capsys, runs, "best", "--json"))["ranking"][0]["run"] == MIDDLE
    typed(capsys, runs, "unarchive", "calm-fugue")
    assert sorted(names(capsys, runs)) == ["a", "b"]


def test_the_best_run_is_the_one_with_the_best_value(capsys: Any, runs: Path) -> None:
    assert typed(capsys, runs, "best").splitlines()[1].split() == [OLD, "0.4", "20", "finished"]
    told = json.loads(typed(capsys, runs, "best", "--metric", "val/loss", "--mode", "max", "--limit", 2, "--json"))
    assert [(place["run"], place["value"], place["step"]) for place in told["ranking"]] == [(OLD, 0.9, 10), (MIDDLE, 0.8, 10)]
    status, _, err = type_command(capsys, "runs", "best", "--name", "zzz", "--runs", runs)
    assert (status, err) == (1, "error: No best run: none of those that fit has recorded a finite val/loss.\n")


def test_a_failed_run_is_shown_with_the_reason_and_what_to_do(capsys: Any, runs: Path) -> None:
    out = typed(capsys, runs, "show", "brisk-gigue")
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == f"{MIDDLE}  failed"
    facts = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines[1:] if "  " in line}
    assert facts["why"] == "OutOfMemory: no more"
    assert facts["progress"] == "50 %"
    assert facts["best"] == "val/loss 0.6 at step 20"
    assert facts["alert"] == "The loss jumped. (2 in all)"
    assert "-> Lower the learning rate." in lines
    assert f"musictrain resume brisk-gigue --runs {runs}" in out
    assert re.search(r"val/loss +0\.6 @ 20 +0\.6 @ 20 +0\.8 @ 10", out)


def test_what_is_shown_is_in_the_json_too(capsys: Any, runs: Path) -> None:
    add_tags(RunFolder(runs / MIDDLE), ["a, b", "c"])
    told = json.loads(typed(capsys, runs, "show", "brisk-gigue", "--json"))
    assert told["tags"] == ["a, b", "c"]
    assert told["last_alert"]["kind"] == "loss_spike"
    assert told["config"]["model.init_args.optimizer.init_args.lr"] == 0.2
    assert told["metrics"]["val/loss"]["min"] == 0.6
    assert "metrics.jsonl" in told["files"]


def test_descent_is_shown_both_ways_and_circles_end(capsys: Any, runs: Path) -> None:
    add_parent(RunFolder(runs / MIDDLE), "started from", OLD, version="v000003_step000030", step=30)
    add_parent(RunFolder(runs / NEW), "distilled from", MIDDLE)
    out = typed(capsys, runs, "show", "warm-canon")
    assert f"distilled from {MIDDLE}\n" in out
    assert f"   which was started from {OLD}\n" in out
    assert f"<- {NEW} is distilled from this" in typed(capsys, runs, "show", "brisk-gigue")
    add_parent(RunFolder(runs / OLD), "trial of", NEW)
    assert out.count("which was") + 1 == typed(capsys, runs, "show", "warm-canon").count("which was")


def test_a_run_of_another_folder_is_shown_by_its_path(capsys: Any, runs: Path, tmp_path: Path) -> None:
    assert typed(capsys, tmp_path / "elsewhere", "show", runs / OLD).startswith(f"{OLD}  finished\n")


def test_runs_are_found_where_one_stands(capsys: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    for words in (["show", "latest"], ["compare", "calm-fugue", "runs/" + NEW], ["tag", "calm-fugue", "x"], ["list", "--tag", "x"]):
        status, out, err = type_command(capsys, "runs", *words)
        assert (status, err) == (0, "")
        assert OLD in out or words[0] == "show"
    assert "musictrain resume calm-fugue --trainer.max_steps 60\n" in type_command(capsys, "runs", "show", "calm-fugue")[1]


def test_a_folder_of_runs_can_be_moved_with_its_index(capsys: Any, runs: Path) -> None:
    typed(capsys, runs)
    moved = runs.rename(runs.with_name("moved"))
    assert json.loads(typed(capsys, moved, "best", "--json"))["ranking"][0]["path"] == str(moved / OLD)


def test_the_time_left_is_listed_while_runs_go_on(capsys: Any, runs: Path) -> None:
    assert "left" not in typed(capsys, runs).splitlines()[0].split()
    write_run(runs, "going", state="training", step=5, total=10, updated=1e12, left_seconds=90.0)
    heads, line, _ = typed(capsys, runs, "list", "--name", "going").splitlines()
    assert "  left  " in heads
    assert "  1 min 30 s" in line


def test_compare_tells_the_settings_that_differ_and_the_metrics(capsys: Any, runs: Path) -> None:
    told = json.loads(typed(capsys, runs, "compare", "calm-fugue", "brisk-gigue", "warm-canon", "--json"))
    optimizer = "model.init_args.optimizer.init_args"
    assert told["settings"] == {f"{optimizer}.lr": [0.1, 0.2, 0.2], f"{optimizer}.extra": [None, None, "x"]}
    assert list(told["metrics"]) == ["val/loss", "val/groove"]
    assert [each and each["min"] for each in told["metrics"]["val/loss"]] == [0.4, 0.6, 0.7]
    out = typed(capsys, runs, "compare", "calm-fugue", "brisk-gigue")
    assert re.search(r"optimizer\.init_args\.lr +0\.1 +0\.2\n", out)
    assert "decay" not in out
    assert re.search(r"val/loss +last +0\.5 @ 30 +0\.6 @ 20\n +min +0\.4 @ 20 +0\.6 @ 20\n", out)
    assert "decay" in typed(capsys, runs, "compare", "calm-fugue", "brisk-gigue", "--all")


@pytest.mark.parametrize("words", [["show", "calm-fugue"], ["compare", "calm-fugue", "brisk-gigue"]])
def test_what_the_machine_did_and_how_well_it_was_is_told_in_short(capsys: Any, runs: Path, words: list[str]) -> None:
    shares = {"speed/data_share": 0.5, "speed/other_share": 0.5, "speed/tokens_per_second": 100.0, "health/entropy": 2.0}
    append(RunFolder(runs / OLD).metrics, [{"step": 30, **shares}])
    out = typed(capsys, runs, *words)
    assert "speed/tokens_per_second" in out
    assert "data_share" not in out
    assert "entropy" not in out
    assert "and 3 more of machine and health: --all shows them\n" in out
    assert "data_share" in typed(capsys, runs, *words, "--all")
    assert "data_share" in typed(capsys, runs, *words, "--json")


def test_labels_are_given_and_taken(capsys: Any, runs: Path) -> None:
    run = RunFolder(runs / OLD)
    assert typed(capsys, runs, "tag", "calm-fugue", "x", "y") == f"{OLD}: tags x, y.\n"
    assert json.loads(typed(capsys, runs, "untag", "calm-fugue", "x", "--json"))["tags"] == ["y"]
    typed(capsys, runs, "note", "calm-fugue", "a note")
    assert read_labels(run) == Labels(("y",), "a note")
    assert names(capsys, runs, "--tag", "y", "--where", "note~note") == ["a"]


def test_sql_is_answered(capsys: Any, runs: Path) -> None:
    query = "SELECT name, min AS lowest FROM runs JOIN metrics ON run = name WHERE key = 'val/loss' ORDER BY 2"
    assert json.loads(typed(capsys, runs, "--sql", query, "--json", "--limit", 1)) == [{"name": OLD, "lowest": 0.4}]
    assert typed(capsys, runs, "--sql", query, "--limit", 1).splitlines()[-1] == "1 row, and there are more."


def test_reindex_makes_the_index_again(capsys: Any, runs: Path) -> None:
    before = names(capsys, runs)
    (runs / INDEX).unlink()
    assert typed(capsys, runs, "reindex").startswith("3 runs indexed, ")
    assert names(capsys, runs) == before
    status, _, err = type_command(capsys, "runs", "reindex", "--runs", runs / "nowhere")
    assert (status, err) == (1, f"error: {runs / 'nowhere'} is no folder. Name the folder of runs with --runs.\n")


@pytest.mark.parametrize(
    "words", [["list"], ["show", "latest"], ["compare", "evil", "warm-canon"], ["best"], ["--sql", "select * from runs"]]
)
def test_nothing_in_a_name_or_a_value_steers_the_terminal(capsys: Any, runs: Path, words: list[str]) -> None:
    evil = write_run(runs, "2026-01-01_000000-evil\x1b[31m\n\u202e", losses(0.1, key="val/\x1b[2Jloss"), config={"a\x1b": "b\x1b[1m"})
    append(evil.metrics, losses(0.01))
    set_note(evil, "x\x1b]0;title\x07")
    out = typed(capsys, runs, *words)
    assert "evil" in out
    assert all(line.isprintable() for line in out.splitlines())


def test_colours_are_for_terminals_that_want_them(capsys: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31mfailed\x1b[0m" in typed(capsys, runs)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in typed(capsys, runs)


def test_every_action_has_help(capsys: Any) -> None:
    for action in runs_command.ACTIONS:
        status, out, _ = type_command(capsys, "runs", action, "--help")
        assert status == 0
        assert out.startswith(f"usage: musictrain runs {action}")


@pytest.mark.parametrize(
    ("words", "status"),
    [([], 0), (["list", "--json"], 0), (["show", "best"], 0), (["compare", "latest", "best"], 0), (["best"], 0), (["show", "x"], 2)],
)
def test_looking_imports_nothing_heavy(runs: Path, repository: Path, words: list[str], status: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", PROBE, "runs", *words, "--runs", str(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stderr.splitlines()[-1] == "heavy: []"
    assert done.returncode == status, done.stderr
