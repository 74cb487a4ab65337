"""What does not fit is refused before a weight is touched or a step is done, in words that say what to do; what fits goes on."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.optim import SGD, Adam, AdamW, RAdam

from musictrain.callbacks.versioned_checkpoint import VersionedCheckpoint
from musictrain.checkpoints.catalog import NoGoodVersionError, last_good, list_versions
from musictrain.checkpoints.exporting import thin_version
from musictrain.checkpoints.lock import FolderInUseError
from musictrain.checkpoints.resume_check import ResumeMismatchError
from musictrain.checkpoints.seal import SCHEMA
from musictrain.checkpoints.snapshot import UnsafeStateError
from musictrain.checkpoints.storing import load, store
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from tests.checkpoints.fault_injection import folder_in_memory
from tests.checkpoints.small_fits import LONGEST_SECONDS, At, Line, batches, checkpoint_in, fit, steps_in, trainer_in
from tests.checkpoints.small_versions import spoil

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step`",
    "ignore:You're resuming",
    "ignore:.*callbacks used to create",
    "ignore:Using ModelCheckpoint with manual",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of versions where fsync costs nothing."""
    with folder_in_memory() as parent:
        yield parent / "run" / "checkpoints"


@pytest.fixture
def trained(folder: Path) -> Path:
    """The folder after a fit of two steps."""
    fit(folder, steps=2)
    return folder


def weights(model: torch.nn.Module) -> list[bytes]:
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("v*")}


def refused(model: LightningModule, folder: Path, error: type[Exception], match: str, touched: bool = False, **options: Any) -> None:
    """Going on with this model is refused, and neither its weights nor the versions change."""
    before, there = weights(model), contents(folder)
    with pytest.raises(error, match=match):
        fit(folder, model=model, steps=4, **{"ckpt_path": "last", **options})
    assert touched or weights(model) == before
    assert contents(folder) == there


# Another model.


def test_another_shape_is_refused(trained: Path) -> None:
    what = (
        r"v000003_step000002\.ckpt holds another model .*: layer\.weight has the shape \(2, 8\) there and \(2, 9\) here\. Give the run the"
    )
    refused(Line(width=9), trained, ResumeMismatchError, what)


