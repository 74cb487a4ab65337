"""One line that says where the run stands: in a file, on a terminal, after a resume."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.demos.boring_classes import BoringModel

from musictrain.callbacks import PlainProgress, ProgressLine, WriteSamples
from musictrain.runs.eta import Eta
from musictrain.speed.live_line import live_console
from musictrain.speed.phases import phase
from tests.speed.screen import screen_of, written_on_a_terminal


def trainer_of(tmp_path: Path, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=tmp_path,
        callbacks=list(callbacks),
        **{
            "logger": False,
            "accelerator": "cpu",
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "limit_val_batches": 1,
            **options,
        },
    )


def lines_of(tmp_path: Path, *, every_seconds: float = 0.0, stream: io.StringIO | None = None, **options: Any) -> list[str]:
    stream = stream or io.StringIO()
    trainer_of(tmp_path, PlainProgress(every_seconds, stream), **options).fit(BoringModel())
    return stream.getvalue().splitlines()


def test_every_step_if_asked_and_each_step_once_at_the_end(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, max_steps=3, val_check_interval=3)
    assert [line.split("  ")[0] for line in lines] == ["step 1/3", "step 2/3", "step 3/3", "step 3/3"]
    assert all(re.search(r" left, ends \d\d:\d\d$", line) for line in lines[:2])
    assert "left" not in lines[3]


def test_rare_lines_still_have_the_last(tmp_path: Path) -> None:
    assert [line.split("  ")[0] for line in lines_of(tmp_path, every_seconds=1000, max_steps=3, limit_train_batches=2)] == [
        "step 2/3",
        "step 3/3",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_plain_line_is_written_over_itself_and_kept_after_a_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    lines_of(tmp_path, stream=stream, max_steps=4, val_check_interval=2)
    written = [text.removesuffix("\033[K") for text in stream.getvalue().replace("\n", "|\r").split("\r") if text]
    assert [text.split("  ")[0].removesuffix("\033[K|") for text in written] == [f"step {n}/4" for n in (1, 2, 2, 3, 4, 4)]
    assert [text.endswith("\033[K|") for text in written] == [False, False, True, False, False, True]
    assert max(len(text.removesuffix("\033[K|")) for text in written) <= 29


def test_a_run_limited_by_time_counts_down_by_the_clock(tmp_path: Path) -> None:
    class AlmostOver(Timer):
        def time_remaining(self, stage: Any = None) -> float:
            return 6600.0

    endless = ProgressLine(style="plain")
    trainer = trainer_of(tmp_path, endless, AlmostOver(), max_steps=-1, max_epochs=-1)
    endless._look(trainer)
    standing = endless._standing()
    assert standing is not None
    assert "1 h 50 min left" in standing.line()


class Sampling(Callback):
    """Something that takes a while after the last step."""

    def __init__(self, progress: ProgressLine) -> None:
        self.progress, self.seen = progress, ""

    @phase("sampling")
    def on_fit_end(self, *_: Any) -> None:
        standing = self.progress._standing()
        self.seen = "" if standing is None else standing.line()


def test_what_comes_after_the_last_step_is_shown_while_it_lasts(tmp_path: Path) -> None:
    progress = PlainProgress(1000, io.StringIO())
    trainer_of(tmp_path, sampling := Sampling(progress), progress, max_steps=2).fit(BoringModel())
    assert "sampling" in sampling.seen
    assert "left" not in sampling.seen, "nobody knows how long it takes"
    assert progress._standing() is None


def test_elapsed_and_left_are_right_at_once_after_a_resume(tmp_path: Path) -> None:
    first = PlainProgress(0, io.StringIO())
    trainer = trainer_of(tmp_path, first, max_steps=6)
    trainer.fit(BoringModel())
    trainer.save_checkpoint(tmp_path / "six.ckpt")
    stored = torch.load(tmp_path / "six.ckpt", weights_only=True)
    (state,) = [state for key, state in stored["callbacks"].items() if "PlainProgress" in key]
    state["elapsed_seconds"] = 7500.0
    state["eta"]["pace"] |= {"mean": 36.0, "quick": 36.0, "weight": 50.0}
    torch.save(stored, tmp_path / "six.ckpt")
    stream = io.StringIO()
    trainer_of(tmp_path, PlainProgress(1000, stream), max_steps=106).fit(BoringModel(), ckpt_path=tmp_path / "six.ckpt", weights_only=True)
    begins, *_, ends = stream.getvalue().splitlines()
    assert begins.startswith("step 6/106")
    assert "2 h 5 min elapsed" in begins
    assert re.search(r"(59 min \d+ s|1 h 0 min) left \(", begins)
    assert "2 h 5 min elapsed" in ends


class Recorder(Callback):
    """Has an estimate of its own, and knows of time that was lost."""

    def __init__(self) -> None:
        self.eta, self.elapsed_seconds = Eta(), 7500.0
        for _ in range(20):
            self.eta.tell("step", 3600.0)


def test_the_estimate_of_another_callback_is_used_and_not_kept_twice(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = PlainProgress(0, stream)
    trainer_of(tmp_path, progress, recorder := Recorder(), max_steps=3).fit(BoringModel())
    assert "2 h 5 min elapsed  2 h 0 min left" in stream.getvalue().splitlines()[0]
    assert list(progress.state_dict()) == ["elapsed_seconds"]
    assert recorder.eta.state_dict()["steps"] == 20


def test_samples_of_the_end_take_longer_than_those_between() -> None:
    samples = WriteSamples(num=4, num_between=1, continuations=2, beats=64, beats_between=32)
    assert samples.pauses(None).at_end == {"sampling": 4.0}
    assert WriteSamples(num=0, continuations=0).pauses(100).at_end == {"sampling": 1.0}


def test_every_save_is_known_as_one(tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "a.ckpt")

    progress = PlainProgress(1000, io.StringIO())
    trainer = trainer_of(tmp_path, progress, Saves(), max_steps=3)
    trainer.fit(BoringModel())
    assert progress.state_dict()["eta"]["counts"]["saving"] == 3
    assert "save_checkpoint" not in vars(trainer)


def test_a_disabled_bar_says_nothing(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = PlainProgress(0, stream)
    progress.disable()
    trainer_of(tmp_path, progress, max_steps=2).fit(BoringModel())
    progress.print("nor does print")
    assert stream.getvalue() == ""
    progress.enable()
    progress.print("now", "it does", sep="-")
    assert stream.getvalue() == "now-it does\n"


def test_reading_a_log_that_cannot_be_a_number_harms_nothing(tmp_path: Path) -> None:
    progress = PlainProgress(0, io.StringIO())
    trainer = trainer_of(tmp_path, progress, max_steps=1)
    trainer._logger_connector._logged_metrics.update({"curve": torch.zeros(3), "loss": torch.tensor(2.0)})
    progress._look(trainer)
    assert progress._values == {"loss": 2.0}


def test_a_failure_ends_the_line(tmp_path: Path) -> None:
    class Fails(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("no more")

    progress = PlainProgress(0, io.StringIO())
    with pytest.raises(RuntimeError, match="no more"):
        trainer_of(tmp_path, progress, max_steps=2).fit(Fails())
    elapsed = progress.state_dict()["elapsed_seconds"]
    time.sleep(0.01)
    assert (progress._display, progress.state_dict()["elapsed_seconds"]) == (None, elapsed)


class Gone(io.StringIO):
    """A terminal that is closed after its first line."""

    def write(self, text: str) -> int:
        if self.getvalue().count("\n"):
            raise OSError("Input/output error")
        return super().write(text)


@pytest.mark.parametrize("style", ["plain", "live"])
def test_a_terminal_that_is_gone_does_not_end_the_training(tmp_path: Path, style: str, caplog: pytest.LogCaptureFixture) -> None:
    progress = ProgressLine(0, Gone(), style)
    trainer = trainer_of(tmp_path, progress, max_steps=6, val_check_interval=2)
    trainer.fit(BoringModel())
    assert trainer.global_step == 6
    assert live_console() is None
    assert [record.message for record in caplog.records if "progress line" in record.message] == [
        "The progress line cannot be shown any more, and training goes on without it: Input/output error"
    ]


def test_a_negative_interval_and_an_unknown_style_are_refused() -> None:
    with pytest.raises(ValueError, match="PlainProgress got every_seconds=-1"):
        PlainProgress(-1)
    with pytest.raises(ValueError, match=r"ProgressLine got style='plian'.*Did you mean 'plain'"):
        ProgressLine(style="plian")


SCRIPT = """
import sys, warnings
import lightning
from lightning.pytorch.demos.boring_classes import BoringModel
from musictrain.callbacks import ProgressLine

