"""A fit that is stopped by a signal or an error, at whatever place, goes on as if it had not been stopped."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.interruption import Interrupted
from tests.checkpoints.exact_runs import MODULES, At, Plain, Run, apart, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

STEPS = {"max_steps": 60, "max_epochs": -1, "val_check_interval": 4, "check_val_every_n_epoch": None}
WINDOWS = {**STEPS, "max_steps": 16, "val_check_interval": 3, "accumulate_grad_batches": 4}
PLACES = (
    "on_train_batch_start",
    "forward",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_batch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
)
ALONE = {"after_validation": False}
"""Saves for nothing but signals and errors."""


@pytest.fixture(scope="module", autouse=True)
def _alike() -> Iterator[None]:
    """One thread, and no seed that another test has left: before the whole runs are made, which are compared with all others."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        yield


@pytest.fixture(scope="module")
def whole_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    """Uninterrupted runs of each module and length."""
    folder = tmp_path_factory.mktemp("whole")
    pairs = itertools.product(("plain", "music"), ("steps", "windows"))
    return {(module, length): fit(folder / module / length, MODULES[module](), length) for module, length in pairs}


def fit(folder: Path, module: LightningModule, length: str, *callbacks: Callback, saving: Any = ALONE, **options: Any) -> Run:
    lengths = {"steps": STEPS, "windows": WINDOWS}[length]
    return train(folder, module, EMAWeightAveraging(decay=0.9), *callbacks, saving=saving, **lengths, **options)


def send(*signals: int) -> None:
    for signum in signals:
        os.kill(os.getpid(), signum)


def check_stop_and_go(folder: Path, whole: Run, module: str, length: str, at: At, signum: int = signal.SIGTERM, **options: Any) -> None:
    """Stop a fit by a signal, go on from its last version, and compare the end and all that was logged."""
    first = fit(folder, MODULES[module](), length, at, **options)
    assert at.done
    if isinstance(first.error, SystemExit):
        assert first.error.code == 128 + signum
        second = fit(folder, MODULES[module](), length, ckpt_path="last", **options)
        rows = first.rows + second.rows
    else:
        # The signal came in the last step, and the run was over.
        assert first.error is None
        second, rows = first, first.rows
    assert apart(whole.end, second.end) == []
    assert rows == whole.rows


@pytest.mark.parametrize(("number", "place"), enumerate(PLACES))
def test_a_run_stopped_anywhere_by_sigterm_goes_on_to_the_bit(number: int, place: str, whole_runs: Any, tmp_path: Path) -> None:
    saving = {"every_n_train_steps": 3} if place == "on_save_checkpoint" else ALONE
    module, length = (("plain", "steps"), ("music", "windows"))[number % 2]
    at = At(place, random.Random(place).randrange(1, 50), partial(send, signal.SIGTERM))
    check_stop_and_go(tmp_path, whole_runs[module, length], module, length, at, saving=saving)


@pytest.mark.slow
@pytest.mark.parametrize(("module", "length", "batches"), [("plain", "steps", 60), ("music", "windows", 56)])
def test_a_run_stopped_at_any_step_goes_on_to_the_bit(module: str, length: str, batches: int, whole_runs: Any, tmp_path: Path) -> None:
    chance = random.Random(length)
    for batch in range(1, batches):
        signum = chance.choice([signal.SIGTERM, signal.SIGINT])
        at = At(chance.choice(PLACES[:7]), batch, partial(send, signum))
        check_stop_and_go(tmp_path / str(batch), whole_runs[module, length], module, length, at, signum)


@pytest.mark.parametrize("place", ["forward", "on_validation_start", "on_train_epoch_end"])
def test_a_signal_in_the_last_step_finds_the_run_done(place: str, whole_runs: Any, tmp_path: Path) -> None:
    whole = whole_runs["plain", "steps"]
    run = fit(tmp_path, MODULES["plain"](), "steps", At(place, 60, partial(send, signal.SIGTERM)))
    assert run.rows == whole.rows
    assert apart(whole.end, run.end, ignore=["['loops']"]) == []


def test_control_c_stops_with_130(whole_runs: Any, tmp_path: Path) -> None:
    at = At("forward", 23, partial(send, signal.SIGINT))
    check_stop_and_go(tmp_path, whole_runs["plain", "steps"], "plain", "steps", at, signal.SIGINT)


def test_a_second_signal_stops_at_once_and_saves_nothing(whole_runs: Any, tmp_path: Path) -> None:
    first = fit(tmp_path, MODULES["plain"](), "steps", At("forward", 23, partial(send, signal.SIGINT, signal.SIGTERM)))
    assert isinstance(first.error, Interrupted)
    assert first.error.code == 143
    assert [version.step for version in first.versions] == [0]
    second = fit(tmp_path, MODULES["plain"](), "steps", ckpt_path="last")
    assert apart(whole_runs["plain", "steps"].end, second.end) == []
    assert second.rows == whole_runs["plain", "steps"].rows


