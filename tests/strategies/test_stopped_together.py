"""A run of several processes that a guard has stopped: one end, one exit status in all, and nothing is started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from musictrain.cli.commands import main
from musictrain.runs import list_runs, read_records
from musictrain.runs.status import read_status
from tests.cli.tiny import tiny_config, write_config, write_corpus
from tests.strategies.launched import ELASTIC, fit_words, run_to_end, torchrun_words
from tests.strategies.ranks import run_ranks

pytestmark = pytest.mark.slow
GUARDED = "Stopped after 2 of 6 steps. val/loss is"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Six steps, of which a guard allows two."""
    tiny: dict[str, Any] = tiny_config(write_corpus(tmp_path / "frames.json"))
    guard = {"metric": "val/loss", "above": 0.001, "patience": 2}
    stopping = {"class_path": "musictrain.callbacks.MusicalEarlyStopping", "init_args": {"watch": "val/loss", "guards": [guard]}}
    silent = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}
    tiny["trainer"] |= {"val_check_interval": 1, "limit_val_batches": 1, "enable_progress_bar": False, "callbacks": [stopping, silent]}
    return write_config(tmp_path / "run.yaml", tiny)


def both(folder: Path) -> None:
    """Two ranks, each of which leaves its exit status in a file."""
    run_ranks(2, one_rank, folder, timeout_seconds=120)


def one_rank(folder: Path) -> None:
    import os

    status = main(fit_words(folder / "run.yaml", folder / "runs", "--trainer.strategy", "ddp"))
    (folder / f"status_{os.environ['RANK']}").write_text(str(status))


def test_every_process_ends_with_status_three(tmp_path: Path, config: Path, repository: Path) -> None:
    script = "import sys; from pathlib import Path; from tests.strategies.test_stopped_together import both; both(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=repository, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"status_{rank}").read_text() for rank in (0, 1)] == ["3", "3"]
    assert done.stdout.count(GUARDED) == 1


@pytest.mark.parametrize(("restarts", "expected"), [("0", 1), ("2", 0)])
def test_torchrun_does_not_start_it_again(tmp_path: Path, config: Path, restarts: str, expected: int) -> None:
    words = fit_words(config, tmp_path / "runs", "--ckpt_path", "auto", "--trainer.strategy", "ddp")
    status, printed = run_to_end([*torchrun_words("--max_restarts", restarts), *words], tmp_path / "log", **ELASTIC)
    assert status == expected, printed
    assert ("exitcode  : 3" in printed) == (restarts == "0")
    assert printed.count(GUARDED) == 1
    (run,) = list_runs(tmp_path / "runs")
    recorded = read_status(run.status)
    assert recorded is not None
    assert (recorded.state, recorded.step, recorded.attempt) == ("stopped", 2, 1)
    assert [each["event"] for each in read_records(run.events)].count("started") == 1
