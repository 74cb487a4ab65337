"""What the model plays is scored before anybody decides by it, and a copy is named; nothing of it touches the training."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMAWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from torch import Tensor

from musictrain.callbacks import RunLogger, SampleAndScore
from musictrain.generation import SampledPiece
from musictrain.listening.time_budget import TimeBudget
from musictrain.metrics import MEASURES, Match
from musictrain.notes import Notes
from musictrain.runs.alerts import alert_of
from musictrain.runs.rows import read_rows
from musictrain.sampling import sampling_callback
from musictrain.sampling.scores import Copied, Sample, score_samples
from tests.sampling.tiny_corpus import TOKENIZER, Music, Playing, TinyCorpus, chorale

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
SMALL: dict[str, Any] = {
    **{"most_share": 1, "num": 2, "num_between": 1, "num_scored": 3, "continuations": 1, "copy_bars": 1},
    **{"beats": 12, "beats_between": 8, "min_beats": 8, "prompt_beats": 4},
}


def fit(tmp_path: Path, samples: SampleAndScore, module: Any = None, datamodule: Any = None, **options: Any) -> tuple[Trainer, Path]:
    settings = {"max_steps": 4, "val_check_interval": 2, "limit_val_batches": 1, "enable_checkpointing": False, **options}
    ckpt_path, callbacks = settings.pop("ckpt_path", None), [samples, *settings.pop("callbacks", [])]
    trainer = Trainer(
        logger=settings.pop("logger", RunLogger(tmp_path, "x")),
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(module or Playing(), datamodule=datamodule or Music(), ckpt_path=ckpt_path)
    return trainer, Path(str(trainer.log_dir))


def told(run: Path, step: int) -> dict[str, Any]:
    return json.loads((run / "samples" / f"step_{step:06d}" / "scores.json").read_text(encoding="utf-8"))


def rows_with_scores(run: Path) -> list[dict[str, Any]]:
    return [row for row in read_rows(run / "metrics.jsonl") if "val/in_band" in row]


class Overheard(SampleAndScore):
    """Keeps what it played between, and with which reference."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.heard: dict[int, list[Any]] = {}

    def _judge(self, asked: Any, played: Any, *rest: Any) -> None:
        self.heard.setdefault(asked.step, list(played))
        super()._judge(asked, played, *rest)


def test_what_is_logged_is_what_the_metrics_say_of_what_was_played(tmp_path: Path) -> None:
    samples = Overheard(**SMALL)
    trainer, run = fit(tmp_path, samples)
    played = samples.heard[2]
    assert [one.name for one in played] == ["from_nothing_1", "from_nothing_2", "from_nothing_3", "continued_1"]
    logged = dict(zip((2, 4), rows_with_scores(run), strict=True))
    assert told(run, 2)["scores"]["val/notes_per_bar"]["mean"] == pytest.approx(logged[2]["val/notes_per_bar"], rel=1e-6)
    assert samples._reference is not None
    judged = [Sample(one.name, one.piece.notes, one.piece.prompt_beats) for one in played]
    direct = score_samples(judged, samples._reference).values
    for name in {*MEASURES, "copy_rate", "longest_match", "frechet_excess", "chorale_rule_distance", "in_band"}:
        assert float(logged[2][f"val/{name}"]) == pytest.approx(direct[name].mean, rel=1e-5, abs=1e-6, nan_ok=True), name
    assert 0.0 <= logged[2]["val/token_validity"] <= 1.0
    for row in logged.values():
        assert {key for key in row if key.startswith("val/")} == {*samples.score_names, "val/loss"}
    assert float(trainer.callback_metrics["val/scored_step"]) == 4.0
    assert "val/scored_step" not in logged[4]


def test_files_are_those_of_write_samples_with_scores_and_bands_beside_them(tmp_path: Path) -> None:
    _, run = fit(tmp_path, SampleAndScore(**SMALL, weights="current"))
    between, end = ([path.name for path in sorted((run / "samples" / name).glob("*.mid"))] for name in ("step_000002", "step_000004"))
    assert (between, end) == (["continued_1.mid", "from_nothing_1.mid"], ["continued_1.mid", "from_nothing_1.mid", "from_nothing_2.mid"])
    assert (run / "samples" / "reference" / "continued_1.mid").is_file()
    assert told(run, 4)["weights"] == "current"
    bands = json.loads((run / "corpus_bands.json").read_text(encoding="utf-8"))
    assert {f"val/{name}" for name in MEASURES} <= set(bands)
    assert bands["val/notes_per_bar"] == [16.0, 16.0]
    low, high = bands["val/longest_match"]
    assert low == 0.0 <= high < 1


