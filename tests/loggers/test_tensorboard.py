"""What TensorBoard itself reads of a run."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from musictrain.loggers import TensorBoard
from tests.loggers.logged_fits import HOSTILE, Sampling, fit


def settled(folder: Path, resumed_from: int | None = None) -> TensorBoard:
    logger = TensorBoard()
    logger.settle(folder, resumed_from)
    return logger


def read(folder: Path) -> Any:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "audio": 0}).Reload()


def curve(folder: Path, name: str = "train/loss") -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(name)]


def test_curves_go_by_optimizer_steps_done(tmp_path: Path) -> None:
    fit(tmp_path, settled(tmp_path), 4)
    assert curve(tmp_path / "tensorboard") == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert curve(tmp_path / "tensorboard", "val/loss") == [(2, 2.0), (4, 4.0)]
    assert f"train/{HOSTILE}" in read(tmp_path / "tensorboard").Tags()["scalars"]


@pytest.mark.parametrize("told", [True, False], ids=["from which step", "nothing"])
def test_curves_do_not_overlap_after_a_resume(tmp_path: Path, told: bool) -> None:
    trainer = fit(tmp_path, settled(tmp_path), 2)
    trainer.save_checkpoint(tmp_path / "at_2.ckpt")
    fit(tmp_path, settled(tmp_path), 5, tmp_path / "at_2.ckpt")  # goes on to 5 and is lost
    fit(tmp_path, settled(tmp_path, 2 if told else None), 4, tmp_path / "at_2.ckpt")
    assert [step for step, _ in curve(tmp_path / "tensorboard")] == [1, 2, 3, 4]


def test_rolls_are_seen_and_samples_heard_as_they_were_written(tmp_path: Path) -> None:
    fit(tmp_path, settled(tmp_path), 4, callbacks=(Sampling(tmp_path),))
    found = read(tmp_path / "tensorboard")
    stem = tmp_path / "samples" / "step_000004" / "continued_1"
    pictures, sounds = found.Images("samples/continued_1/roll"), found.Audio("samples/continued_1/sound")
    assert [picture.step for picture in pictures] == [sound.step for sound in sounds] == [2, 4]
    assert pictures[-1].encoded_image_string == stem.with_suffix(".png").read_bytes()
    assert sounds[-1].encoded_audio_string == stem.with_suffix(".wav").read_bytes()
    assert (pictures[-1].width, sounds[-1].sample_rate) == (1430, 32000)


def test_settings_stand_beside_the_last_scores(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {lr: 0.1, api_key: k3y-of-ada-0815}\ndata: {files: [a.mid]}\n")
    fit(tmp_path, settled(tmp_path), 4)
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    told = [HParamsPluginData.FromString(content) for content in read(tmp_path / "tensorboard").PluginTagToContent("hparams").values()]
    (start,) = [each.session_start_info for each in told if each.HasField("session_start_info")]
    assert start.hparams["model.lr"].number_value == 0.1
    assert start.hparams["data.files.0"].string_value == "a.mid"
    (experiment,) = [each.experiment for each in told if each.HasField("experiment")]
    assert [info.name.tag for info in experiment.metric_infos] == ["val/loss"]
    assert b"k3y-of-ada" not in b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())


def test_a_second_fit_in_one_process_has_its_own_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fit(tmp_path / name, settled(tmp_path / name), 2)
    assert curve(tmp_path / "one" / "tensorboard") == curve(tmp_path / "two" / "tensorboard")


def test_a_plain_trainer_has_lightning_s_own_folders(tmp_path: Path) -> None:
    trainer = fit(tmp_path, TensorBoard(str(tmp_path)), 2)
    assert trainer.log_dir == str(tmp_path / "lightning_logs" / "version_0")
    assert [step for step, _ in curve(tmp_path / "lightning_logs" / "version_0")] == [1, 2]


def test_a_disk_that_fails_ends_nothing_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "musictrain"):
        trainer = fit(tmp_path, settled(tmp_path), 4, callbacks=(Sampling(tmp_path),))
    assert trainer.global_step == 4
    assert [record.getMessage().split(":")[0] for record in caplog.records if "TensorBoard" in record.getMessage()] == [
        "TensorBoard logs no more in this run, which goes on without it and has everything in metrics.jsonl"
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_is_full_later_ends_nothing_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    class FullLater(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 3:
                monkeypatch.setattr(RecordWriter, "write", full)

    with caplog.at_level(logging.WARNING, "musictrain"):
        trainer = fit(tmp_path, settled(tmp_path), 40, callbacks=(FullLater(),))
    assert trainer.state.status == "finished"
    assert trainer.global_step == 40
    told = [record.getMessage() for record in caplog.records if "TensorBoard logs no more" in record.getMessage()]
    assert len(told) == 1
    assert told[0].endswith("OSError: No space left on device")


def test_importing_the_loggers_imports_neither_tensorboard_nor_wandb() -> None:
    code = """
import sys, musictrain.loggers as loggers
loggers.TensorBoard(), loggers.WandB()
print({"tensorboard", "wandb", "torch.utils.tensorboard"} & {*sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "set()"
