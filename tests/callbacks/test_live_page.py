"""LivePage draws what is recorded, in a thread of its own, and has its last word after the run's."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from musictrain.callbacks import LivePage, RunLogger, RunRecorder, live_page
from musictrain.runs.folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
PATIENCE_SECONDS = 120.0


class Logging(BoringModel):
    """Logs a loss, and perhaps fails or is interrupted at a step."""

    def __init__(self, fail_at: int = -1, error: type[BaseException] = RuntimeError) -> None:
        super().__init__()
        self.fail_at, self.error = fail_at, error

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        if self.global_step == self.fail_at:
            raise self.error("as told")
        loss = self.step(batch)
        self.log("train/loss", loss)
        return loss


def fit(folder: Path, callbacks: list[Callback], model: BoringModel | None = None, **options: Any) -> RunFolder:
    trainer = lightning.Trainer(
        default_root_dir=folder,
        max_steps=8,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=callbacks,
        log_every_n_steps=1,
        limit_val_batches=1,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        **{"logger": False, **options},
    )
    trainer.fit(model or Logging())
    return RunFolder(folder)


def last_data(run: RunFolder) -> dict[str, Any]:
    """The data after the thread's last drawing."""
    until = time.monotonic() + PATIENCE_SECONDS
    while any(thread.name == "musictrain live page" for thread in threading.enumerate()):
        assert time.monotonic() < until, "the thread of the live page goes on"
        time.sleep(0.02)
    data: dict[str, Any] = json.loads(run.dashboard_data.read_text(encoding="ascii")[len("musictrain.update(") : -len(");\n")])
    return data


@pytest.mark.parametrize("reverse", [False, True])
def test_the_last_drawing_shows_the_end_of_the_run_in_any_order_of_callbacks(tmp_path: Path, reverse: bool) -> None:
    callbacks: list[Callback] = [RunRecorder(), LivePage()]
    run = fit(tmp_path / "run", callbacks[::-1] if reverse else callbacks)
    data = last_data(run)
    assert data["state"] == "finished"
    assert data["step"] == 8
    assert [curve["key"] for curve in data["curves"]] == ["train/loss"]
    assert run.dashboard.is_file()
    assert run.curves.is_file()
    assert len(list(tmp_path.glob("plotly-*.min.js"))) == 1


@pytest.mark.parametrize(("error", "state"), [(RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_run_that_ends_badly_is_drawn_to_its_end(tmp_path: Path, error: type[BaseException], state: str) -> None:
    with pytest.raises((error, SystemExit), match=r"as told|1"):
        fit(tmp_path / "run", [LivePage(), RunRecorder()], Logging(fail_at=4, error=error))
    data = last_data(RunFolder(tmp_path / "run"))
    assert data["state"] == state
    assert data["step"] == 4


def test_a_run_logger_alone_is_enough(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, "alone")
    fit(tmp_path / "other", [LivePage(curves=False)], logger=logger)
    (page,) = tmp_path.glob("*-alone-*/dashboard.html")
    run = RunFolder(page.parent)
    assert last_data(run)["curves"]
    assert not run.curves.exists()


def test_without_records_it_says_once_what_to_add_and_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path / "run", [LivePage()])
    said = [record.message for record in caplog.records if "LivePage" in record.message]
    assert len(said) == 1
    assert "RunRecorder()" in said[0]
    assert not list(tmp_path.rglob("dashboard*"))


def test_a_full_disk_is_said_once_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live_page, "write_data", full)
    monkeypatch.setattr(live_page, "write_page", full)
    said: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Heard()
    live_page.log.addHandler(handler)
    run = fit(tmp_path / "run", [RunRecorder(), LivePage(every_seconds=0.01)])
    live_page.log.removeHandler(handler)
    assert [text for text in said if "No space left" in text] == [
        "The live page could not be drawn, and training goes on without it: OSError: [Errno 28] No space left on device"
    ]
    assert not run.dashboard_data.exists()


def test_it_rests_a_hundred_times_what_a_drawing_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painter = live_page.Painter(RunFolder(tmp_path), every_seconds=2.0, curves=False)
    clock = [0.0]
    waits: list[float] = []

    class Ending:
        def is_set(self) -> bool:
            return len(waits) >= 2

        def wait(self, seconds: float) -> None:
            waits.append(seconds)

    took = iter([0.001, 0.5, 0.0])

    def draw(*arguments: object) -> None:
        clock[0] += next(took)

    monkeypatch.setattr(live_page.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(live_page, "write_data", draw)
    monkeypatch.setattr(painter, "_ending", Ending())
    painter._paint()
    assert waits == [2.0, pytest.approx(50.0)]


def test_a_run_that_is_only_tried_out_leaves_nothing(tmp_path: Path) -> None:
    fit(tmp_path / "run", [RunRecorder(), LivePage()], fast_dev_run=True)
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_pause_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="every_seconds"):
        LivePage(every_seconds=seconds)
