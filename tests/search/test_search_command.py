"""``musictrain search`` from the command line to its table: what it asks fit, what it trains, what it says, and who may drive it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.checkpoints.lock import FolderLock
from musictrain.cli import search, search_checking
from musictrain.cli.commands import main
from musictrain.runs.processes import Slot
from musictrain.search import trial_job
from musictrain.search.resolving import Base
from musictrain.stages.merging import merged
from tests.cli.tiny import type_command
from tests.search.fake_trials import LAST, Ended, FakeTrials

CONFIG = {
    "seed_everything": 1,
    "trainer": {"max_steps": LAST, "val_check_interval": 3, "check_val_every_n_epoch": None},
    "model": {"class_path": "Small", "init_args": {"x": 0.0, "y": 1}},
}


class FakeReader:
    """In place of the parser of ``fit``: what is laid over one another."""

    seed_follows = True

    def __init__(self, base: Base, folder: Path) -> None:
        self.base: dict[str, Any] = yaml.safe_load(base.texts[0])

    def read(self, layer: Mapping[str, Any]) -> Mapping[str, Any]:
        found: Mapping[str, Any] = merged(self.base, layer)
        return found


class FakeCheck:
    """In place of the process that asks ``fit``: the same command, at once."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.instead: tuple[int, str] | None = None

    def __call__(self, words: Sequence[str], log: Path, variables: Mapping[str, str], *descriptors: int) -> Ended:
        self.asked.append(list(words))
        with log.open("a") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            if self.instead is not None:
                print(self.instead[1])
                return Ended(self.instead[0])
            return Ended(main(list(words)))


Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> FakeCheck:
    check = FakeCheck()
    monkeypatch.setattr(search, "launch", check)
    monkeypatch.setattr(search, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(search_checking, "Reader", FakeReader)
    return check


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> FakeTrials:
    fits = FakeTrials()
    monkeypatch.setattr(trial_job, "launch", fits)
    monkeypatch.setattr(trial_job, "LOOK_SECONDS", 0.01)
    return fits


@pytest.fixture
def type_search(tmp_path: Path, capsys: Any) -> Type:
    """Type ``search`` with a small configuration and a name."""
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(CONFIG))
    words = ["search", "--config", tmp_path / "base.yaml", "--name", "small", "--runs", tmp_path / "runs"]
    return lambda *more: type_command(capsys, *words, *more)


def test_a_search_trains_its_points_and_says_what_came_of_it(tmp_path: Path, check: FakeCheck, fits: FakeTrials, type_search: Type) -> None:
    status, out, err = type_search("--grid", "x=2.0,1.0,3.0", "--halving", "--rungs", "3")
    assert (status, err) == (0, "")
    assert "tries     3 points with 1 seed: 3 trials" in out
    assert sorted(map(len, fits.trained.values())) == [3, 3, LAST]
    assert "small: finished, 3 points, 3 of 3 trials" in out
    best = yaml.safe_load((tmp_path / "runs/small/best.yaml").read_text())
    assert best == {"point": {"x": 1.0}}
    assert len(check.asked) == 1


def test_the_same_command_asks_nothing_and_trains_nothing(check: FakeCheck, fits: FakeTrials, type_search: Type) -> None:
    type_search("--grid", "x=2.0,1.0")
    assert type_search("--grid", "x=2.0,1.0")[0] == 0
    assert (len(check.asked), len(fits.started)) == (1, 2)
    status, out, _ = type_search("--grid", "x=2.0,1.0,0.5")
    assert status == 0
    assert "3 of 3 trials" in out
    assert (len(check.asked), len(fits.started)) == (2, 3), "only what is missing"


def test_a_plan_trains_nothing(tmp_path: Path, check: FakeCheck, fits: FakeTrials, type_search: Type) -> None:
    status, out, _ = type_search("--grid", "x=2.0,1.0", "--seeds", "0,1", "--dry-run")
    assert status == 0
    assert "tries     2 points with 2 seeds: 4 trials, 36 steps in all" in out
    assert "x=1" in out
    status, out, _ = type_search("--grid", "x=2.0,1.0", "--json")
    told = json.loads(out)
    assert (told["steps"], [trial["point"]["model.init_args.x"] for trial in told["trials"]]) == (18, [2.0, 1.0])
    assert fits.started == []
    assert (check.asked, (tmp_path / "runs").exists()) == ([], False), "it leaves nothing"


