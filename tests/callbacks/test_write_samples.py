"""What the model plays, as files; and nothing at all from a model that plays nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMAWeightAveraging
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from musictrain.callbacks import RunLogger, ThroughputReport, WriteSamples
from musictrain.data.tokenizers import VoiceGrid
from musictrain.listening.time_budget import TimeBudget
from musictrain.notes import Notes
from musictrain.runs.alerts import alert_of
from musictrain.sampling import sampling_callback
from musictrain.sampling.weights import best_network

TOKENIZER = VoiceGrid(lowest=60, highest=64, steps_per_beat=1)


class Even(nn.Module):
    """Finds every token equally likely."""

    vocab_size = TOKENIZER.vocab_size
    max_context = None

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(self.vocab_size))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits.expand(*tokens.shape, self.vocab_size)


class Playing(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module = Even()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val/loss", torch.tensor(float(self.global_step)))


class Music(BoringDataModule):
    tokenizer = TOKENIZER
    piece = SimpleNamespace(name="bwv1", notes=Notes.from_rows([(beat, 1, 60 + beat % 2) for beat in range(8)], track=[0] * 8))

    def __init__(self) -> None:
        super().__init__()
        self.corpus = SimpleNamespace(split=lambda name: [self.piece] if name == "valid" else [])


def fit(tmp_path: Path, samples: WriteSamples, module: Any = None, datamodule: Any = None, **options: Any) -> tuple[Trainer, Path]:
    logger = options.pop("logger", RunLogger(tmp_path, "x"))
    settings = {"max_steps": 4, "val_check_interval": 2, "limit_val_batches": 1, "enable_checkpointing": False, **options}
    callbacks = [samples, *settings.pop("callbacks", [])]
    trainer = Trainer(
        logger=logger, callbacks=callbacks, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **settings
    )
    trainer.fit(module or Playing(), datamodule=datamodule or Music())
    return trainer, Path(str(trainer.log_dir))


def told(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.mid"))


def test_pieces_from_nothing_and_continuations_are_written_at_the_end(tmp_path: Path) -> None:
    _, run = fit(tmp_path, WriteSamples(every=0, num=2, continuations=3, beats=4, prompt_beats=2))
    folder, _ = sorted((run / "samples").iterdir(), reverse=True)
    assert folder.name == "step_000004"
    assert names(folder) == ["continued_1.mid", "from_nothing_1.mid", "from_nothing_2.mid"]
    info = told(folder, "continued_1")
    assert (info["prompt"], info["prompt_beats"], info["step"], info["seed"]) == ("bwv1", 2.0, 4, 0)
    assert info["beats"] <= 6


def test_every_validation_has_its_folder_and_equal_weights_play_the_same(tmp_path: Path) -> None:
    _, run = fit(tmp_path, WriteSamples(most_share=1, num=1, continuations=0, beats=2, weights="current"), max_steps=4)
    folders = sorted(path.name for path in (run / "samples").iterdir())
    assert folders == ["step_000002", "step_000004"]
    first, last = ((run / "samples" / name / "from_nothing.mid").read_bytes() for name in folders)
    assert first == last


class Restless(Playing):
    """Its weights are others at every step."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.network.logits.data.normal_()


def test_prompt_and_seed_are_the_same_at_every_step_and_in_the_reference(tmp_path: Path) -> None:
    _, run = fit(tmp_path, WriteSamples(most_share=1, num=0, prompt_beats=3, beats=4), Restless(), max_steps=6)
    folders = sorted((run / "samples").glob("step_*"))
    assert len(folders) == 3
    made = [told(folder, "continued_1") for folder in folders]
    assert {(sample["prompt"], sample["prompt_beats"], sample["seed"]) for sample in made} == {("bwv1", 3.0, 0)}
    prompts = [notes_before(sample, 3.0) for sample in (*made, told(run / "samples" / "reference", "continued_1"))]
    assert prompts[0]
    assert all(prompt == prompts[0] for prompt in prompts)
    assert len({json.dumps(sample["roll"]) for sample in made}) > 1


def notes_before(sample: dict[str, Any], beat: float) -> list[tuple[float, ...]]:
    roll = sample["roll"]
    return [note for note in zip(roll["onset"], roll["duration"], roll["pitch"], roll["track"], strict=True) if note[0] < beat]