class Renamed(Line):
    """The same layer under another name, and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.layer = self.layer, torch.nn.Identity()  # type: ignore[assignment]
        self.more = torch.nn.Linear(2, 2)


def test_renamed_and_missing_layers_are_refused(trained: Path) -> None:
    what = r"layer\.weight is only there; layer\.bias is only there; linear\.weight is only here and 3 more differences"
    refused(Renamed(), trained, ResumeMismatchError, what)


def test_another_model_is_refused_of_a_file_without_a_seal_too(folder: Path, tmp_path: Path) -> None:
    stock = ModelCheckpoint(tmp_path / "stock", every_n_train_steps=2, filename="two")
    trainer_in(tmp_path, stock, steps=2).fit(Line(), batches())
    folder.mkdir(parents=True)
    refused(Line(width=9), folder, ResumeMismatchError, r"two\.ckpt holds another model", ckpt_path=tmp_path / "stock" / "two.ckpt")
    assert fit(folder, steps=3, ckpt_path=tmp_path / "stock" / "two.ckpt").versions()[-1].step == 3


# Another optimizer.


@pytest.mark.parametrize(
    ("optimizer", "here"),
    [
        (SGD, "SGD of 2 weights"),
        (Adam, "Adam of 2 weights"),
        (RAdam, "RAdam of 2 weights"),
        (lambda weights, lr: AdamW([{"params": [each]} for each in weights], lr=lr), r"AdamW of 1\+1 weights"),
        (lambda weights, lr: AdamW(list(weights)[:1], lr=lr), "AdamW of 1 weights"),
    ],
    ids=["SGD", "Adam", "RAdam", "groups", "fewer weights"],
)
def test_another_optimizer_is_refused(optimizer: Callable[..., Any], here: str, trained: Path) -> None:
    what = rf"v000003_step000002\.ckpt was trained with AdamW of 2 weights, but this run has {here}\. Give the run the optimizer it began"
    refused(Line(optimizer=optimizer), trained, ResumeMismatchError, what, touched=True)


def test_fewer_optimizers_are_refused_of_a_stock_file_too(folder: Path, tmp_path: Path) -> None:
    stock = ModelCheckpoint(tmp_path / "stock", every_n_train_steps=2, filename="two")
    trainer_in(tmp_path, stock, steps=2).fit(Several(), batches())
    folder.mkdir(parents=True)
    what = "trained with an optimizer of 1 weights and an optimizer of 1 weights, but this run has AdamW of 2 weights"
    refused(Line(), folder, ResumeMismatchError, what, touched=True, ckpt_path=tmp_path / "stock" / "two.ckpt")


# Another tokenizer or corpus.


@dataclass
class Printed:
    """Something with a fingerprint."""

    fingerprint: str


class Data(LightningDataModule):
    """Batches, a tokenizer and a corpus."""

    def __init__(self, tokenizer: str, corpus: str) -> None:
        super().__init__()
        self.tokenizer, self.corpus = Printed(tokenizer), Printed(corpus)

    def train_dataloader(self) -> Any:
        return batches()


def fit_with_data(folder: Path, data: Data, steps: int, ckpt_path: str | None = None) -> Line:
    model = Line()
    before = weights(model)
    try:
        trainer_in(folder.parent, checkpoint_in(folder), steps=steps).fit(model, datamodule=data, ckpt_path=ckpt_path)
    except ResumeMismatchError:
        assert weights(model) == before
        raise
    return model


@pytest.mark.parametrize(("tokenizer", "corpus", "what"), [("other", "c", "tokenizer"), ("t", "other", "corpus")])
def test_another_tokenizer_or_corpus_is_refused(tokenizer: str, corpus: str, what: str, folder: Path) -> None:
    fit_with_data(folder, Data("t", "c"), steps=2)
    match = rf"trained with the {what} of fingerprint {what[0]}, but this run has other\. Give the run the {what} it began with"
    with pytest.raises(ResumeMismatchError, match=match):
        fit_with_data(folder, Data(tokenizer, corpus), steps=4, ckpt_path="last")
    fit_with_data(folder, Data("t", "c"), steps=4, ckpt_path="last")
    assert steps_in(folder)[-1] == 4


# What cannot be gone on from.


def test_when_all_versions_are_damaged_nothing_starts_at_step_0(trained: Path) -> None:
    for version in list_versions(trained):
        spoil(version.path)
    what = r"None of the 3 versions .* v000003_step000002\.ckpt: its bytes are not those .* Nothing was started from step 0"
    refused(Line(), trained, NoGoodVersionError, what)


def test_the_newest_three_of_five_are_damaged_and_the_run_goes_on_from_the_fourth(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fit(folder, steps=4, newest=5)
    versions = list_versions(folder)
    spoil(versions[4].path)
    versions[3].path.write_bytes(b"")
    os.truncate(versions[2].path, 1000)
    with caplog.at_level(logging.WARNING):
        saving = fit(folder, steps=3, ckpt_path="last", newest=5)
    assert saving.report is not None
    assert (saving.report.version, saving.report.step) == ("v000002_step000001.ckpt", 1)
    assert "resumed  v000002_step000001.ckpt, after step 1" in capsys.readouterr().out
    assert sorted(path.name for path in folder.glob("*.corrupt")) == [f"{version.path.name}.corrupt" for version in versions[2:]]
    assert [version.name for version in list_versions(folder)][2:] == ["v000006_step000002", "v000007_step000003"]
    assert "v000004_step000003.ckpt is passed over" in caplog.text


def test_a_version_of_a_later_musictrain_is_neither_passed_over_nor_set_aside(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("musictrain.checkpoints.seal.SCHEMA", SCHEMA + 1)
        fit(trained, steps=3, ckpt_path="last")
    what = rf"v000004_step000003\.ckpt is of a later musictrain: its seal has schema {SCHEMA + 1}, .* update musictrain"
    refused(Line(), trained, NoGoodVersionError, what)
    refused(Line(), trained, BrokenCheckpointError, "update musictrain", ckpt_path=list_versions(trained)[-1].path)


@pytest.mark.parametrize("kind", ["weights", "average", "thin", "stock"])
def test_weights_alone_cannot_be_gone_on_from_and_can_be_tested(kind: str, trained: Path, tmp_path: Path) -> None:
    path, tree = tmp_path / "small.ckpt", load(last_good(trained).path)  # type: ignore[union-attr]
    small = {key: tree[key] for key in ("state_dict", "global_step", "epoch", "pytorch-lightning_version", "loops")}
    if kind == "thin":
        path = thin_version(list_versions(trained)[1])
    elif kind == "stock":
        torch.save(small, path)
    else:
        seal = verify(last_good(trained).path)  # type: ignore[union-attr]
        store(small, path, replace(seal, kind=kind))
    called = {"stock": "a checkpoint of weights alone", "average": "a version of kind average"}.get(kind, "a version of kind weights")
    what = rf"{path.name} is {called}: .* Go on from ckpt_path='last', validate or test with it, or load its weights"
    refused(Line(), trained, ResumeMismatchError, what, ckpt_path=path)
    model = Line()
    trainer_in(trained.parent, checkpoint_in(trained)).test(model, batches(), ckpt_path=str(path), verbose=False)
    assert torch.allclose(model.layer.weight, load(path)["state_dict"]["layer.weight"].float())


def test_another_number_of_processes_is_reported_and_no_refusal(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = last_good(trained)
    assert version is not None
    tree = load(version.path)
    tree["musictrain_circumstances"]["world_size"] = 4
    store(tree, version.path, version.seal, replace=True)
    report = fit(trained, steps=3, ckpt_path="last").report
    assert report is not None
    assert ("world_size", 4, 1) in report.changed
    assert not report.exact
    assert "changed: world_size was 4, is 1" in capsys.readouterr().out


# State that could not be read back.


class Remembers(Callback):
    """A callback with something in its state."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"best": [0, self.value]}

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.steps += 1