def test_a_plan_of_more_points_leaves_a_search_as_it_was(tmp_path: Path, check: FakeCheck, fits: FakeTrials, type_search: Type) -> None:
    def stored() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "runs/small").rglob("*") if path.is_file()}

    type_search("--grid", "x=2.0,1.0")
    was = stored()
    status, out, _ = type_search("--grid", "x=2.0,1.0,0.5", "--dry-run")
    assert (status, "tries     3 points" in out) == (0, True)
    assert stored() == was


def test_what_fit_refuses_is_said_as_it_says_it(check: FakeCheck, fits: FakeTrials, type_search: Type) -> None:
    check.instead = (2, "noise\nerror: There is no key 'x'. Did you mean 'y'?")
    status, _, err = type_search("--grid", "x=2.0,1.0")
    assert (status, err) == (2, "error: There is no key 'x'. Did you mean 'y'?\n")
    check.instead = (1, "Traceback\nValueError: odd")
    status, _, err = type_search("--grid", "x=2.0,1.0")
    assert status == 1
    assert "ValueError: odd\n(all of it: " in err
    check.instead = (-9, "")
    assert "Interrupted before anything was trained." in type_search("--grid", "x=2.0,1.0")[2]
    assert fits.started == []


def test_a_search_that_cannot_be_meant_leaves_nothing_but_what_was_there(
    tmp_path: Path, check: FakeCheck, fits: FakeTrials, type_search: Type
) -> None:
    check.instead = (2, "error: There is no key 'x'. Did you mean 'y'?")
    assert type_search("--grid", "x=2.0,1.0")[0] == 2
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs/other").mkdir(parents=True)
    assert type_search("--grid", "x=2.0,1.0")[0] == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]
    check.instead = None
    assert type_search("--grid", "x=2.0,1.0")[0] == 0
    check.instead = (2, "error: x is no number")
    assert type_search("--grid", "x=2.0,1.0,none")[0] == 2
    assert (tmp_path / "runs/small/trials.jsonl").is_file(), "what was trained stays"


def test_points_that_nothing_tells_apart_are_told(check: FakeCheck, fits: FakeTrials, type_search: Type) -> None:
    assert "nothing tells them apart" not in type_search("--grid", "x=2.0,1.0")[1]
    fits.loss = lambda point, step: 1.0
    told = type_search("--grid", "x=4.0,3.0", "--name", "other")[1]
    assert "All 2 points have the very same val/loss: nothing tells them apart." in told


def test_two_drivers_do_not_share_a_search(tmp_path: Path, check: FakeCheck, fits: FakeTrials, type_search: Type) -> None:
    (tmp_path / "runs/small").mkdir(parents=True)
    lock = FolderLock(tmp_path / "runs/small")
    lock.acquire()
    try:
        status, _, err = type_search("--grid", "x=2.0,1.0")
    finally:
        lock.release()
    assert status == 1
    assert "Somebody else is at work on the search 'small'." in err
    assert (check.asked, fits.started) == ([], [])


def test_a_check_that_outlived_its_driver_is_waited_for(
    tmp_path: Path, check: FakeCheck, fits: FakeTrials, type_search: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs/small/running").mkdir(parents=True)
    other = Slot(tmp_path / "runs/small/running/check")
    other.take()
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        assert check.asked == []
        other.give()

    monkeypatch.setattr(search.time, "sleep", wait)
    assert type_search("--grid", "x=2.0,1.0")[0] == 0
    assert waited
    assert len(check.asked) == 1


def test_another_base_under_the_same_name_is_refused(tmp_path: Path, check: FakeCheck, fits: FakeTrials, type_search: Type) -> None:
    type_search("--grid", "x=2.0,1.0")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**CONFIG, "seed_everything": 5}))
    status, _, err = type_search("--grid", "x=2.0,1.0")
    assert status == 2
    assert "--name" in err
    assert len(fits.started) == 2