def test_the_reference_is_how_the_piece_itself_goes_on(tmp_path: Path) -> None:
    _, run = fit(tmp_path, WriteSamples(every=0, num=0, continuations=1, prompt_beats=2, beats=4))
    reference = told(run / "samples" / "reference", "continued_1")
    assert (reference["prompt"], reference["prompt_beats"], reference["beats"], reference["ended"]) == ("bwv1", 2.0, 6.0, False)
    assert reference["roll"]["pitch"] == [60, 61, 60, 61, 60, 61]
    assert names(run / "samples" / "reference") == ["continued_1.mid"]


def test_the_reference_is_written_once_and_again_if_the_prompt_is_another(tmp_path: Path) -> None:
    def written(**options: Any) -> int:
        fit(tmp_path, WriteSamples(every=0, num=0, beats=4, **options), logger=RunLogger(folder=tmp_path))
        return (tmp_path / "samples" / "reference" / "continued_1.json").stat().st_mtime_ns

    first = written(prompt_beats=2)
    assert written(prompt_beats=2) == first
    assert written(prompt_beats=3) != first


def test_after_a_validation_a_piece_is_the_beginning_of_the_one_at_the_end(tmp_path: Path) -> None:
    settings = {"num": 2, "continuations": 0, "min_beats": 8, "beats": 8, "beats_between": 4, "weights": "current"}
    _, run = fit(tmp_path, WriteSamples(most_share=1, **settings))
    between, end = run / "samples" / "step_000002", run / "samples" / "step_000004"
    assert (names(between), names(end)) == (["from_nothing_1.mid"], ["from_nothing_1.mid", "from_nothing_2.mid"])
    short, long = told(between, "from_nothing_1"), told(end, "from_nothing_1")
    assert short["beats"] == 4.0
    assert notes_before(short, 3.0) == notes_before(long, 3.0) != []


def test_no_time_is_no_sample_but_the_end_has_its_own(tmp_path: Path) -> None:
    _, run = fit(tmp_path, WriteSamples(most_share=0, num=1, continuations=0, beats=2))
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step_000004"]


def test_the_first_round_is_tried_out_and_left_out_where_it_would_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 60))
    monkeypatch.setattr(sampling_callback.time, "monotonic", lambda: float(next(clock)))
    samples = WriteSamples(most_share=1e-6, num=1, continuations=0, beats=2)
    _, run = fit(tmp_path, samples, max_steps=6)
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step_000006"]
    assert samples.state_dict()["budget"]["spent_seconds"] == 0.0