def test_sigusr1_saves_and_goes_on(whole_runs: Any, tmp_path: Path) -> None:
    run = fit(tmp_path, MODULES["music"](), "windows", At("on_after_backward", 22, partial(send, signal.SIGUSR1)))
    assert run.error is None
    saved = {version.step: version.seal.reason for version in run.versions if version.seal}
    assert saved == {0: "start", 6: "signal", 16: "end"}
    assert apart(whole_runs["music", "windows"].end, run.end) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_the_handlers_of_before_are_back_after_a_fit_whether_it_was_stopped_or_not(signum: int, tmp_path: Path) -> None:
    handlers = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]
    run = fit(tmp_path, MODULES["plain"](), "steps", At("forward", 3, partial(send, signum)))
    assert isinstance(run.error, SystemExit) == (signum == signal.SIGTERM)
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == handlers


def test_a_signal_from_before_the_first_step_is_obeyed_after_it(whole_runs: Any, tmp_path: Path) -> None:
    at = At("on_train_start", 0, partial(send, signal.SIGTERM))
    check_stop_and_go(tmp_path, whole_runs["plain", "steps"], "plain", "steps", at)
    assert [version.step for version in list_versions(tmp_path)] == [0, 1, 60]


# Errors


class MishapError(Exception):
    """What went wrong."""


def go_wrong() -> None:
    raise MishapError("something")


SAVED_AFTER = {
    # Before the weights change, and everything but the batch itself is as after the step before.
    "on_train_batch_start": True,
    "forward": True,
    "on_before_backward": True,
    "on_after_backward": True,
    "on_before_optimizer_step": True,
    # From here on something may be half done.
    "optimizer_step": False,
    "on_train_batch_end": False,
    "on_validation_batch_end": False,
    "on_train_epoch_end": False,
    "on_train_epoch_start": True,
}


def check_error_and_go(folder: Path, whole: Run, place: str, batch: int) -> None:
    """Break a fit off by an error, go on from its last version, and compare the end and all that was logged."""
    first = fit(folder, Plain(batch_norm=False), "steps", At(place, batch, go_wrong))
    assert isinstance(first.error, MishapError)
    reasons = [version.seal.reason for version in first.versions if version.seal]
    assert reasons == (["start", "exception"] if SAVED_AFTER[place] else ["start"])
    second = fit(folder, Plain(batch_norm=False), "steps", ckpt_path="last")
    assert apart(whole.end, second.end) == []
    assert first.rows == whole.rows[: len(first.rows)]
    assert second.rows == whole.rows[len(first.rows) if SAVED_AFTER[place] else 0 :]


@pytest.mark.parametrize("place", SAVED_AFTER)
def test_after_an_error_what_is_whole_is_saved_and_gone_on_from_to_the_bit(place: str, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", Plain(batch_norm=False), "steps")
    for batch in (11, 25):
        # The last batch of an epoch, and the first after a validation.
        check_error_and_go(tmp_path / str(batch), whole, place, batch)


@pytest.mark.slow
def test_after_an_error_at_any_batch_a_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", Plain(batch_norm=False), "steps")
    places = [*SAVED_AFTER]
    for batch in range(2, 45):
        for turn in (0, 4, 7):
            place = places[(batch + turn) % len(places)]
            check_error_and_go(tmp_path / f"{batch} {place}", whole, place, batch)


def test_after_an_error_no_buffer_is_saved_that_the_forward_pass_has_changed(whole_runs: Any, tmp_path: Path) -> None:
    first = fit(tmp_path, MODULES["plain"](), "steps", At("on_before_backward", 9, go_wrong))
    assert isinstance(first.error, MishapError)
    assert [version.step for version in first.versions] == [0]
    first = fit(tmp_path, MODULES["plain"](), "steps", At("forward", 9, go_wrong), ckpt_path="last")
    assert [version.step for version in first.versions] == [0, 8]
    second = fit(tmp_path, MODULES["plain"](), "steps", ckpt_path="last")
    assert apart(whole_runs["plain", "steps"].end, second.end) == []


def test_inside_an_accumulation_window_no_error_is_saved_after(whole_runs: Any, tmp_path: Path) -> None:
    for batch, steps in ((22, [0]), (16, [0, 4])):
        # Batches 20 to 22 are the epoch's last window; 16 is the first of one.
        first = fit(tmp_path / str(batch), MODULES["music"](), "windows", At("forward", batch, go_wrong))
        assert isinstance(first.error, MishapError)
        assert [version.step for version in first.versions] == steps
        second = fit(tmp_path / str(batch), MODULES["music"](), "windows", ckpt_path="last")
        assert apart(whole_runs["music", "windows"].end, second.end) == []
