"""A run that is killed at any file operation while it goes back ends, resumed, in the bits of one that was left in peace."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.verification import verify
from musictrain.runs import RunFolder
from musictrain.runs.rollbacks import FILE_NAME, read_rollbacks
from tests.checkpoints.exact_runs import MODULES, apart
from tests.checkpoints.fault_injection import Fault, Outcome, Say, folder_in_memory, run_in_child
from tests.rolling_back.going_back import RUN_OF_ITS_OWN, Spoiler, end_of, fit, never_met

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")

SHORT: dict[str, Any] = {"max_steps": 9, "saving": {"every_n_train_steps": 2}}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums come out the same, and no seed is left by another test, nor for the runs that all of these share."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PL_GLOBAL_SEED", raising=False)
        yield


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture(scope="module")
def straight(disk: Path) -> RunFolder:
    """What all must come to."""
    run = RunFolder(disk / "straight")
    never_met(run, MODULES["plain"](), (5, 5), **SHORT)
    return run


@pytest.fixture(scope="module")
def begun(disk: Path) -> RunFolder:
    """A run of four steps: two more, and it meets the bad batch; two more than that, and it asks to go back."""
    run = RunFolder(disk / "begun")
    fit(run, MODULES["plain"](), **{**SHORT, "max_steps": 4})
    return run


def go_on(folder: Path, say: Say) -> None:
    """What anybody would type after a kill."""
    spoiler = Spoiler(5, later=2, meanwhile=partial(say, "asks"))
    fit(RunFolder(folder), MODULES["plain"](), spoiler, ckpt_path="last", **SHORT)
    say("trained on " + " ".join(map(str, spoiler.seen)))


def killed_and_resumed(begun: RunFolder, folder: Path, at: int) -> tuple[Outcome, Outcome]:
    shutil.copytree(begun.path, folder)
    first = run_in_child(go_on, folder, Fault("SIGKILL", at))
    return first, run_in_child(go_on, folder)


def check(run: RunFolder, straight: RunFolder, first: Outcome, resumed: Outcome) -> None:
    where = f"killed before {first.operation}, operation {len(first.operations)}"
    assert resumed.ending == "finished", (where, resumed.error)
    assert apart(end_of(run), end_of(straight), ignore=RUN_OF_ITS_OWN) == [], where
    assert [(each.first, each.settled) for each in read_rollbacks(run.path / FILE_NAME)] == [(5, True)], where
    for version in list_versions(run.checkpoints):
        verify(version.path)
    asked = "asks" in first.said and "asks" not in resumed.said
    trained = next(line for line in resumed.said if line.startswith("trained")).split()[2:]
    assert not (asked and "5" in trained), where


POINTS = {
    "before it is written down": ("musictrain.rolling_back.requesting.ask", "before"),
    "once it is written down": ("musictrain.rolling_back.requesting.ask", "after"),
    "before the spoiled version is set aside": ("musictrain.checkpoints.version_folder.put_aside", "before"),
    "once it is set aside": ("musictrain.checkpoints.version_folder.put_aside", "after"),
    "before that is written down": ("musictrain.rolling_back.settling.settle", "before"),
    "once that is written down": ("musictrain.rolling_back.settling.settle", "after"),
    "before the Trainer begins anew": ("musictrain.rolling_back.fitting._renew", "before"),
    "before it fits again": ("musictrain.rolling_back.fitting._renew", "after"),
}


def dies_at(point: str, folder: Path, say: Say) -> None:
    """``go_on``, to be killed at a point of its way."""
    name, when = POINTS[point]
    with pytest.MonkeyPatch.context() as patch:
        module, _, function = name.rpartition(".")
        real = getattr(importlib.import_module(module), function)

        def die(*args: Any, **options: Any) -> None:
            if when == "after":
                real(*args, **options)
            say(f"dies {point}")
            os.kill(os.getpid(), signal.SIGKILL)

        patch.setattr(name, die)
        go_on(folder, say)


@pytest.mark.parametrize("point", [pytest.param(each, marks=pytest.mark.slow) if "before" in each else each for each in POINTS])
def test_a_kill(point: str, begun: RunFolder, straight: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(begun.path, run.path)
    first = run_in_child(partial(dies_at, point), run.path)
    assert first.said[-1] == f"dies {point}"
    check(run, straight, first, run_in_child(go_on, run.path))


CHANGES = frozenset({"write", "pwrite", "ftruncate", "link", "rename", "replace", "unlink", "mkdir"})


@pytest.fixture(scope="module")
def places(begun: RunFolder, disk: Path) -> list[int]:
    """Operations to be killed before: every one that changes the disk, and of the others, before which there lies what the next change
    will find, every ninth."""
    rehearsal = RunFolder(disk / "rehearsal")
    shutil.copytree(begun.path, rehearsal.path)
    operations = run_in_child(go_on, rehearsal.path).operations
    return [at for at, name in enumerate(operations, 1) if name in CHANGES or at % 9 == 0]


def check_kills(begun: RunFolder, straight: RunFolder, disk: Path, places: list[int]) -> tuple[set[str], int]:
    """Kill there, each time from the beginning; gives back at which kinds of operations, and how often after it was asked to go back."""
    struck, after = set[str](), 0
    for at in places:
        run = RunFolder(disk / f"killed_{at}")
        first, resumed = killed_and_resumed(begun, run.path, at)
        check(run, straight, first, resumed)
        struck.add(first.operation)
        after += "asks" in first.said
        shutil.rmtree(run.path)
    return struck, after


def test_some_kills(begun: RunFolder, straight: RunFolder, disk: Path, places: list[int]) -> None:
    struck, after = check_kills(begun, straight, disk, places[4::13])
    assert len(struck) >= 2
    assert after >= 3


@pytest.mark.slow
def test_a_kill_before_any_operation(begun: RunFolder, straight: RunFolder, disk: Path, places: list[int]) -> None:
    struck, after = check_kills(begun, straight, disk, places)
    assert {"open", "write", "fsync", "mkdir", "link", "replace", "unlink"} <= struck
    assert after >= 20