class Deciding(Callback):
    """Notes what a decider sees."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.seen.append(float(trainer.callback_metrics["val/scored_step"]))


def test_a_decider_that_stands_first_sees_the_scores_of_this_validation(tmp_path: Path) -> None:
    deciding, samples = Deciding(), SampleAndScore(**SMALL)
    trainer = Trainer(
        **{"default_root_dir": tmp_path, "max_steps": 6, "val_check_interval": 2, "limit_val_batches": 1, "accelerator": "cpu"},
        **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
        callbacks=[deciding, EarlyStopping("val/notes_per_bar", patience=1, min_delta=1e6, check_finite=False), samples],
    )
    trainer.fit(Playing(), datamodule=Music())
    assert deciding.seen == [2.0, 4.0]
    assert trainer.global_step == 4


def planted(source: Notes) -> Any:
    """A sampler that plays a training piece in the third place, and other music elsewhere."""

    def sample(network: Any, tokenizer: Any, *, num: int, prompt: Any = None, **options: Any) -> list[SampledPiece]:
        pieces = [chorale(200 + row) for row in range(num)]
        if prompt is None and num > 2:
            pieces[2] = source
        return [SampledPiece(notes, TOKENIZER.encode(notes), -1.0, 0.0 if prompt is None else 4.0, True) for notes in pieces]

    return sample


def alerts_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [one for record in caplog.records if (one := alert_of(record))]


def test_a_copied_piece_is_an_alert_that_names_it_and_its_bars_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = chorale(5).transposed(1)
    monkeypatch.setattr(sampling_callback, "sample_pieces", planted(source))
    samples = SampleAndScore(**SMALL)
    _, run = fit(tmp_path, samples)
    (alert,) = [one for one in alerts_of(caplog) if one["kind"] == "copied_passage"]
    assert (alert["step"], alert["sample"], alert["source"]) == (2, "from_nothing_3", "bwv5")
    assert (alert["source_bars"], alert["own_bars"], alert["bars"]) == ([1, 2], [1, 2], 2.0)
    assert "bars 1 to 2 (8 beats, 32 notes) are bars 1 to 2 of bwv5, 1 semitone higher" in alert["message"]
    assert (run / "samples" / "step_000002" / "from_nothing_3.mid").is_file()
    assert "step_000002/from_nothing_3.mid" in alert["advice"]
    (copied, *_) = told(run, 2)["copied"]
    assert (copied["sample"], copied["source"], copied["source_bars"]) == ("from_nothing_3", "bwv5", [1, 2])
    assert rows_with_scores(run)[0]["val/longest_match"] == 2.0
    assert samples.score_notes["val/copy_rate"].startswith("from_nothing_3: bars 1 to 2 (8 beats, 32 notes) are bars 1 to 2 of bwv5")
    assert rows_with_scores(run)[0]["val/longest_match_excess"] > 1.0


def test_what_the_validation_set_has_too_is_no_alert(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_callback, "sample_pieces", planted(chorale(5)))
    music = Music()
    music.corpus.pieces["valid"] = music.corpus.pieces["train"][:3]
    fit(tmp_path, SampleAndScore(**SMALL), datamodule=music)
    assert not alerts_of(caplog)


def copy_of(bars: float, source: str = "bwv5") -> Copied:
    return Copied("from_nothing_9", Match(bars, 4 * bars, 30, source, (1, 2), (1, 2), 0.0, 0.0, 0))


def test_a_copy_is_told_of_again_if_it_grows_or_is_of_another_piece(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    samples: Any = SampleAndScore()
    samples._reference, samples._write = SimpleNamespace(longest_bars=0.5), lambda *_: None
    asked: Any = SimpleNamespace(step=7, folder=tmp_path)
    played: Any = [SimpleNamespace(name="from_nothing_9")]
    for copied in (copy_of(2.0), copy_of(2.5), copy_of(3.5), copy_of(2.0, "bwv6")):
        samples._tell(copied, asked, played, None)
    assert [(alert["source"], alert["bars"]) for alert in alerts_of(caplog)] == [("bwv5", 2.0), ("bwv5", 3.5), ("bwv6", 2.0)]
    other: Any = SampleAndScore(num_scored=4)
    other.load_state_dict(samples.state_dict())
    other._reference, other._write = samples._reference, samples._write
    other._tell(copy_of(3.5), asked, played, None)
    assert len(alerts_of(caplog)) == 3
    assert other.num_scored == 4


def test_a_resumed_fit_goes_on_with_its_time_and_its_validations(tmp_path: Path) -> None:
    first = SampleAndScore(**SMALL)
    trainer, _ = fit(tmp_path / "one", first)
    trainer.save_checkpoint(tmp_path / "state.ckpt")
    spent = first.state_dict()["budget"]["spent_seconds"]
    second = SampleAndScore(**{**SMALL, "most_share": 0.5})
    fit(tmp_path / "two", second, ckpt_path=tmp_path / "state.ckpt", max_steps=6)
    assert second.state_dict()["validations"] == 3
    assert second.state_dict()["budget"]["spent_seconds"] >= spent > 0
    assert second._budget.most_share == 0.5


def test_there_are_no_scores_where_there_is_no_time_and_it_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = SampleAndScore(**{**SMALL, "most_share": 1e-9})
    samples._budget = TimeBudget(1e-9, quick_seconds=0.0)
    _, run = fit(tmp_path, samples, max_steps=6)
    assert not rows_with_scores(run)
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["reference", "step_000006"]
    said = [record.getMessage() for record in caplog.records if "No scores at step" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("No scores at step 2: a round of sampling would take about")
    assert samples.state_dict()["budget"]["spent_seconds"] == 0.0


def test_rounds_take_no_more_than_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(sampling_callback.time, "monotonic", lambda: now[0])

    class Slow(SampleAndScore):
        def _write_all(self, *arguments: Any) -> None:
            now[0] += 5.0
            super()._write_all(*arguments)

    class Ticking(Playing):
        def on_train_batch_end(self, *arguments: Any) -> None:
            now[0] += 10.0

    samples = Slow(**{**SMALL, "most_share": 0.1})
    _, run = fit(tmp_path, samples, Ticking(), max_steps=20)
    state = samples.state_dict()["budget"]
    assert [row["step"] for row in rows_with_scores(run)] == [1, 9, 13, 17]
    assert state["spent_seconds"] == 20.0 <= 0.1 * state["whole_seconds"]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_an_average_is_what_is_scored_wherever_it_stands_in_the_list(tmp_path: Path, place: str) -> None:
    seen: list[tuple[float, float]] = []

    class Marked(LightningEMAWeightAveraging):
        def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if self._average_model is not None and not seen and not trainer.sanity_checking:
                next(self._average_model.module.network.parameters()).data.fill_(0.25)
            super().on_validation_epoch_start(trainer, pl_module)

    class Watching(SampleAndScore):
        def _write_all(self, asked: Any, network: Any, *rest: Any) -> None:
            seen.append((float(next(network.parameters()).flatten()[0].detach()), asked.step))

    average, samples, module = Marked(decay=0.999), Watching(**SMALL), Playing()
    before = next(module.network.parameters()).detach().clone()
    callbacks = [average, samples] if place == "before" else [samples, average]
    trainer = Trainer(
        **{"default_root_dir": tmp_path, "max_steps": 3, "val_check_interval": 2, "limit_val_batches": 1, "accelerator": "cpu"},
        **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
        callbacks=callbacks,
    )
    trainer.fit(module, datamodule=Music())
    assert seen[0] == (0.25, 2)
    assert before.flatten()[0] != 0.25


def test_training_draws_the_same_numbers_with_and_without_scores(tmp_path: Path) -> None:
    def weights(samples: SampleAndScore) -> Tensor:
        torch.manual_seed(3)
        module = Playing()
        fit(tmp_path, samples, module)
        return torch.cat([module.layer.weight.flatten(), torch.rand(3)])

    assert torch.equal(weights(SampleAndScore(**SMALL)), weights(SampleAndScore(num=0, num_scored=0, continuations=0)))


def test_a_model_without_a_network_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, run = fit(tmp_path, SampleAndScore(), module=BoringModel(), datamodule=BoringDataModule())
    said = [record.getMessage() for record in caplog.records if "SampleAndScore" in record.getMessage()]
    assert said == [
        "SampleAndScore needs a LightningModule with a `network` and a data module with a `tokenizer`; "
        "BoringModel in this Trainer does not offer both, so nothing is played or scored."
    ]
    assert not (run / "samples").exists()


def test_without_a_corpus_samples_are_written_and_it_says_why_there_are_no_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    music = Music()
    del music.corpus
    _, run = fit(tmp_path, SampleAndScore(**SMALL), datamodule=music)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING and "musictrain" in record.name]
    assert said == [
        "SampleAndScore holds samples against the `corpus` of the data module; Music has none, so samples are written without scores."
    ]
    assert (run / "samples" / "step_000002" / "from_nothing_1.mid").is_file()
    assert not (run / "corpus_bands.json").exists()
    assert not rows_with_scores(run)


def test_without_a_data_module_the_module_may_know_tokenizer_and_corpus(tmp_path: Path) -> None:
    class Alone(Playing):
        tokenizer, corpus, window = TOKENIZER, TinyCorpus(), 128

    trainer = Trainer(
        **{"default_root_dir": tmp_path, "max_steps": 2, "val_check_interval": 2, "limit_val_batches": 1, "accelerator": "cpu"},
        **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
        callbacks=[SampleAndScore(**SMALL)],
    )
    trainer.fit(Alone())
    assert float(trainer.callback_metrics["val/notes_per_bar"]) > 0
    assert (tmp_path / "samples" / "step_000002" / "continued_1.mid").is_file()


def test_a_corpus_without_validation_pieces_is_an_alert_and_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    music = Music()
    music.corpus.pieces["valid"] = []
    trainer, run = fit(tmp_path, SampleAndScore(**SMALL), datamodule=music)
    (alert,) = alerts_of(caplog)
    assert alert["kind"] == "scoring_unavailable"
    assert "no validation piece" in alert["message"]
    assert trainer.state.status == "finished"
    assert not rows_with_scores(run)


def test_scores_that_cannot_be_worked_out_do_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ArithmeticError("too odd")

    monkeypatch.setattr("musictrain.callbacks.sample_and_score.score_samples", fails)
    trainer, run = fit(tmp_path, SampleAndScore(**SMALL))
    assert trainer.state.status == "finished"
    assert [one["kind"] for one in alerts_of(caplog)] == ["sampling_failed"]
    assert (run / "samples" / "step_000002" / "from_nothing_1.mid").is_file()


def test_a_silent_model_has_nan_under_the_same_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: Any, num: int, **__: Any) -> list[SampledPiece]:
        return [SampledPiece(Notes.empty(), TOKENIZER.encode(chorale(1))[:0], math.nan, 0.0, True) for _ in range(num)]

    _, run = fit(tmp_path / "heard", SampleAndScore(**SMALL))
    monkeypatch.setattr(sampling_callback, "sample_pieces", silent)
    _, quiet = fit(tmp_path / "silent", SampleAndScore(**SMALL))
    first, second = rows_with_scores(run)[0], rows_with_scores(quiet)[0]
    assert set(first) == set(second)
    assert math.isnan(float(second["val/polyphony"]))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_scored": -1}, "SampleAndScore got num_scored=-1"),
        ({"copy_bars": 0}, "SampleAndScore got .*copy_bars=0"),
        ({"copy_margin_bars": -0.5}, "SampleAndScore got .*copy_margin_bars=-0.5"),
        ({"level": 1.0}, "SampleAndScore got level=1.0"),
        ({"most_share": 2}, "SampleAndScore got most_share=2"),
        ({"beats": 0}, "SampleAndScore got .*beats=0"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SampleAndScore(**options)


def test_a_rehearsal_plays_nothing(tmp_path: Path) -> None:
    samples = SampleAndScore(**SMALL)
    samples.rest()
    _, run = fit(tmp_path, samples)
    assert not (run / "samples").exists()
    assert not (run / "corpus_bands.json").exists()


TWO = """
import json, sys
from pathlib import Path
from lightning.pytorch import Trainer
from musictrain.callbacks import SampleAndScore
from tests.callbacks.test_sample_and_score import SMALL
from tests.sampling.tiny_corpus import Music, Playing

trainer = Trainer(
    default_root_dir=sys.argv[1], max_steps=4, val_check_interval=2, limit_val_batches=1, accelerator="cpu",
    devices=2, strategy="ddp_find_unused_parameters_true",
    callbacks=[SampleAndScore(**SMALL)], logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
)
trainer.fit(Playing(), datamodule=Music())
seen = {name: repr(float(value)) for name, value in trainer.callback_metrics.items() if name != "val/loss"}
Path(sys.argv[1], f"rank_{trainer.global_rank}.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow
def test_two_processes_have_the_same_scores(tmp_path: Path, repository: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TWO)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=600, cwd=repository)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert len(first) > len(MEASURES)
    assert first["val/scored_step"] == "4.0"