@pytest.mark.parametrize(
    ("value", "kind"), [(lambda: None, "builtins.function"), (np.float64(0.5), "numpy.float64"), (Path("x"), "pathlib.PosixPath")]
)
def test_state_that_could_not_be_read_back_is_an_error_before_the_first_step(value: Any, kind: str, folder: Path) -> None:
    odd = Remembers(value)
    with pytest.raises(UnsafeStateError, match=rf"\['callbacks'\]\['Remembers'\]\['best'\]\[1\] is a {kind}, .* Convert it where it comes"):
        fit(folder, odd, steps=2)
    assert odd.steps == 0
    assert steps_in(folder) == []


class Hyper(Line):
    """A module with hyper-parameters."""

    def __init__(self, where: Any = None, rate: Any = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()


@pytest.mark.parametrize(
    ("module", "key"), [(lambda: Hyper(where=Path("x")), "where"), (lambda: Hyper(rate=np.float32(0.1)), "rate")], ids=["Path", "numpy"]
)
def test_hyper_parameters_that_could_not_be_read_back_are_an_error_before_the_first_step(
    module: Callable[[], LightningModule], key: str, folder: Path
) -> None:
    with pytest.raises(UnsafeStateError, match=rf"\['hyper_parameters'\]\['{key}'\] is a "):
        fit(folder, model=module())
    assert fit(folder, model=Hyper(where="x"), steps=1).versions()[-1].step == 1


# Two trainers, two fits.


def test_a_second_trainer_in_the_same_folder_is_refused(folder: Path) -> None:
    refusals: list[BaseException] = []

    def intrude() -> None:
        try:
            fit(folder, steps=1)
        except FolderInUseError as error:
            refusals.append(error)

    def intrude_from_a_thread() -> None:
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join(LONGEST_SECONDS)

    fit(folder, At({1: intrude, 2: intrude_from_a_thread}), steps=3)
    assert [str(error) for error in refusals] == [
        f"Another trainer of this process is saving into {folder}. Give each its own dirpath."
    ] * 2
    assert steps_in(folder) == [1, 2, 3]


def test_a_second_process_in_the_same_folder_is_refused(folder: Path) -> None:
    codes: list[int] = []

    def intrude() -> None:
        child = os.fork()
        if child == 0:
            from musictrain.checkpoints import lock

            lock._held_here.clear()  # as in a process that was not forked
            try:
                fit(folder, steps=1, signals=False)
            except FolderInUseError as error:
                os._exit(7 if f"Process {os.getppid()} on " in str(error) else 8)
            except BaseException:
                os._exit(9)
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    fit(folder, At({1: intrude}), steps=2)
    assert codes == [7]
    fit(folder, steps=3, ckpt_path="last")
    assert steps_in(folder)[-1] == 3


def test_a_fresh_fit_in_a_folder_with_versions_is_refused(trained: Path) -> None:
    what = (
        "holds versions up to step 2, and this fit would start at step 0. Go on from them with ckpt_path='last', or start anew in another"
    )
    refused(Line(), trained, ValueError, what, ckpt_path=None)


def test_two_checkpoint_callbacks_are_refused(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `VersionedCheckpoint`"):
        fit(folder, checkpoint_in(folder))


def test_a_url_is_no_folder_for_versions(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"local folder, not to memory://a: set dirpath, and give the URL as mirror"):
        fit(folder, dirpath="memory://a")
    assert not Path("memory:").exists()


def test_another_plugin_is_refused(folder: Path) -> None:
    from lightning.pytorch.plugins.io import AsyncCheckpointIO

    with pytest.raises(ValueError, match=r"has the plugin AsyncCheckpointIO\. Leave that plugin out"):
        fit(folder, io=AsyncCheckpointIO())  # type: ignore[arg-type]


# Fits of other kinds.


def test_one_trainer_fits_twice_to_train_longer_with_tests_in_between(folder: Path) -> None:
    model, saving = Line(), checkpoint_in(folder, monitor="val/loss", after_validation=True)
    trainer = trainer_in(folder.parent, saving, steps=4, val_check_interval=2)
    trainer.fit(model, batches(), batches())
    for _ in range(2):
        trainer.validate(model, batches(), verbose=False)
        trainer.test(model, batches(), ckpt_path="best", verbose=False)
    assert steps_in(folder) == [2, 3, 4]
    trainer.test(model, batches(), ckpt_path="last", verbose=False)
    trainer.fit_loop.epoch_loop.max_steps = 7
    trainer.fit(model, batches(), batches())
    assert steps_in(folder)[-1] == 7
    assert not list(folder.glob("*.abandoned"))
    numbers = [version.number for version in list_versions(folder)]
    assert len(set(numbers)) == len(numbers)


def test_a_trainer_that_resumed_fits_once_more_without_a_second_resume(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, saving = Line(), checkpoint_in(trained)
    trainer = trainer_in(trained.parent, saving, steps=4)
    trainer.fit(model, batches(), ckpt_path="last")
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(model, batches())
    assert steps_in(trained)[-3:] == [4, 5, 6]
    assert not list(trained.glob("*.abandoned"))
    assert capsys.readouterr().out.count("resumed") == 1


def test_an_older_version_is_gone_on_from_and_the_later_ones_are_abandoned(folder: Path) -> None:
    fit(folder, steps=4, newest=9)
    fit(folder, steps=3, newest=9, ckpt_path=list_versions(folder)[2].path)
    assert [version.name for version in list_versions(folder)] == [
        "v000001_step000000",
        "v000002_step000001",
        "v000003_step000002",
        "v000006_step000003",
    ]
    assert sorted(path.name for path in folder.glob("*.abandoned")) == [
        "v000004_step000003.ckpt.abandoned",
        "v000005_step000004.ckpt.abandoned",
    ]


class Several(Line):
    """Two optimizers, used by hand."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:  # type: ignore[override]
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [AdamW([self.layer.weight], lr=0.01), SGD([self.layer.bias], lr=0.01)]


def test_several_optimizers_used_by_hand_are_saved_and_gone_on_with(folder: Path) -> None:
    straight, resumed = Several(), Several()
    resumed.load_state_dict(straight.state_dict())
    trainer_in(folder.parent, steps=12, enable_checkpointing=False).fit(straight, batches())
    fit(folder, model=resumed, steps=6)
    assert steps_in(folder) == [2, 4, 6], "a batch is two steps"
    with pytest.raises(ResumeMismatchError, match="AdamW of 1 weights and SGD of 1 weights, but this run has AdamW of 2 weights"):
        fit(folder, steps=8, ckpt_path="last")
    saving = fit(folder, model=resumed, steps=8, ckpt_path="last")
    assert saving.versions()[-1].step == 8


class Bare(LightningModule):
    """No validation, nothing logged, no hyper-parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 2)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.01)


def test_a_module_that_logs_nothing_keeps_its_newest_versions(folder: Path) -> None:
    saving = fit(folder, model=Bare(), steps=4, monitor="val/loss", newest=2)
    assert steps_in(folder) == [3, 4]
    assert (saving.best_model_path, saving.best_model_score) == ("", None)
    fit(folder, model=Bare(), steps=5, ckpt_path="last")
    assert steps_in(folder)[-1] == 5


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"overfit_batches": 2, "max_epochs": 2, "max_steps": -1}, [2, 3, 4]),
        ({"max_epochs": 1, "max_steps": -1, "limit_train_batches": 3}, [1, 2, 3]),
    ],
)
def test_the_trainers_own_options_are_no_obstacle(options: Mapping[str, Any], steps: list[int], folder: Path) -> None:
    fit(folder, trainer=options)
    assert steps_in(folder) == steps


def test_a_fast_dev_run_leaves_nothing_behind(folder: Path) -> None:
    fit(folder, trainer={"fast_dev_run": True})
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize("option", [{"enable_checkpointing": False}, {"barebones": True, "enable_progress_bar": None}])
def test_a_trainer_that_is_to_keep_nothing_says_so_itself(option: Mapping[str, Any], folder: Path) -> None:
    saving = checkpoint_in(folder)
    quiet = {"default_root_dir": folder.parent, "accelerator": "cpu", "max_steps": 2, "logger": False, "callbacks": [saving]}
    with pytest.raises((MisconfigurationException, ValueError), match=r"checkpoint"):
        Trainer(**{**quiet, **option})


def test_a_trainer_without_anything_else_uses_its_own_folder(folder: Path) -> None:
    saving = VersionedCheckpoint(every_n_train_steps=1, after_validation=False)
    trainer_in(folder.parent, saving, steps=1).fit(Line(), batches())
    assert Path(str(saving.dirpath)) == folder
    assert steps_in(folder) == [0, 1]
