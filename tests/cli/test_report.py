"""``musictrain report`` writes the page of a run as one file, at once, and for any run that ever wrote its numbers down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from musictrain.cli import report
from musictrain.cli.commands import main
from tests.dashboard.run_folders import make_run


def test_it_writes_report_page_and_picture_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "2025-01-01_100000-a-calm-fugue")
    assert main(["report", "calm-fugue", "--runs", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    for path in (run.report, run.dashboard, run.curves):
        assert path.is_file()
        assert str(path) in said
    assert run.dashboard_data.is_file()


def test_json_tells_the_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    assert main(["report", "latest", "--runs", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"report": str(run.report), "live page": str(run.dashboard), "curves": str(run.curves)}


def test_an_old_run_that_knew_nothing_of_pages_gets_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.status.unlink()
    run.config.unlink()
    assert main(["report", "run", "--runs", str(tmp_path)]) == 0
    assert '"state":"unknown"' in run.dashboard_data.read_text(encoding="ascii")


def test_it_can_be_written_elsewhere_even_if_the_run_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    out = tmp_path / "mine.html"

    def refuse(folder: object) -> None:
        raise PermissionError(13, "Permission denied", "dashboard.html")

    monkeypatch.setattr("musictrain.dashboard.page_files.write_page", refuse)
    assert main(["report", str(run.path), "--out", str(out)]) == 0
    assert out.is_file()
    assert not run.report.exists()


def test_a_place_that_cannot_be_written_is_said_with_a_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run")
    assert main(["report", "run", "--runs", str(tmp_path), "--out", str(tmp_path / "missing" / "report.html")]) == 1
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert "--out FILE" in said


def test_a_run_that_does_not_exist_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nothing", "--runs", str(tmp_path)]) == 2
    assert "holds no runs" in capsys.readouterr().err


def test_a_picture_is_drawn_again_only_for_new_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert not report.is_newer(run.curves, run.metrics)
    report.write(run, None)
    assert report.is_newer(run.curves, run.metrics)
    drawn = run.curves.stat().st_mtime_ns
    report.write(run, None)
    assert run.curves.stat().st_mtime_ns == drawn


def test_it_starts_without_torch_lightning_plotly_and_matplotlib() -> None:
    code = "import sys; from musictrain.cli.commands import main; main(['report', '--help']); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True).stdout
    assert "'musictrain.cli.report'" in loaded
    assert not [name for name in ("torch", "lightning", "plotly", "matplotlib", "numpy") if f"'{name}'" in loaded]
