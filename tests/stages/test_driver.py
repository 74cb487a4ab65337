"""The driver with processes that end at once: which it starts, what it writes down, and what it says; and who may drive."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from musictrain.checkpoints.lock import FolderLock
from musictrain.cli import stages_driving
from musictrain.runs import RunFolder
from musictrain.runs.labels import read_labels
from musictrain.runs.lineage import parents_of
from musictrain.runs.processes import Slot
from musictrain.runs.records import read_records
from musictrain.stages.state import write_state
from tests.cli.tiny import type_command
from tests.stages.fake_fits import FakeFits, write_protocol

Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> FakeFits:
    fits = FakeFits()
    monkeypatch.setattr(stages_driving, "launch", fits)
    monkeypatch.setattr(stages_driving, "LOOK_SECONDS", 0.0)
    return fits


@pytest.fixture
def stages(tmp_path: Path, capsys: Any) -> Type:
    """Type ``stages`` with the protocol of the test's folder."""
    return lambda *words: type_command(capsys, "stages", "--config", tmp_path / "protocol.yaml", "--runs", tmp_path / "runs", *words)


def state(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "runs" / "small" / "state.json").read_text())


def states(tmp_path: Path) -> list[tuple[str, str]]:
    return [(record["stage"], record["state"]) for record in state(tmp_path)["records"]]


