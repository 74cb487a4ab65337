"""One plain line at a time."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.trainer.states import RunningStage

from musictrain.callbacks import PlainProgress
from musictrain.callbacks.progress import Progress


def test_a_line_says_where_a_run_stands() -> None:
    values = {"train/loss": 1.10415, "val/loss": 1.03, "train/tokens_per_second": 21499.6}
    line = Progress(400, 1500, 80.4, 221, values).line()
    assert line == "step 400/1,500   27 %  loss 1.104  val 1.03  21,500 tokens/s  1 min 20 s elapsed  3 min 41 s left"


def test_what_is_unknown_is_left_out() -> None:
    assert Progress(7, math.inf, 3, math.inf, {}).line() == "step 7  3 s elapsed"


def lines_of(tmp_path: Path, *, every_seconds: float = 0.0, stream: io.StringIO | None = None, **options: Any) -> list[str]:
    stream = stream or io.StringIO()
    trainer = Trainer(
        default_root_dir=tmp_path,
        callbacks=[PlainProgress(every_seconds, stream)],
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_model_summary=False,
        limit_val_batches=1,
        **options,
    )
    trainer.fit(BoringModel())
    return stream.getvalue().splitlines()


def test_every_step_if_asked_and_each_step_once_at_the_end(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, max_steps=3, val_check_interval=3)
    assert [line.split("  ")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3", "step 3/3"]
    assert all("left" in line for line in lines)


def test_rare_lines_still_have_the_last(tmp_path: Path) -> None:
    assert [line.split("  ")[0] for line in lines_of(tmp_path, every_seconds=1000, max_steps=3, limit_train_batches=2)] == [
        "step 2/3",
        "step 3/3",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_line_is_written_over_itself_and_kept_after_a_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    lines_of(tmp_path, stream=stream, max_steps=4, val_check_interval=2)
    written = [text.removesuffix("\033[K") for text in stream.getvalue().replace("\n", "|\r").split("\r") if text]
    assert [text.split("  ")[0] for text in written] == ["step 1/4", "step 2/4", "step 2/4", "step 3/4", "step 4/4", "step 4/4"]
    assert [text.endswith("\033[K|") for text in written] == [False, False, True, False, False, True]
    assert max(len(text.removesuffix("\033[K|")) for text in written) <= 29


def test_a_run_limited_by_time_counts_down_by_the_clock() -> None:
    timer = Timer({"hours": 2})
    trainer = Trainer(callbacks=[timer, progress := PlainProgress()], logger=False, enable_checkpointing=False, max_steps=-1, max_epochs=-1)
    timer._start_time[RunningStage.TRAINING] = time.monotonic() - 600
    assert progress._progress(trainer).line().endswith("1 h 50 min left")


def test_a_negative_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="every_seconds=-1"):
        PlainProgress(-1)
