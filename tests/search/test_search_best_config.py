"""A real search of two points by the command: its best configuration is the trial's, and ``fit`` makes of it what the search has seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from musictrain.cli.search_showing import find_search, look_at
from musictrain.runs import RunFolder
from musictrain.runs.rows import read_rows
from musictrain.search.identity import identity_of
from musictrain.search.objectives import values_at
from tests.cli.tiny import tiny_config, write_config, write_corpus
from tests.search.forked import warmed_up

pytestmark = pytest.mark.slow

RATE = "model.init_args.optimizer.init_args.lr"
STEPS = 4


def test_the_best_configuration_is_that_of_the_best_trial_and_fit_comes_to_the_same(tmp_path: Path) -> None:
    config = tiny_config(write_corpus(tmp_path / "frames.json"))
    config["trainer"] |= {"max_steps": STEPS, "val_check_interval": 2, "limit_val_batches": 1, "enable_progress_bar": False}
    config["trainer"]["callbacks"] = [{"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}]
    file, runs, log = write_config(tmp_path / "tiny.yaml", config), tmp_path / "runs", tmp_path / "log"
    words = ["--config", str(file), "--grid", f"{RATE}=0.0001,0.01", "--name", "rates", "--runs", str(runs)]
    with warmed_up(Path.cwd()) as drive:
        assert drive(words, log) == 0, log.read_text()[-3000:]
    folder = find_search("rates", runs)
    seen = look_at(folder)
    assert seen.results.finished
    best = seen.results.best
    assert best is not None
    trial = best.best_run(seen.definition.objectives)
    assert trial is not None
    assert identity_of(yaml.safe_load(folder.best.read_text())) == trial.identity
    fit = [sys.executable, "-m", "musictrain", "fit", "--config", str(folder.best), "--runs", str(tmp_path / "again")]
    done = subprocess.run(
        fit, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path.cwd()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (again,) = [path.parent for path in (tmp_path / "again").glob("*/config.yaml")]
    objectives = seen.definition.objectives
    assert values_at(read_rows(RunFolder(again).metrics), objectives, STEPS) == trial.values
    assert f"val/loss {best.means['val/loss'].mean:.5g} after {STEPS} steps" in folder.best.read_text()
    data = json.loads((folder.path / "dashboard_data.js").read_text().removeprefix("musictrain.search(").removesuffix(");\n"))
    assert [point["rank"] for point in data["points"]] == [1, 2]
    assert all(trial["page"] for point in data["points"] for trial in point["trials"]), "each has a page of its own"
    assert data["facts"]["state"] == "finished"
    assert "place" in log.read_text()
