"""curves.png is a picture of what was recorded, whatever it was called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from musictrain.dashboard.curves import write_curves
from musictrain.runs.folder import RunFolder
from tests.dashboard.run_folders import HOSTILE, make_run

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_run_gets_a_picture(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert write_curves(run) is True
    assert run.curves.read_bytes().startswith(PNG)


def test_a_run_without_curves_gets_none(tmp_path: Path) -> None:
    assert write_curves(RunFolder(tmp_path)) is False
    assert list(tmp_path.iterdir()) == []


def test_hostile_names_and_values_that_are_no_numbers_are_drawn(tmp_path: Path) -> None:
    rows = [{"time": 1.0 * step, "step": step, "train/loss": "NaN", "$\\frac{": 1.0, f"lr-{HOSTILE}": 0.1 * step} for step in range(1, 5)]
    assert write_curves(make_run(tmp_path / "a $\\frac{1}{ run", rows=rows)) is True


def test_reading_a_run_needs_neither_matplotlib_nor_plotly_nor_torch() -> None:
    modules = "page_data, page_files, report, curves"
    code = f"import sys; from musictrain.dashboard import {modules}; page_files.find_plotly(); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True).stdout
    assert "'musictrain.dashboard.page_data'" in loaded
    assert not [name for name in ("matplotlib", "plotly", "torch", "lightning", "yaml") if f"'{name}'" in loaded]
