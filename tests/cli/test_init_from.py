"""``fit --init_from``: a new run begins with what another has learned, says so, and goes on without it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
import yaml

from musictrain.callbacks import RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.averaging import save_average
from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.storing import load
from musictrain.cli.auto_resume import has_configuration
from musictrain.cli.exits import UsageError
from musictrain.cli.starting import OptimizerStart, begin_with, check_one_beginning, notes, source_of
from musictrain.data.tokenizers import MidiTokTokenizer, Tokenizer, VoiceGrid
from musictrain.datamodule import MusicDataModule
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import Constant
from musictrain.runs import RunFolder, list_runs
from musictrain.runs.lineage import Parent, parents_of
from tests.cli.tiny import tiny_config, type_command, write_config, write_corpus
from tests.tiny_runs import QUIET

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
VERSIONS = {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"every_n_train_steps": 1, "newest": 9}}
SILENT = {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}}
NAME = "2026-01-01_000000-old-calm-fugue"


def new_module(tokenizer: Tokenizer, seed: int = 5, **options: Any) -> MusicModule:
    torch.manual_seed(seed)
    network = Decoder(
        tokenizer.vocab_size, **{"d_model": 8, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "max_context": 128, **options}
    )
    return MusicModule(network, schedule=Constant())


def data(corpus: Path, tokenizer: Tokenizer | None = None) -> MusicDataModule:
    return MusicDataModule(str(corpus), tokenizer, window=32, batch_size=2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "frames.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A runs folder with one run of three steps, each of which is stored, and of which the second is the best."""
    folder = tmp_path_factory.mktemp("trained") / "runs" / NAME

    class Judge(lightning.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.log("val/loss", abs(2.0 - trainer.global_step))

    class Module(MusicModule):
        def _log_likelihood(self, prefix: str) -> None:
            """The judge says what is good."""

    torch.manual_seed(1)
    module = Module(
        Decoder(VoiceGrid().vocab_size, d_model=8, num_layers=1, num_heads=2, dropout=0.0, max_context=128), schedule=Constant()
    )
    config = yaml.safe_dump(tiny_config(corpus))
    callbacks = [Judge(), RunRecorder(config=config), VersionedCheckpoint(folder / "checkpoints", newest=9, config=config)]
    options = {**QUIET, "enable_checkpointing": True, "logger": False, "max_epochs": -1, "use_distributed_sampler": False}
    trainer = lightning.Trainer(**options, max_steps=3, val_check_interval=1, check_val_every_n_epoch=None, limit_val_batches=1,
                                callbacks=callbacks, default_root_dir=folder)  # fmt: skip
    trainer.fit(module, data(corpus))
    return folder.parent


@pytest.fixture
def runs_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy, to be changed at will."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def state(path: Path) -> dict[str, torch.Tensor]:
    return dict(load(path)["state_dict"])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def begun(text: Any, runs_dir: Path, tokenizer: Any = None, module: Any = None, **settings: Any) -> tuple[MusicModule, list[str], Any]:
    """A module that has begun with something, what is said of it, and what gives the optimizer its memory."""
    tokenizer = tokenizer or VoiceGrid()
    module = module or new_module(tokenizer)
    return module, *begin_with(source_of(str(text), runs_dir), module, SimpleNamespace(tokenizer=tokenizer, seed=3), settings)


# Which version


@pytest.mark.parametrize(
    ("text", "step"), [("old", 2), ("latest@", 2), ("old@best", 2), ("old@last", 3), ("old@2", 1), ("calm-fugue@v000001_step000000", 0)]
)
def test_which_version_can_be_said_and_the_best_is_meant(text: str, step: int, trained: Path) -> None:
    module, lines, callback = begun(text, trained)
    (version,) = [each for each in list_versions(trained / NAME / "checkpoints") if each.step == step]
    assert same(module.state_dict(), state(version.path))
    assert lines == [f"start {version.name} of {NAME}: {len(module.state_dict())} tensors"]
    assert callback is None


def test_a_file_is_one_too_wherever_it_lies(trained: Path, tmp_path: Path) -> None:
    version = list_versions(trained / NAME / "checkpoints")[1]
    copy = Path(shutil.copy(version.path, tmp_path / "copy.ckpt"))
    narrow = VoiceGrid(40, 84)
    for path, run in ((version.path, RunFolder(trained / NAME)), (copy, None)):
        source = source_of(str(path), tmp_path)
        assert (source.run and source.run.path.resolve()) == (run and run.path.resolve())
        # A version tells with which tokenizer it was trained.
        module, lines, _ = begun(path, tmp_path, narrow)
        assert module.network.vocab_size == narrow.vocab_size
        assert "by the names of tokens" in lines[0]


def test_an_average_is_that_of_the_last_versions_or_the_one_that_is_stored(runs_dir: Path) -> None:
    versions = [each for each in list_versions(runs_dir / NAME / "checkpoints") if each.step]
    trees = [state(version.path) for version in versions]
    module, lines, _ = begun("old@average", runs_dir)
    assert same(module.state_dict(), {name: torch.stack([each[name].double() for each in trees]).mean(0).float() for name in trees[0]})
    assert lines[0].startswith(f"start average of {', '.join(version.name for version in versions)} of {NAME}: ")
    stored = save_average(runs_dir / NAME / "checkpoints", [version.path for version in versions[:2]])
    module, lines, _ = begun("old@average", runs_dir)
    assert same(module.state_dict(), state(stored))
    assert lines[0].startswith(f"start {stored.stem} of {NAME}")


# Which tokens


def test_another_range_of_pitches_goes_by_the_names_of_tokens(trained: Path) -> None:
    wide, narrow = VoiceGrid(), VoiceGrid(40, 84)
    module, lines, _ = begun("old@last", trained, narrow)
    there = state(list_versions(trained / NAME / "checkpoints")[-1].path)["network.embedding.weight"]
    at = {wide.token_name(token): token for token in range(wide.vocab_size)}
    rows = [at[narrow.token_name(token)] for token in range(narrow.vocab_size)]
    assert torch.equal(module.state_dict()["network.embedding.weight"], there[rows])
    assert "network.embedding.weight by the names of tokens; 172 dropped: Soprano_21, Soprano_22" in lines[0]
    with pytest.raises(
        UsageError, match=r"--init_vocabulary same: v.*trained with the tokenizer VoiceGrid.*or say --init_vocabulary extend"
    ):
        begun("old", trained, narrow, init_vocabulary="same")
    begun("old", trained, init_vocabulary="same")


def test_what_tokens_of_one_name_may_not_have_in_common_is_said(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, lines, _ = begun("old", trained, VoiceGrid(steps_per_beat=8))
    assert lines[1] == "start the tokenizers differ in steps_per_beat: tokens of one name may not mean the same"
    assert "differ in steps_per_beat" in caplog.text
    events = MidiTokTokenizer("TSD")
    _, lines, _ = begun("old", trained, events)
    assert lines[1].startswith(f"start of {events.vocab_size} tokens only 3 go by a name that was known")
    assert notes(VoiceGrid(), VoiceGrid(), None) == []


# What cannot be begun with


def test_what_is_not_there_or_does_not_fit_is_refused(trained: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="No run 'odl'"):
        source_of("odl", trained)
    with pytest.raises(UsageError, match="--init_from: There is no version or file 'v9'"):
        source_of("old@v9", trained)
    with pytest.raises(UsageError, match="is not a Lightning checkpoint: it holds no state_dict"):
        begun(tmp_path / "other.pt", trained)
    with pytest.raises(UsageError, match=r"v000003_step000002 of .* holds other weights than Decoder has: .* there and .* here"):
        begun("old", trained, module=new_module(VoiceGrid(), d_model=16))


def test_an_average_of_one_version_is_refused(runs_dir: Path) -> None:
    for version in list_versions(runs_dir / NAME / "checkpoints")[2:]:
        version.path.unlink()
    with pytest.raises(UsageError, match=r"There is no average of .*; 2 are needed\. Say @last or @best"):
        source_of("old@average", runs_dir)


@pytest.mark.parametrize(
    ("text", "path", "goes_on", "typed", "refused"),
    [
        ("old", None, False, True, False),
        (None, "v.ckpt", True, False, False),
        ("old", "v.ckpt", True, False, False),  # a run of its own that began so
        ("old", "v.ckpt", True, True, True),
        ("old", "v.ckpt", False, False, True),
    ],
)
def test_a_run_begins_with_one_thing(text: str | None, path: str | None, goes_on: bool, typed: bool, refused: bool) -> None:
    if not refused:
        check_one_beginning(text, path, goes_on=goes_on, typed=typed)
        return
    with pytest.raises(UsageError, match=r"v\.ckpt\) and --init_from old say what to begin with. To go on, leave --init_from out"):
        check_one_beginning(text, path, goes_on=goes_on, typed=typed)


def test_what_a_run_began_with_is_a_part_of_what_it_is(runs_dir: Path) -> None:
    """``--ckpt_path auto`` does not go on with a run that began otherwise."""
    run = RunFolder(runs_dir / NAME)
    config = yaml.safe_load(run.config.read_text())
    assert has_configuration(run, {**config, "init_from": None})
    assert not has_configuration(run, {**config, "init_from": "another"})
    run.config.write_text(yaml.safe_dump({**config, "init_from": "old"}))
    assert has_configuration(run, {**config, "init_from": "old"})
    assert not has_configuration(run, {**config, "init_from": "another"})


# A whole run


@pytest.fixture
def short(tmp_path: Path, corpus: Path) -> Path:
    """Two steps, each of which is stored."""
    config = tiny_config(corpus)
    config["trainer"] |= {"max_steps": 2, "val_check_interval": 2, "limit_val_batches": 1, "callbacks": [VERSIONS, SILENT]}
    config["model"]["init_args"]["schedule"] = {"class_path": "musictrain.optim.Constant"}
    return write_config(tmp_path / "short.yaml", config)


@pytest.mark.slow
def test_a_run_begins_so_with_its_optimizer_and_goes_on_without(capsys: Any, short: Path, runs_dir: Path) -> None:
    words = ["--runs", runs_dir, "--init_from", "old@2", "--init_optimizer", "true"]
    status, out, error = type_command(capsys, "fit", "--config", short, "--name", "next", *words)
    assert status == 0, error
    old, run = list_runs(runs_dir)
    (line,) = [line for line in out.splitlines() if line.startswith("start ")]
    assert line.startswith(f"start    v000002_step000001 of {NAME}: ")
    assert line.endswith(" tensors; and what its optimizer remembers")
    assert parents_of(run) == [Parent("started from", NAME, "v000002_step000001", 1)]
    assert yaml.safe_load(run.config.read_text())["init_from"] == "old@2"
    versions = list_versions(run.checkpoints)
    then, first, last = (load(path) for path in (list_versions(old.checkpoints)[1].path, versions[0].path, versions[-1].path))
    assert same(dict(then["state_dict"]), dict(first["state_dict"]))
    states = [each["optimizer_states"][0]["state"] for each in (then, first, last)]
    assert all(torch.equal(value, states[1][number][key]) for number, state in states[0].items() for key, value in state.items())
    assert [float(each[0]["step"]) for each in states] == [1.0, 1.0, 3.0]
    shutil.rmtree(old.path)
    status, out, error = type_command(capsys, "resume", run.name, "--runs", runs_dir, "--trainer.max_steps", "3")
    assert status == 0, error
    assert "\nstart " not in out
    assert list_versions(run.checkpoints)[-1].step == 3
    assert len(parents_of(run)) == 1


@pytest.mark.slow
def test_what_does_not_fit_leaves_no_run_behind(capsys: Any, short: Path, runs_dir: Path) -> None:
    typed = ["--runs", runs_dir, "--init_from", "old", "--model.network.d_model", "16"]
    status, _, error = type_command(capsys, "fit", "--config", short, *typed)
    assert status == 2
    assert "holds other weights than Decoder has: network.embedding.weight has the shape" in error
    assert len(list_runs(runs_dir)) == 1


def test_the_memory_of_another_optimizer_is_refused_before_the_first_step(trained: Path, corpus: Path, tmp_path: Path) -> None:
    module, _, callback = begun("old", trained, init_optimizer=True)
    assert isinstance(callback, OptimizerStart)
    module.optimizer_factory = torch.optim.SGD
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(**QUIET, max_steps=1, logger=False, callbacks=[callback], default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=r"was trained by AdamW of .* and this run has SGD"):
        trainer.fit(module, data(corpus))
