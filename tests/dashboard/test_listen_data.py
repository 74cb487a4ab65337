"""What the page is told of a run's samples."""

from __future__ import annotations

import base64
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from musictrain.dashboard.listen import MOST_CELLS, MOST_COLUMNS, listen_data, replays_of
from musictrain.notes import Notes
from musictrain.runs import RunFolder
from tests.dashboard.some_samples import add_sample, run_with_samples


def test_rows_are_prompts_and_columns_the_reference_and_the_steps(tmp_path: Path) -> None:
    told = listen_data(run_with_samples(tmp_path, steps=(300, 150)))
    assert told["rows"] == [
        {"name": "continued_1", "prompt": "bwv 5.7", "prompt_beats": 8.0, "seed": 0},
        {"name": "continued_2", "prompt": "bwv 5.7", "prompt_beats": 8.0, "seed": 0},
        {"name": "from_nothing", "prompt": None, "prompt_beats": 0.0, "seed": 0},
    ]
    assert [(column["folder"], column["step"], column["weights"]) for column in told["columns"]] == [
        ("reference", None, None),
        ("step_000150", 150, "current"),
        ("step_000300", 300, "current"),
    ]
    assert told["columns"][0]["cells"]["continued_1"][:4] == [32.0, 128, None, False]
    assert told["columns"][1]["cells"]["from_nothing"][:4] == [16.0, 64, -0.5, False]
    assert told["left_out"] == 0


def test_a_run_without_samples_has_none(tmp_path: Path) -> None:
    assert listen_data(RunFolder(tmp_path)) == {"rows": [], "columns": [], "left_out": 0}
    (tmp_path / "samples" / "step_000001").mkdir(parents=True)
    assert listen_data(RunFolder(tmp_path), inline=True) == {"rows": [], "columns": [], "left_out": 0, "rolls": {}, "midi": {}}


def test_replayed_steps_are_listed_if_they_have_a_page(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert replays_of(run) == []
    for name in ("step_000012", "step_000003", "step_000003_attempt_1", "mine", "step_x"):
        (tmp_path / "replay" / name).mkdir(parents=True)
        (tmp_path / "replay" / name / "index.html").touch()
    (tmp_path / "replay" / "step_000004").mkdir()
    assert replays_of(run) == [("step_000003", 3, None), ("step_000003_attempt_1", 3, 1), ("step_000012", 12, None)]


def test_inline_everything_is_inside(tmp_path: Path) -> None:
    run = run_with_samples(tmp_path, steps=(150,), rows=1)
    told = listen_data(run, inline=True)
    assert sorted(told["rolls"]) == sorted(told["midi"]) == ["reference/continued_1", "step_000150/continued_1", "step_000150/from_nothing"]
    path = run.samples / "step_000150" / "continued_1"
    assert told["rolls"]["step_000150/continued_1"] == json.loads(path.with_suffix(".json").read_text())
    assert base64.b64decode(told["midi"]["step_000150/continued_1"]) == path.with_suffix(".mid").read_bytes()


def stub(run: RunFolder, folder: str, name: str, **told: Any) -> Path:
    path = run.samples / folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"roll": {"onset": []}, **told}))
    return path


def test_of_very_many_steps_the_first_and_the_last_and_some_between_are_shown(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in range(1, 1001):
        stub(run, f"step_{step:06d}", "a", prompt="p")
    stub(run, "reference", "a", prompt="p")
    told = listen_data(run)
    steps = [column["step"] for column in told["columns"]]
    assert (steps[0], steps[1], steps[-1], len(steps)) == (None, 1, 1000, MOST_COLUMNS)
    assert told["left_out"] == 1001 - MOST_COLUMNS
    assert max(later - earlier for earlier, later in itertools.pairwise(steps[1:])) <= 6


def test_the_page_stays_small_however_many_prompts_there_are(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in range(100):
        for row in range(50):
            stub(run, f"step_{step}", f"continued_{row}", prompt="p" * 1000)
    told = listen_data(run)
    assert sum(len(column["cells"]) for column in told["columns"]) <= MOST_CELLS
    assert len(json.dumps(told)) < 200_000
    assert [row["name"] for row in told["rows"][:11]][-2:] == ["continued_9", "continued_10"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "{}", '{"roll": 3}', '{"roll": {"onset": 3}}', "[" * 100_000])
def test_what_is_no_sample_is_passed_over(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    stub(run, "step_000001", "good", prompt="p")
    (run.samples / "step_000001" / "bad.json").write_text(content)
    assert [row["name"] for row in listen_data(run)["rows"]] == ["good"]


def test_values_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    stub(run, "step_000001", "a", prompt=["<b>"], prompt_beats="8", seed=True, beats={}, log_prob_per_token=float("nan"), ended="yes")
    told = listen_data(run)
    assert told["rows"] == [{"name": "a", "prompt": None, "prompt_beats": 0.0, "seed": None}]
    assert told["columns"][0]["cells"]["a"][:4] == [0.0, 0, None, False]


def test_a_sample_that_was_written_again_is_told_anew(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    path = add_sample(run, "step_000001", "a", Notes.from_rows([(0, 1, 60)]), prompt=None)["json"]
    before = listen_data(run)["columns"][0]["cells"]["a"]
    add_sample(run, "step_000001", "a", Notes.from_rows([(0, 1, 60), (1, 3, 62)]), prompt=None)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))
    after = listen_data(run)["columns"][0]["cells"]["a"]
    assert (before[:2], after[:2]) == ([1.0, 1], [4.0, 2])
    assert after[4] > before[4]
