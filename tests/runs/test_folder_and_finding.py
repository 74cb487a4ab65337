"""A run is found by all the names people give it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from musictrain.runs import Records, RunFolder, RunNotFoundError, find_run, list_runs

OLD = "2025-01-01_100000-chorales-calm-fugue"
MIDDLE = "2025-01-02_100000-folk-brisk-gigue"
NEW = "2025-01-03_100000-chorales-warm-canon"


def make_run(runs_dir: Path, name: str, *losses: float) -> RunFolder:
    run = RunFolder(runs_dir / name)
    run.path.mkdir(parents=True)
    run.config.write_text("model: {}\n")
    writer = Records(run.metrics)
    for step, loss in enumerate(losses, start=1):
        writer.append({"step": step * 10, "train/loss": 0.0, "val/loss": loss})
    writer.close()
    return run


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    make_run(tmp_path, NEW, 0.7, float("nan"))
    make_run(tmp_path, OLD, 0.9, 0.5, 0.6)
    make_run(tmp_path, MIDDLE)
    (tmp_path / "notes").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIDDLE, MIDDLE),
        ("2025-01-02", MIDDLE),
        ("calm-fugue", OLD),
        ("folk", MIDDLE),
        ("fug", OLD),
        ("chorales-warm", NEW),
        ("latest", NEW),
        ("best", OLD),
    ],
)
def test_a_run_goes_by_many_names(runs_dir: Path, text: str, name: str) -> None:
    assert find_run(text, runs_dir) == RunFolder(runs_dir / name)


def test_a_run_is_found_by_its_path_from_anywhere(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs_dir)
    assert find_run(f"./{OLD}/", "elsewhere").path == runs_dir / OLD


def test_an_ambiguous_prefix_names_all_it_fits(runs_dir: Path) -> None:
    with pytest.raises(RunNotFoundError, match=re.escape(f"'2025-01-0' fits 3 runs: {OLD}, {MIDDLE}, {NEW}")):
        find_run("2025-01-0", runs_dir)


def test_an_unknown_name_gets_the_nearest(runs_dir: Path) -> None:
    with pytest.raises(RunNotFoundError, match="Did you mean 'calm-fugue'"):
        find_run("calm-fuge", runs_dir)
    with pytest.raises(RunNotFoundError, match=f"There are: {OLD}, "):
        find_run("zzz", runs_dir)


def test_no_runs_at_all_says_how_to_start_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunNotFoundError, match=r"holds no runs\. Start one with `musictrain fit`"):
            find_run("latest", folder)


def test_best_needs_a_recorded_score(tmp_path: Path) -> None:
    make_run(tmp_path, OLD)
    with pytest.raises(RunNotFoundError, match="No best run: none of 1 has recorded val/loss"):
        find_run("best", tmp_path)


def test_runs_are_listed_by_their_start(runs_dir: Path) -> None:
    assert [run.name for run in list_runs(runs_dir)] == [OLD, MIDDLE, NEW]


def test_the_best_value_is_the_lowest_finite_one(runs_dir: Path) -> None:
    assert RunFolder(runs_dir / OLD).best() == (0.5, 20)
    assert RunFolder(runs_dir / NEW).best() == (0.7, 10)
    assert RunFolder(runs_dir / MIDDLE).best() is None


def test_a_taken_name_is_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["a-calm-fugue", "a-calm-fugue", "a-warm-canon"])
    monkeypatch.setattr("musictrain.runs.folder.new_run_name", lambda name: next(names))
    created = [RunFolder.create(tmp_path / "runs", "a") for _ in range(2)]
    assert [run.name for run in created] == ["a-calm-fugue", "a-warm-canon"]