def test_each_stage_is_a_run_of_its_own_of_the_protocol_and_all_is_done_once(fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    write_protocol(tmp_path, {}, {"config": {"model": {"init_args": {"width": 5}}}})
    status, out, err = stages()
    assert (status, err) == (0, "")
    assert [words[0] for words in fits.started] == ["fit", "fit"]
    assert states(tmp_path) == [("a", "finished"), ("b", "finished")]
    runs = [RunFolder(tmp_path / "runs" / name) for name in fits.folders]
    assert [run.name.split("-")[3:5] for run in runs] == [["small", "a"], ["small", "b"]]
    assert [parent.sentence() for run in runs for parent in parents_of(run)] == ["stage of small", "stage of small"]
    assert f"said by {runs[0].name}" in out
    assert "step 1/2" not in out, "the line over all stages takes the place of each one's own"
    assert "All 2 stages are done" in out
    events = read_records(tmp_path / "runs" / "small" / "events.jsonl")
    assert [(event["event"], event["stage"]) for event in events] == [("begun", "a"), ("finished", "a"), ("begun", "b"), ("finished", "b")]
    assert (stages()[0], len(fits.started)) == (0, 2), "typed again, nothing is left to do"


def test_fit_is_given_the_configuration_with_the_budget_in_it(fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    seen = []
    fits.ends = lambda fits, words: seen.append(yaml.safe_load(Path(words[2]).read_text())) or 0  # type: ignore[func-returns-value]
    write_protocol(tmp_path, {}, {"config": {"model": {"init_args": {"width": 5}}}, "budget": {"minutes": 1}})
    assert stages()[0] == 0
    assert [config["model"]["init_args"]["width"] for config in seen] == [3, 5]
    assert [config["trainer"]["max_steps"] for config in seen] == [10, -1]
    assert not list((tmp_path / "runs" / "small").glob("[ab].yaml")), "what may hold secrets is not kept"


def test_a_stage_that_failed_is_tried_again_in_its_folder_by_the_same_command(fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    fits.ends = lambda fits, words: 1 if len(fits.started) == 2 else 0
    write_protocol(tmp_path, {}, {}, {})
    status, out, _ = stages()
    assert (status, states(tmp_path)) == (1, [("a", "finished"), ("b", "begun")])
    assert "Stage 'b' has not ended. The same command goes on where it was." in out
    assert stages()[0] == 0
    assert [name.split("-")[4] for name in fits.folders] == ["a", "b", "b", "c"]
    assert fits.folders[1] == fits.folders[2]


def test_a_guard_ends_the_protocol_unless_it_may_go_on(fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    fits.ends = lambda fits, words: 3 if len(fits.started) == 1 else 0
    write_protocol(tmp_path, {}, {})
    status, out, _ = stages()
    assert (status, states(tmp_path)) == (3, [("a", "stopped")])
    assert "The protocol stops at stage 'a', which a guard has stopped: copies" in out
    assert (stages()[0], len(fits.started)) == (3, 1), "it stays stopped"
    write_protocol(tmp_path, {"go_on": True}, {})
    assert (stages()[0], states(tmp_path)) == (0, [("a", "stopped"), ("b", "finished")])


def test_what_has_begun_may_not_change_and_beginning_anew_keeps_the_runs(fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    write_protocol(tmp_path, {}, {}, {})
    assert stages()[0] == 0
    write_protocol(tmp_path, {}, {"budget": {"steps": 20}}, {})
    status, _, err = stages()
    assert (status, len(fits.started)) == (2, 3)
    assert "Stage 'b' is done, and its configuration has changed since: trainer.max_steps was 10, is 20" in err
    assert stages("--from", "b")[0] == 0
    assert [name.split("-")[4] for name in fits.folders] == ["a", "b", "c", "b", "c"]
    assert len(set(fits.folders)) == 5
    replaced = [record["run"] for record in state(tmp_path)["replaced"]]
    assert replaced == fits.folders[1:3]
    assert [read_labels(RunFolder(tmp_path / "runs" / name)).tags for name in fits.folders] == [(), ("replaced",), ("replaced",), (), ()]


def test_beginning_anew_that_was_interrupted_goes_on_when_typed_again(fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    write_protocol(tmp_path, {}, {}, {})
    assert stages()[0] == 0
    fits.ends = lambda fits, words: 1 if len(fits.started) == 5 else 0
    assert stages("--from", "b")[0] == 1
    assert stages("--from", "b")[0] == 0
    assert [name.split("-")[4] for name in fits.folders] == ["a", "b", "c", "b", "c", "c"]
    assert fits.folders[4] == fits.folders[5]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_driver_once_its_stage_has_ended(number: int, fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    def asked(fits: FakeFits, words: list[str]) -> int:
        os.kill(os.getpid(), number)
        return 128 + number

    fits.ends = asked
    write_protocol(tmp_path, {}, {})
    assert (stages()[0], states(tmp_path)) == (128 + number, [("a", "begun")])
    assert signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL)


def test_two_at_once_are_refused(fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    write_protocol(tmp_path, {})
    (tmp_path / "runs" / "small").mkdir(parents=True)
    lock = FolderLock(tmp_path / "runs" / "small")
    lock.acquire()
    try:
        status, _, err = stages()
    finally:
        lock.release()
    assert (status, fits.started) == (1, [])
    assert "Somebody else is at work on the protocol 'small'" in err
    assert stages()[0] == 0


def test_a_stage_that_has_outlived_its_driver_is_waited_for(
    fits: FakeFits, stages: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_protocol(tmp_path, {})
    (tmp_path / "runs" / "small").mkdir(parents=True)
    orphan = Slot(tmp_path / "runs" / "small" / "running")
    assert orphan.take() is not None
    looks = []

    def look(seconds: float) -> None:
        assert fits.started == [], "no second process beside it"
        looks.append(seconds)
        if len(looks) == 3:
            orphan.give()

    monkeypatch.setattr(stages_driving.time, "sleep", lambda seconds: look(seconds) if len(looks) < 3 else None)
    status, out, _ = stages()
    assert (status, len(looks)) == (0, 3)
    assert "The process of stage 'a' is still at work" in out


def test_a_lock_lives_as_long_as_the_process_that_was_given_it(tmp_path: Path) -> None:
    ours, read, write = Slot(tmp_path / "running"), *os.pipe()
    assert ours.take() is not None
    pid = os.fork()
    if pid == 0:
        os.read(read, 1)
        os._exit(0)
    ours.give(pid)
    assert Slot(tmp_path / "running").take() is None
    assert ours.owner() == pid
    os.write(write, b"x")
    os.waitpid(pid, 0)
    assert ours.owner() is None
    assert Slot(tmp_path / "running").take() is not None
    for end in (read, write):
        os.close(end)


def test_a_plan_trains_nothing_and_writes_nothing(fits: FakeFits, stages: Type, tmp_path: Path) -> None:
    write_protocol(tmp_path, {}, {"config": {"logger": {"api_key": "sk-very-secret-0123456789"}}})
    status, out, _ = stages("--dry-run")
    assert (status, fits.started, (tmp_path / "runs").exists()) == (0, [], False)
    assert "1  a  10 steps  from nothing  to come" in out
    assert "# b" in out
    assert "very-secret" not in out
    told = json.loads(stages("--json")[1])
    assert [stage["state"] for stage in told["stages"]] == ["to come", "to come"]
    assert stages()[0] == 0
    assert [stage["state"] for stage in json.loads(stages("--json")[1])["stages"]] == ["finished", "finished"]
    written = "".join(path.read_text() for path in (tmp_path / "runs" / "small").iterdir() if path.suffix in (".json", ".js", ".log"))
    assert "very-secret" not in written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stages: [", "cannot be read"),
        ("stages: [{name: a, extends: nowhere, budget: {steps: 1}}]", "neither an earlier stage nor a file nor a recipe"),
        ("stages: [{name: a, extends: folk, budgets: {steps: 1}}]", "unknown key 'budgets'. Did you mean 'budget'?"),
        ("stages: [{name: a, budget: {steps: 1}}]", "has neither model nor data"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(content: str, message: str, stages: Type, tmp_path: Path) -> None:
    (tmp_path / "protocol.yaml").write_text(content)
    status, _, err = stages()
    assert (status, (tmp_path / "runs").exists()) == (2, False)
    assert message in err


def test_a_protocol_that_is_not_there_is_answered_with_those_that_are(capsys: Any) -> None:
    status, _, err = type_command(capsys, "stages", "--config", "stages-folk-to-choral")
    assert status == 2
    assert "Did you mean 'stages-folk-to-chorales'?" in err


class Died(BaseException):
    """The driver was killed."""


@pytest.mark.parametrize("after", [False, True])
def test_a_driver_that_dies_at_any_write_is_followed_by_one_that_goes_on(
    after: bool, fits: FakeFits, stages: Type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_protocol(tmp_path, {}, {})
    writes = number_of_writes(stages, monkeypatch)
    assert writes >= 6, "at the start, after the check, and two for each stage"
    for number in range(writes):
        words = ("--name", f"again{number}")
        with monkeypatch.context() as patch:
            patch.setattr(stages_driving, "write_state", Deadly(number, after=after))
            with pytest.raises(Died):
                stages(*words)
        assert stages(*words)[0] == 0
        told = json.loads((tmp_path / "runs" / f"again{number}" / "state.json").read_text())
        assert [(record["stage"], record["state"]) for record in told["records"]] == [("a", "finished"), ("b", "finished")]
        folders = [path.name for path in (tmp_path / "runs").iterdir() if f"-again{number}-" in path.name]
        assert len(folders) == 2, "each stage has one run, however often it was begun"


class Deadly:
    """In place of ``write_state``: dies at the write of a number."""

    def __init__(self, number: int, *, after: bool) -> None:
        self.number, self.after, self.count = number, after, 0

    def __call__(self, *arguments: Any) -> None:
        self.count += 1
        if self.count - 1 == self.number and not self.after:
            raise Died
        write_state(*arguments)
        if self.count - 1 == self.number:
            raise Died


def number_of_writes(stages: Type, monkeypatch: pytest.MonkeyPatch) -> int:
    counting = Deadly(-1, after=False)
    with monkeypatch.context() as patch:
        patch.setattr(stages_driving, "write_state", counting)
        assert stages("--name", "counted")[0] == 0
    return counting.count