class Averaged(LightningEMAWeightAveraging):
    """Keeps an average in which one token alone is likely."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._average_model.module.network.logits.data.fill_(0.0)[-1] = 50.0
        super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        pl_module.network.logits.data.zero_()


def test_a_moving_average_is_what_is_played_between(tmp_path: Path) -> None:
    seen: list[float] = []

    class Watching(WriteSamples):
        def _write_all(self, asked: Any, network: Any, *rest: Any) -> None:
            seen.append(float(network.logits[-1].detach()))

    module = Playing()
    fit(tmp_path, Watching(num=1, continuations=0), module, callbacks=[Averaged(decay=0.5)], max_steps=3)
    assert seen[0] == 50.0
    assert module.network.logits[-1] != 50.0


class Listening(Logger):
    """A logger that takes samples."""

    name, version = "x", 0

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[tuple[str, int, Any, bool]] = []

    def log_metrics(self, *arguments: Any, **options: Any) -> None: ...

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None: ...

    def log_sample(self, stem: Path, step: int, info: dict[str, Any]) -> None:
        there = all(stem.with_name(f"{stem.name}.{ending}").is_file() for ending in ("mid", "wav", "png", "json"))
        self.samples.append((f"{stem.parent.name}/{stem.name}", step, info["prompt"], there))


def test_loggers_that_take_samples_get_each_when_it_is_there(tmp_path: Path) -> None:
    listening = Listening()
    fit(tmp_path, WriteSamples(every=0, num=1, continuations=1, beats=2), logger=[RunLogger(tmp_path, "x"), listening])
    assert listening.samples == [
        ("step_000004/from_nothing", 4, None, True),
        ("step_000004/continued_1", 4, "bwv1", True),
        ("reference/continued_1", 4, "bwv1", True),
    ]


@pytest.mark.parametrize("averaged", [False, True], ids=["plain", "with a moving average"])
def test_training_draws_the_same_numbers_with_and_without_samples(tmp_path: Path, averaged: bool) -> None:
    def weights(samples: WriteSamples) -> Tensor:
        torch.manual_seed(3)
        module = Playing()
        fit(tmp_path, samples, module, callbacks=[LightningEMAWeightAveraging(decay=0.5)] if averaged else [])
        return torch.cat([module.layer.weight.flatten(), torch.rand(3)])

    assert torch.equal(weights(WriteSamples(most_share=1, num=1, beats=2)), weights(WriteSamples(num=0, continuations=0)))


def test_a_model_without_a_network_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "musictrain"):
        _, run = fit(tmp_path, WriteSamples(), module=BoringModel(), datamodule=BoringDataModule())
    assert [record.getMessage() for record in caplog.records if "WriteSamples needs" in record.getMessage()] == [
        "WriteSamples needs a LightningModule with a `network` and a data module with a `tokenizer`; "
        "BoringModel in this Trainer does not offer both, so no samples are written."
    ]
    assert not (run / "samples").exists()


class Broken(Even):
    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * float("nan")


def test_a_failing_sample_does_not_end_the_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module = Playing()
    module.network = Broken()
    trainer, _ = fit(tmp_path, WriteSamples(), module)
    assert trainer.state.status == "finished"
    alerts = [told for record in caplog.records if (told := alert_of(record))]
    assert [(told["kind"], told["step"]) for told in alerts] == [("sampling_failed", 2)]
    assert alerts[0]["message"].startswith("Sampling at step 2 failed; training is not affected. ValueError: The network's logits are nan")


def test_a_reference_that_cannot_be_written_keeps_no_prompt_from_being_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(WriteSamples, "_write_reference", fails)
    datamodule = Music()
    datamodule.corpus = SimpleNamespace(split=lambda name: [Music.piece, Music.piece])
    _, run = fit(tmp_path, WriteSamples(every=0, num=0, beats=2), datamodule=datamodule)
    assert names(run / "samples" / "step_000004") == ["continued_1.mid", "continued_2.mid"]


def test_a_failure_of_another_kind_is_another_alert(caplog: pytest.LogCaptureFixture) -> None:
    samples = WriteSamples()
    for step, fault in enumerate(("full", "full", "gone"), start=1):
        samples._report(OSError(fault), step)
    alerts = [told for record in caplog.records if (told := alert_of(record))]
    assert [told["step"] for told in alerts] == [1, 3]


def test_the_best_weights_are_played_and_the_last_ones_stay(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(monitor="val/loss", filename="best")
    module = Playing()

    class Marking(WriteSamples):
        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            super().on_validation_end(trainer, pl_module)
            if not trainer.sanity_checking:
                with torch.no_grad():
                    pl_module.network.logits.fill_(float(trainer.global_step))

    trainer, _ = fit(tmp_path, Marking(num=0), module, callbacks=[checkpoint], enable_checkpointing=True)
    best: Any = best_network(trainer, module)
    assert best.logits.unique().tolist() == [2.0]
    assert module.network.logits.unique().tolist() == [4.0]


def test_whoever_keeps_the_time_hears_of_the_sampling(tmp_path: Path) -> None:
    report = ThroughputReport(every_n_steps=1, mfu=False)
    fit(tmp_path, WriteSamples(every=1, num=1, continuations=0, beats=2), callbacks=[report])
    assert report.summary()["sampling_share"] > 0


def test_its_state_is_the_validations_and_the_time_that_went_by(tmp_path: Path) -> None:
    first, second = WriteSamples(every=2), WriteSamples(every=3)
    first._validations = 5
    first._budget = TimeBudget(0.05, whole_seconds=90.0, spent_seconds=3.0, last_seconds=1.5)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second.every == 3
    second.load_state_dict({"validations": 7})
    assert second.state_dict()["validations"] == 7


@pytest.mark.parametrize("options", [{"every": -1}, {"beats": 0}, {"prompt_beats": -2}, {"weights": "worst"}, {"most_share": 1.5}])
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="WriteSamples got"):
        WriteSamples(**options)
