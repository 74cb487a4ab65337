"""``tune``: Lightning's Tuner finds a learning rate and a batch size, and leaves everything as it was."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.utilities.memory import is_oom_error
from torch import Tensor, nn
from torch.utils.data import DataLoader

from musictrain.callbacks import RunRecorder
from musictrain.cli.exits import CommandError, UsageError
from musictrain.cli.run_defaults import default_callbacks
from musictrain.cli.tune import check, parser, told
from musictrain.cli.tuning import config_lines, find_batch_size, find_learning_rate
from musictrain.cli.tuning_curve import MEMORY, evened_out, single_losses, steepest
from musictrain.cli.tuning_memory import available_bytes, bounded_memory
from musictrain.datamodule import MusicDataModule
from musictrain.micro_batches import MicroBatches
from musictrain.models import Decoder
from musictrain.module import MusicModule
from tests.cli.tiny import tiny_config, type_command, write_config, write_corpus
from tests.tiny_runs import QUIET

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
OUT = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."


class Small(Decoder):
    """A network for which there is memory for so many rows."""

    room = 12

    def forward(self, tokens: Tensor, cache: Any = None) -> Tensor:
        if len(tokens) > self.room:
            raise RuntimeError(OUT)
        return super().forward(tokens, cache)


class Line(lightning.LightningModule):
    """Somebody's module with two parts that learn at unlike rates; knows nothing of musictrain."""

    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.slow, self.quick, self.number = nn.Linear(4, 4), nn.Linear(4, 1), optimizers
        self.automatic_optimization = optimizers == 1
        self.rates: list[list[float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.quick(self.slow(batch)) - 1.0).square().mean()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD([{"params": self.quick.parameters()}, {"params": self.slow.parameters(), "lr": 0.025}], lr=0.1)
        optimizer.register_step_post_hook(lambda made, *_: self.rates.append([group["lr"] for group in made.param_groups]))
        return optimizer if self.number == 1 else [optimizer, torch.optim.SGD(self.slow.parameters(), lr=0.1)]


class Numbers(lightning.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(list(torch.randn(64, 4, generator=torch.Generator().manual_seed(1))), batch_size=4)


class SizedNumbers(Numbers):
    batch_size = 3

    def train_dataloader(self) -> DataLoader:
        return DataLoader(list(torch.randn(64, 4)), batch_size=self.batch_size)


def parts(folder: Path, model: Any, datamodule: Any) -> Any:
    """What the command line builds."""
    options = {**QUIET, "default_root_dir": folder, "logger": False, "max_steps": 10**9, "max_epochs": -1}
    never = {"val_check_interval": 10**9, "check_val_every_n_epoch": None}
    return SimpleNamespace(model=model, datamodule=datamodule, trainer=lightning.Trainer(**options, **never))


@pytest.fixture
def music(tmp_path: Path) -> Any:
    data = MusicDataModule(str(write_corpus(tmp_path / "frames.json", pieces=8)), window=32, batch_size=4)
    torch.manual_seed(0)
    network = Small(data.vocab_size, d_model=8, num_layers=1, num_heads=2, dropout=0.0, max_context=128)
    return parts(tmp_path / "scratch", MusicModule(network, micro_batches=1), data)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# Batch size


def test_the_most_rows_that_fit_are_found_and_the_batch_is_not_divided(music: Any) -> None:
    before, position = weights(music.model), music.datamodule.position
    found = find_batch_size(music, 512)
    assert (found["found"], found["before"], found["why"]) == (8, 4, "16 do not fit into memory")
    assert same(weights(music.model), before)
    assert (music.datamodule.batch_size, music.datamodule.position) == (8, position)
    assert list((Path(music.trainer.default_root_dir)).glob("**/*.ckpt")) == []
    # Afterwards it is divided again.
    own = [part for part in vars(music.model).values() if isinstance(part, MicroBatches)]
    assert [type(part) for part in own] == [MicroBatches, MicroBatches]
    assert "train_dataloader" not in vars(music.datamodule)


def test_the_limit_is_obeyed_and_only_what_was_tried_is_called_found(music: Any) -> None:
    music.model.network.room = 10**6
    found = find_batch_size(music, 7)
    assert found["found"] == 4
    assert found["why"].startswith("the most that was tried (--max-batch-size 7)")


def test_no_more_rows_are_tried_than_an_epoch_has(music: Any) -> None:
    music.model.network.room = 10**6
    rows = music.datamodule.train_plan().windows.num_windows
    found = find_batch_size(music, 512)
    assert found["found"] in (32, 64)
    assert rows <= found["found"] < 2 * rows
    assert found["why"] == "more would be more than the corpus gives in an epoch"


def test_a_network_for_which_there_is_no_room_at_all_is_said_to_be_too_large(music: Any) -> None:
    music.model.network.room = 0
    with pytest.raises(CommandError, match="No batch size was found: not even one row fits"):
        find_batch_size(music, 512)


def test_anybodys_modules_have_a_batch_size_found(tmp_path: Path) -> None:
    found = find_batch_size(parts(tmp_path, Line(), SizedNumbers()), 4)
    assert found["found"] == 4
    with pytest.raises(UsageError, match=r"Numbers has no attribute batch_size that could be tried out\. Give it one"):
        find_batch_size(parts(tmp_path, Line(), Numbers()), 16)


@pytest.mark.skipif(available_bytes() is None, reason="this system does not tell how much memory there is")
def test_memory_runs_out_before_the_machine_does() -> None:
    """In a process of its own, which may have a thousandth of what is there."""

    def attempt() -> bool:
        with bounded_memory("cpu", share=0.001) as limit:
            assert limit is not None
            try:
                torch.empty(limit, dtype=torch.uint8)
            except RuntimeError as error:
                return is_oom_error(error)
        return False

    if (child := os.fork()) == 0:
        os._exit(7 if attempt() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with bounded_memory("cuda") as limit:
        assert limit is None


# Learning rate


def test_a_learning_rate_is_found_and_nothing_else_changes(tmp_path: Path) -> None:
    tuning = parts(tmp_path, Line(), Numbers())
    before = weights(tuning.model)
    found = find_learning_rate(tuning, 40, 1e-5, 1.0)
    assert 1e-4 < found["suggestion"] < 1.0
    assert found["suggestion"] in found["lr"]
    assert len(found["lr"]) == len(found["loss"]) == 40
    assert same(weights(tuning.model), before)
    assert found["drawn"].startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == []


def test_groups_keep_their_proportions_while_one_rate_grows(tmp_path: Path) -> None:
    tuning = parts(tmp_path, Line(), Numbers())
    found = find_learning_rate(tuning, 40, 1e-5, 1.0)
    assert found["note"].startswith("this is the rate of the first group")
    assert [rates[0] for rates in tuning.model.rates] == pytest.approx(found["lr"])
    assert all(slow == pytest.approx(0.25 * quick) for quick, slow in tuning.model.rates)


def test_the_single_losses_are_those_that_went_into_the_running_mean() -> None:
    losses, average, told = [5.0, 3.0, 4.0, 0.5, 0.25], 0.0, []
    for step, loss in enumerate(losses, start=1):  # as Lightning's callback does
        average = MEMORY * average + (1 - MEMORY) * loss
        told.append(average / (1 - MEMORY ** (step + 1)))
    assert single_losses(told) == pytest.approx(losses)


def test_a_curve_that_falls_late_has_its_rate_late() -> None:
    """Lightning would say 1e-5 of this one: the little noise there is at low rates is steep, counted by the rate itself."""
    rates = [10 ** (-6 + 6 * k / 99) for k in range(100)]
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    falls = [5 - 3 / (1 + (1e-2 / rate) ** 2) + each for rate, each in zip(rates, noise, strict=True)]
    place = steepest(rates, evened_out(falls))
    assert place is not None
    assert 5e-3 < rates[place] < 2e-2


def test_what_is_no_number_counts_for_no_neighbour() -> None:
    losses = [2.0] * 30 + [math.nan] + [2.0] * 10 + [math.inf]
    even = evened_out(losses)
    assert [place for place, each in enumerate(even) if math.isnan(each)] == [30, 41]
    assert even[29] == even[31] == pytest.approx(2.0)
    assert steepest(list(range(1, 43)), [math.nan] * 42) is None


def test_a_module_with_several_optimizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="only works with single optimizer"):
        find_learning_rate(parts(tmp_path, Line(optimizers=2), Numbers()), 20, 1e-5, 1.0)


# What is said


def test_the_lines_for_the_configuration_stand_where_it_has_its_place() -> None:
    found = {"batch_size": {"found": 8}, "lr": {"suggestion": 0.012345}}
    optimizer = {"class_path": "musictrain.optim.AdamW", "init_args": {"lr": 1.0}}
    config = {
        "model": {"class_path": "musictrain.MusicModule", "init_args": {"optimizer": optimizer, "z_loss": 0.0}},
        "data": {"class_path": "musictrain.MusicDataModule", "init_args": {"batch_size": 4}},
    }
    assert yaml.safe_load(config_lines(config, found)) == {
        "data": {"class_path": "musictrain.MusicDataModule", "init_args": {"batch_size": 8}},
        "model": {
            "class_path": "musictrain.MusicModule",
            "init_args": {"optimizer": {"class_path": "musictrain.optim.AdamW", "init_args": {"lr": 0.012}}},
        },
    }
    own = {"model": {"class_path": "own.Module", "init_args": {"learning_rate": 1.0}}}
    assert yaml.safe_load(config_lines(own, found)) == {"model": {"class_path": "own.Module", "init_args": {"learning_rate": 0.012}}}
    assert config_lines({}, found) == ""
    lines = told({"batch_size": {"found": 8, "why": "16 do not fit into memory"}, "config": "a: 1\n"})
    assert lines == ["batch size     8 rows: 16 do not fit into memory", "", "For your configuration:", "", "a: 1"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "tune needs a configuration: musictrain tune --config NAME-or-FILE"),
        (["--config", "x", "--min-lr", "1", "--max-lr", "0.1"], "from 1 to 0.1: the first must be above 0 and below the last"),
        (["--config", "x", "--lr", "--steps", "9"], "--steps 9: of so few learning rates none can be suggested"),
        (["--config", "x", "--ckpt_path", "y"], "with --init_from RUN it begins with the weights of a stored version"),
    ],
)
def test_what_cannot_work_is_answered_before_anything_is_imported(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check(*parser().parse_known_args(words))


@pytest.mark.parametrize(("finder", "option"), [(LearningRateFinder, "--lr"), (BatchSizeFinder, "--batch-size")])
def test_lightnings_finders_are_refused_in_a_run_and_the_command_is_named(finder: Any, option: str) -> None:
    with pytest.raises(ValueError, match=f"{finder.__name__} in trainer.callbacks: .*`musictrain tune --config NAME-or-FILE {option}`"):
        default_callbacks([finder()], {}, RunRecorder())


@pytest.mark.slow
def test_the_command_finds_both_and_leaves_nothing_but_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(write_corpus(tmp_path / "frames.json", pieces=8))
    config["trainer"]["accumulate_grad_batches"] = 2
    config["model"]["init_args"]["layer_decay"] = 0.5
    file, runs = write_config(tmp_path / "tiny.yaml", config), tmp_path / "runs"
    words = ["--steps", 24, "--max-batch-size", 4, "--picture", tmp_path / "out" / "lr.png", "--runs", runs, "--json"]
    status, out, error = type_command(capsys, "tune", "--config", file, *words)
    assert status == 0, error
    found = json.loads(out.splitlines()[-1])
    assert found["batch_size"]["found"] == 4
    assert len(found["lr"]["lr"]) == 24
    assert found["lr"]["rows"] == "steps of 8 rows"
    assert (tmp_path / "out" / "lr.png").read_bytes().startswith(b"\x89PNG")
    assert not runs.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"frames.json", "tiny.yaml", "out"}
    lines = yaml.safe_load(found["config"])
    assert lines["model"]["init_args"]["optimizer"]["init_args"] == {"lr": float(f"{found['lr']['suggestion']:.2g}")}


@pytest.mark.slow
def test_help_imports_no_lightning() -> None:
    script = "import sys; from musictrain.cli.commands import main; main(['tune', '--help']); sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, timeout=300).returncode == 0