class Talks(BoringModel):
    def on_train_batch_start(self, batch, batch_idx):
        if self.global_step == 5:
            self.print("printed by the module")
        if self.global_step == 10:
            print("complained", file=sys.stderr)

trainer = lightning.Trainer(
    default_root_dir=sys.argv[1], max_steps=30, val_check_interval=10, accelerator="cpu", callbacks=[ProgressLine()], logger=False,
    enable_checkpointing=False, enable_model_summary=False, limit_val_batches=2,
)
trainer.fit(Talks())
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [110, 40])
def test_what_a_fit_leaves_on_a_terminal(tmp_path: Path, columns: int, repository: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-W", "ignore", str(tmp_path / "train.py"), str(tmp_path)]
    written = written_on_a_terminal(command, columns, {"PYTHONPATH": str(repository)})
    begins = ("step ", "printed", "complained", "`Trainer.fit` stopped", "done")
    seen = [line for line in screen_of(written, columns) if line.startswith(begins)]
    words = [begin for line in seen for begin in begins if line.startswith(begin)]
    assert [word for word in words if word[0] != "`"] == ["printed", "step ", "complained", "step ", "step ", "done"]
    assert "`Trainer.fit` stopped" in words
    assert [line.split()[1] for line in seen if line.startswith("step ")] == ["10/30", "20/30", "30/30"]
