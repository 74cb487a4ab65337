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
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from torch import Tensor, nn

from musictrain.callbacks import RunLogger, ThroughputReport, WriteSamples
from musictrain.callbacks.write_samples import best_network
from musictrain.data.tokenizers import VoiceGrid
from musictrain.notes import Notes

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
    logger = RunLogger(tmp_path, "x")
    settings = {"max_steps": 4, "val_check_interval": 2, "limit_val_batches": 1, "enable_checkpointing": False, **options}
    callbacks = [samples, *settings.pop("callbacks", [])]
    trainer = Trainer(
        logger=logger, callbacks=callbacks, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, **settings
    )
    trainer.fit(module or Playing(), datamodule=datamodule or Music())
    return trainer, Path(str(logger.save_dir))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.mid"))


def test_pieces_from_nothing_and_continuations_are_written_at_the_end(tmp_path: Path) -> None:
    _, run = fit(tmp_path, WriteSamples(num=2, continuations=3, beats=4, prompt_beats=2))
    (folder,) = (run / "samples").iterdir()
    assert folder.name == "step_000004"
    assert names(folder) == ["continued_1.mid", "from_nothing_1.mid", "from_nothing_2.mid"]
    info = json.loads((folder / "continued_1.json").read_text())
    assert (info["prompt"], info["prompt_beats"], info["step"], info["seed"]) == ("bwv1", 2.0, 4, 0)
    assert info["beats"] <= 6


def test_every_second_validation_has_its_folder_and_prompts_stay_the_same(tmp_path: Path) -> None:
    _, run = fit(tmp_path, WriteSamples(every=1, num=1, continuations=0, beats=2, weights="current"), max_steps=4)
    folders = sorted(path.name for path in (run / "samples").iterdir())
    assert folders == ["step_000002", "step_000004"]
    first, last = ((run / "samples" / name / "from_nothing.mid").read_bytes() for name in folders)
    assert first == last


def test_training_draws_the_same_numbers_with_and_without_samples(tmp_path: Path) -> None:
    def weights(samples: WriteSamples) -> Tensor:
        torch.manual_seed(3)
        module = Playing()
        fit(tmp_path, samples, module)
        return torch.cat([module.layer.weight.flatten(), torch.rand(3)])

    assert torch.equal(weights(WriteSamples(every=1, num=1, continuations=0, beats=2)), weights(WriteSamples(num=0, continuations=0)))


def test_a_model_without_a_network_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "musictrain"):
        _, run = fit(tmp_path, WriteSamples(every=1), module=BoringModel(), datamodule=BoringDataModule())
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
    assert "Sampling at step 4 failed; training is not affected." in caplog.text


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


def test_its_state_is_the_number_of_validations() -> None:
    first, second = WriteSamples(every=2), WriteSamples(every=3)
    first._validations = 5
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"validations": 5}
    assert second.every == 3


@pytest.mark.parametrize("options", [{"every": -1}, {"beats": 0}, {"prompt_beats": -2}, {"weights": "worst"}])
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="WriteSamples got"):
        WriteSamples(**options)
