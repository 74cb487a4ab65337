"""MusicDataModule follows a curriculum: a run is trained on what the dial says, resumed or not, with workers or ranks or without."""

from __future__ import annotations

import json
import math
import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from musictrain.curriculum import Course, Dial, Pacing, Shift
from musictrain.data.orderings import Ordering
from musictrain.datamodule import MusicDataModule
from tests.data.test_mixed_corpora import frames
from tests.ports import free_port
from tests.test_datamodule import Bigram, SaveAt, fit, train_as_rank, trainer_of

BATCHES = 14


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpora")
    paths = [frames(folder / f"{name}.json", seed, train=8, valid=2, test=2) for seed, name in enumerate(("folk", "bach"))]
    return "+".join(map(str, paths))


@pytest.fixture
def make(corpora: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    cache = tmp_path_factory.getbasetemp() / "cache"

    def make_datamodule(**options: Any) -> MusicDataModule:
        return MusicDataModule(**{"corpus": corpora, "window": 64, "batch_size": 6, "cache_dir": str(cache), **options})

    return make_datamodule


def course_of(**parts: Any) -> Course:
    """From easy to all, from short to whole, from folk to half and half, within ten batches."""
    given = {
        "difficulty": Pacing(until=10, start=0.2),
        "length": Pacing(until=6, start=0.25),
        "mixture": Shift(start={"folk": 0.9, "bach": 0.1}, end={"folk": 0.5, "bach": 0.5}, until=8),
        "orderings": {"surprisal": 1.0, "note_density": 0.5},
    }
    return Course("steps", **{**given, **parts})  # type: ignore[arg-type]


class Leads(pl.Callback):
    """What a curriculum does: the data module follows before there are loaders."""

    def __init__(self, course: Course) -> None:
        self.course = course

    def setup(self, trainer: Any, pl_module: pl.LightningModule, stage: str) -> None:
        trainer.datamodule.follow(self.course)


class Kept(pl.Callback):
    """Keeps the batches."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_is_trained_on_what_the_dial_says(make: Any, num_workers: int) -> None:
    course, kept, plans = course_of(), Kept(), make()
    module = fit(make(num_workers=num_workers), Leads(course), kept, max_steps=BATCHES)
    plans.follow(course)
    plan = plans.train_plan()
    assert module.numbers == list(range(BATCHES))
    widths = set()
    for number, batch in enumerate(kept.batches):
        expected = plan.batch(number, dial=course.at(number))
        assert expected.keys() == batch.keys()
        assert all(torch.equal(torch.as_tensor(batch[key]), torch.as_tensor(expected[key])) for key in expected)
        widths.add(batch["tokens"].shape[1])
    assert (min(widths), max(widths)) == (17, 65)


@pytest.mark.parametrize(("num_workers", "step"), [(0, 3), (2, 5), (0, 9)])
def test_a_resumed_run_ends_with_the_weights_of_the_uninterrupted_one(make: Any, tmp_path: Path, num_workers: int, step: int) -> None:
    whole = fit(make(), Leads(course_of()), SaveAt("on_train_batch_end", step, tmp_path / "at.ckpt"), max_steps=BATCHES)
    resumed = fit(make(num_workers=num_workers), Leads(course_of()), ckpt_path=tmp_path / "at.ckpt", max_steps=BATCHES)
    assert resumed.numbers == list(range(step, BATCHES))
    assert torch.equal(resumed.logits.weight, whole.logits.weight)


def test_batches_that_are_passed_over_leave_the_dial_of_the_others_alone(make: Any) -> None:
    datamodule, course, kept = make(), course_of(), Kept()
    datamodule.pass_over(2, 4)
    module = fit(datamodule, Leads(course), kept, max_steps=6)
    assert module.numbers == [0, 1, 5, 6, 7, 8]
    plan = datamodule.train_plan()
    assert [batch["tokens"].shape[1] - 1 for batch in kept.batches] == [plan.row_targets(course.at(number)) for number in module.numbers]


def test_two_ranks_train_on_the_batches_of_one(make: Any, tmp_path: Path) -> None:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    course, empty = course_of(), tmp_path / "cache"
    one = fit(make(), Leads(course), max_steps=BATCHES)
    plans = make()
    plans.follow(course)
    plan, port = plans.train_plan(), free_port()
    context = multiprocessing.get_context("fork")
    # An empty cache: tokens and orderings are made by the first rank, while the other waits.
    options = {**quiet, "accelerator": "cpu", "max_steps": BATCHES, "callbacks": [Leads(course)]}
    ranks = [context.Process(target=train_as_rank, args=(r, port, make(cache_dir=str(empty)), tmp_path, options)) for r in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    assert [process.exitcode for process in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for number, rows in enumerate(zip(first["rows"], second["rows"], strict=True)):
        assert torch.equal(torch.stack(rows, dim=1).flatten(0, 1), plan.batch(number, dial=course.at(number))["tokens"])
    assert torch.allclose(first["weight"], one.logits.weight, atol=1e-6)


def test_the_next_fit_without_a_curriculum_has_none(make: Any) -> None:
    datamodule, again = make(), Kept()
    steered, plain = Kept(), Kept()
    fit(datamodule, Leads(course_of()), steered, max_steps=3)
    fit(datamodule, again, max_steps=3)
    fit(make(), plain, max_steps=3)
    assert [batch["tokens"].shape for batch in steered.batches] != [batch["tokens"].shape for batch in plain.batches]
    assert all(torch.equal(one["tokens"], other["tokens"]) for one, other in zip(again.batches, plain.batches, strict=True))
    assert datamodule.dial_at(0) == Dial()


def test_measuring_knows_nothing_of_a_curriculum(make: Any) -> None:
    plain, steered = make(), make()
    steered.follow(course_of())
    for split in ("train", "valid", "test"):
        before, after = plain.evaluation_plan(split), steered.evaluation_plan(split)
        assert before.num_batches == after.num_batches > 0
        assert torch.equal(before.batch(0)["tokens"], after.batch(0)["tokens"])


# Which corpus is measured on


def test_validation_can_be_one_of_the_corpora(make: Any, corpora: str) -> None:
    both, bach = make(valid_corpus="bach", valid_batch_size=3), make(corpus=corpora.split("+")[1], valid_batch_size=3)
    for split in ("valid", "test"):
        assert {both.store.names[piece].partition("/")[0] for piece in both.evaluation_plan(split).pieces} == {"bach"}
        mixed, alone = both.evaluation_plan(split), bach.evaluation_plan(split)
        assert mixed.num_batches == alone.num_batches > 0
        for number in range(alone.num_batches):
            assert torch.equal(mixed.batch(number)["tokens"], alone.batch(number)["tokens"])
    assert len(both.evaluation_plan("train").pieces) == 16
    assert len(make().evaluation_plan("valid").pieces) == 4


def test_a_corpus_to_measure_on_that_is_not_there_is_refused_before_anything_is_made(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"valid_corpus='bahc', expected one of folk, bach\. Did you mean 'bach'"):
        make(valid_corpus="bahc", cache_dir=str(tmp_path)).prepare_data()
    assert not (tmp_path / "tokens").exists()


# What cannot be followed


def test_an_ordering_that_there_is_not_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"orderings names 'surprise'.*"):
        fit(make(), Leads(course_of(orderings={"surprise": 1.0})), max_steps=1)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"orderings": {}}, "asks for the easiest windows, but nobody said what is easy"),
        ({"orderings": {"reference_loss": 1.0}}, "orderings names reference_loss, but no network's losses are there"),
        ({"mixture": Shift(start={"folk": 1.0}, end={"fokl": 1.0}, until=3)}, r"mixes in 'fokl', expected one of folk, bach"),
    ],
)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dial_that_cannot_be_had_ends_the_run_with_the_reason(make: Any, parts: Any, expected: str, num_workers: int) -> None:
    with pytest.raises(ValueError, match=expected):
        fit(make(num_workers=num_workers), Leads(course_of(**parts)), max_steps=4)


# Losses of a network


def test_an_ordering_of_one_s_own_is_computed_once(make: Any, tmp_path: Path) -> None:
    made: list[int] = []

    def losses(stretches: Any) -> Ordering:
        made.append(len(stretches))
        return Ordering(np.arange(float(len(stretches))), np.ones(len(stretches)))

    plans = []
    for _ in range(2):
        datamodule = make(cache_dir=str(tmp_path))
        datamodule.take_in("reference_loss", "some weights", losses)
        datamodule.follow(course_of(orderings={"reference_loss": 1.0}))
        plans.append(datamodule.train_plan())
        assert datamodule.state_dict()["batches"]["taken_in"] == {"reference_loss": "some weights"}
    assert len(made) == 1
    windows = [[plan.dealt(row, Dial(0.2)).window for row in range(40)] for plan in plans]
    assert windows[0] == windows[1]


# Checkpoints


@pytest.fixture
def checkpoint(make: Any, tmp_path: Path) -> Path:
    fit(make(), Leads(course_of()), SaveAt("on_train_batch_end", 2, tmp_path / "at.ckpt"), max_steps=2)
    return tmp_path / "at.ckpt"


def test_a_checkpoint_says_by_what_was_ordered_in_plain_values(checkpoint: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["MusicDataModule"]
    assert json.loads(json.dumps(state)) == state
    assert state["batches"]["orderings"] == {"surprisal": 1.0, "note_density": 0.5}


def test_other_orderings_are_said(make: Any, checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(make(), Leads(course_of(orderings={"voices": 1.0})), ckpt_path=checkpoint, max_steps=3)
    assert "Resumed with orderings={'voices': 1.0} (was {'surprisal': 1.0, 'note_density': 0.5})" in caplog.text


def test_a_checkpoint_from_before_there_were_curricula_is_no_other_run(make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = fit(make(), SaveAt("on_train_batch_end", 2, tmp_path / "new.ckpt"), max_steps=4)
    old = torch.load(tmp_path / "new.ckpt", weights_only=True)
    for name in ("orderings", "taken_in"):
        del old["MusicDataModule"]["batches"][name]
    torch.save(old, tmp_path / "old.ckpt")
    resumed = fit(make(), ckpt_path=tmp_path / "old.ckpt", max_steps=4)
    assert resumed.numbers == [2, 3]
    assert torch.equal(resumed.logits.weight, whole.logits.weight)
    assert "Resumed with" not in caplog.text


def test_measuring_a_checkpoint_of_a_curriculum_needs_none(make: Any, checkpoint: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [scores] = trainer_of().validate(Bigram(), datamodule=make(), ckpt_path=checkpoint, verbose=False)
    assert math.isfinite(scores["val/loss"])
