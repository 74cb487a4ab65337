"""Whatever happens during a save, a removal, a thinning or an average: no broken version is picked, and nothing acknowledged is lost.

A version is acknowledged when the folder records it as saved. Every content that a power cut may leave is enumerated, see crash_states;
every file operation is tried as the last one before death, and as one that fails, see fault_injection.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from musictrain.checkpoints import disk
from musictrain.checkpoints.averaging import save_average
from musictrain.checkpoints.catalog import best_good, first_that_verifies, last_good, list_versions, version_path
from musictrain.checkpoints.checkpoint_io import REQUEST, CompressedCheckpointIO
from musictrain.checkpoints.disk import TEMPORARY
from musictrain.checkpoints.lock import LOCK
from musictrain.checkpoints.retention import Retention
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.storing import load
from musictrain.checkpoints.version_folder import VersionFolder
from tests.checkpoints.crash_states import MODELS, CrashState, Model, crash_states, materialize
from tests.checkpoints.disk_model import Recording
from tests.checkpoints.fault_injection import Fault, Outcome, Say, at_every_operation, folder_in_memory, run_here
from tests.checkpoints.recorder import Recorder
from tests.checkpoints.small_versions import tiny_tree, write_version

ERRORS = ("ENOSPC", "EIO", "EROFS", "EDQUOT", "EMFILE", "EFBIG", "MemoryError", "short write")
LOSSES = {1: 0.5, 2: 0.2, 3: 0.9, 4: 0.7, 5: 0.3}
STEPS_BEFORE = (1, 2)
METRIC = "val/loss"
AVERAGE = "average"
OPENED = "opened"
FEWEST_OPERATIONS = 4  # writes, where only these can fail


@dataclass(frozen=True)
class Case:
    """Something that is done to a folder in which versions 1 and 2 are durable.

    Args:
        steps: of the versions saved, in order.
        retention: what stays.
        average: whether the average of versions 1 and 2 is stored in the end.
    """

    steps: tuple[int, ...]
    retention: Retention
    average: bool = False


SAVE = Case((3,), Retention(newest=3))
CASES = {
    "save": SAVE,
    "prune": Case((3, 4), Retention(newest=1, best=1)),
    "thin": Case((3,), Retention(newest=1, best=1, every_n_steps=1, thin_after=1)),
    "average": Case((), Retention(), average=True),
}


def run(case: Case, folder: Path, promise: Say, io: CompressedCheckpointIO | None = None) -> None:
    """Do it as a fit does, through the background thread; whatever goes wrong on the disk, this goes on."""
    io = io or CompressedCheckpointIO()
    versions = VersionFolder(
        folder, case.retention, record=lambda event, **facts: promise(str(facts["step"])) if event == "saved" else None
    )
    versions.open()
    promise(OPENED)
    try:
        for step in case.steps:
            path, request = versions.request(Seal("", 0, step=step, metrics={METRIC: LOSSES[step]}))
            io.save_checkpoint(tiny_tree(step), path, {REQUEST: request})
            assert io.wait()
        if case.average:
            save_average(folder, [version.path for version in list_versions(folder)])
            promise(AVERAGE)
    finally:
        versions.close(wait_seconds=60.0)


def fault_of(folder: Path, promised: list[str]) -> str:
    """What is wrong with a folder after a crash, empty if nothing is."""
    steps = [*STEPS_BEFORE, *(int(each) for each in promised if each not in (OPENED, AVERAGE))]
    last, best = last_good(folder), best_good(folder, METRIC)
    if last is None or last.step < max(steps):
        return f"the last version is {last and last.name}, after step {max(steps)} was acknowledged"
    if not torch.equal(load(last.path)["state_dict"]["weight"], tiny_tree(last.step)["state_dict"]["weight"]):
        return f"{last.name} holds something else than was saved"
    if best is None or best.metric(METRIC) > min(LOSSES[step] for step in steps):
        return f"the best version is {best and best.name}, with steps {steps} acknowledged"
    if broken := [reason for version in list_versions(folder) for reason in first_that_verifies([version])[1]]:
        return f"a version is broken: {broken}"
    averages = [version for version in list_versions(folder) if version.seal is not None and version.seal.kind == "average"]
    if AVERAGE in promised and [load(each.path)["state_dict"]["weight"][0].item() for each in averages] != [1.5]:
        return f"the average was acknowledged, and there are {averages}"
    return ""


def go_on(folder: Path, io: CompressedCheckpointIO) -> str:
    """Start again in a folder after a crash and save once more; what is wrong then, empty if nothing is."""
    said: list[str] = []
    before = last_good(folder, set_aside=True)
    assert before is not None
    run(Case((5,), Retention(newest=2)), folder, said.append, io)
    if said != [OPENED, "5"]:
        return "after going on, nothing was saved"
    if wrong := fault_of(folder, said):
        return f"after going on, {wrong}"
    litter = [path.name for path in folder.iterdir() if path.name.startswith(TEMPORARY) or ".corrupt" in path.name]
    return f"after going on, {litter} lie around" if litter else ""


@pytest.fixture
def fresh_folder() -> Iterator[Callable[[], Path]]:
    """Gives folders with versions 1 and 2, each another one."""
    numbers = itertools.count()
    with folder_in_memory() as parent:
        for step in STEPS_BEFORE:
            write_version(parent / "before", step, step, metrics={METRIC: LOSSES[step]})
        yield lambda: Path(shutil.copytree(parent / "before", parent / f"run-{next(numbers)}"))


def record(case: Case, folder: Path) -> Recording:
    with Recorder(folder) as recorder:
        run(case, folder, lambda line: recorder.mark("promised", line))
    return recorder.recording


def states_of(recording: Recording, model: Model) -> list[CrashState]:
    """What a crash may leave; the lock's bytes, which only people read, do not make a state another one."""
    found: dict[object, CrashState] = {}
    for state in crash_states(recording, model):
        entries = tuple(entry for entry in state.entries if not entry.path.endswith(LOCK))
        found.setdefault((entries, state.marks), state)
    return list(found.values())


def faults(states: list[CrashState], check: Callable[[Path, list[str]], str]) -> list[tuple[int, str]]:
    """(point of the log, what is wrong) of every state that does not pass."""
    found = []
    with folder_in_memory() as parent:
        for number, state in enumerate(states):
            folder = materialize(state, parent / str(number))
            if wrong := check(folder, state.values("promised")):
                found.append((state.point, wrong))
            shutil.rmtree(folder)
    return found


def test_the_cases_do_what_they_are_called(fresh_folder: Callable[[], Path]) -> None:
    left = {}
    for name, case in CASES.items():
        folder = fresh_folder()
        run(case, folder, lambda line: None)
        left[name] = [(version.number, version.seal.kind if version.seal else "") for version in list_versions(folder)]
    assert left == {
        "save": [(1, "full"), (2, "full"), (3, "full")],
        "prune": [(2, "full"), (4, "full")],
        "thin": [(1, "weights"), (2, "full"), (3, "full")],
        "average": [(1, "full"), (2, "full"), (3, "average")],
    }


# Power cuts.


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_no_power_cut_breaks_or_loses_a_version(case: Case, model: Model, fresh_folder: Callable[[], Path]) -> None:
    states = states_of(record(case, fresh_folder()), model)
    assert len(states) > 30
    assert faults(states, fault_of) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_training_goes_on_after_every_power_cut(case: Case, fresh_folder: Callable[[], Path]) -> None:
    states = {state.entries: state for state in states_of(record(case, fresh_folder()), "any-order")}
    io = CompressedCheckpointIO()
    assert faults(list(states.values()), lambda folder, promised: go_on(folder, io)) == []


@pytest.mark.slow
def test_a_second_power_cut_while_training_goes_on_loses_nothing_either(fresh_folder: Callable[[], Path]) -> None:
    states = states_of(record(CASES["prune"], fresh_folder()), "any-order")
    again = Case((5,), Retention(newest=1))
    with folder_in_memory() as parent:
        for number, state in enumerate(states[::25]):
            recording = record(again, materialize(state, parent / str(number)))
            promised = state.values("promised")

            def fault_of_both(folder: Path, later: list[str], earlier: list[str] = promised) -> str:
                return fault_of(folder, [*earlier, *later])

            assert faults(states_of(recording, "any-order")[::5], fault_of_both) == []


def by_a_fit(run_folder: Path) -> None:
    run(SAVE, run_folder / "checkpoints", lambda line: None)


def by_a_fit_in_a_run_folder(run_folder: Path) -> None:
    run_folder.mkdir()  # what records the run was there first
    run(SAVE, run_folder / "checkpoints", lambda line: None)


def by_the_plugin(run_folder: Path) -> None:
    io = CompressedCheckpointIO()
    io.save_checkpoint(tiny_tree(3), run_folder / "checkpoints" / version_path(Path(), 1, 3).name)
    assert io.wait()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("save", [by_a_fit, by_a_fit_in_a_run_folder, by_the_plugin], ids=lambda save: save.__name__)
def test_the_first_version_is_not_lost_with_the_folder_made_for_it(save: Callable[[Path], None], model: Model) -> None:
    with folder_in_memory() as root, Recorder(root) as recorder:
        save(root / "run")
        recorder.mark("promised", "3")

    def fault_of_first(folder: Path, promised: list[str]) -> str:
        there = list((folder / "run").glob("checkpoints/v*.ckpt"))
        return "" if [load(path)["global_step"] for path in there] == [3] or not promised else f"it was promised, and there is {there}"

    assert faults(states_of(recorder.recording, model), fault_of_first) == []


@pytest.mark.parametrize("model", MODELS)
def test_a_file_that_is_written_over_is_the_old_one_or_the_new_one(model: Model) -> None:
    io = CompressedCheckpointIO()
    with folder_in_memory() as folder:
        io.save_checkpoint(tiny_tree(1), folder / "last.ckpt")
        assert io.wait()
        with Recorder(folder) as recorder:
            io.save_checkpoint(tiny_tree(2), folder / "last.ckpt")
            assert io.wait()
            recorder.mark("promised", "2")

    def fault_of_last(folder: Path, promised: list[str]) -> str:
        step = load(folder / "last.ckpt")["global_step"]
        return "" if step == 2 or (step == 1 and not promised) else f"it holds step {step}, promised: {promised}"

    assert faults(states_of(recorder.recording, model), fault_of_last) == []


def finish_without_sync(file: disk.HashedFile) -> str:
    file._spill(keep=0)
    return file._digest.hexdigest()


def commit_without_sync(temporary: Path, final: Path, *, replace: bool) -> None:
    temporary.rename(final)


@pytest.mark.parametrize(
    ("what", "how"), [("HashedFile.finish", finish_without_sync), ("commit", commit_without_sync)], ids=["of the file", "of the folder"]
)
@pytest.mark.parametrize("model", MODELS)
def test_a_missing_sync_would_be_noticed(
    what: str, how: object, model: Model, fresh_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"musictrain.checkpoints.disk.{what}", how)
    assert faults(states_of(record(SAVE, fresh_folder()), model), fault_of)


# Deaths and errors.


def faults_of_run(case: Case, folder: Path, outcome: Outcome, io: CompressedCheckpointIO) -> str:
    """What is wrong after a child with a fault in it has ended, empty if nothing is."""
    assert outcome.fault is not None
    saved = len([each for each in outcome.said if each not in (OPENED, AVERAGE)])
    ending = "killed" if outcome.fault.name == "SIGKILL" else "finished"
    may_raise = OPENED not in outcome.said or case.average
    if outcome.reached and outcome.ending != ending and not (may_raise and outcome.ending == "raised"):
        return f"it {outcome.ending}: {outcome.error}"
    if outcome.ending == "finished" and not outcome.fault.lasting and saved < len(case.steps) - 1:
        return f"one failure has cost {len(case.steps) - saved} versions"
    return fault_of(folder, list(outcome.said)) or go_on(folder, io)


def all_faults(case: Case, fault: Fault, fresh_folder: Callable[[], Path]) -> list[tuple[int, str, str]]:
    """(number of the operation, its name, what is wrong) for the fault before each operation of a case."""
    io = CompressedCheckpointIO()
    if fault.name == "SIGKILL":
        runs = at_every_operation(lambda folder, say: run(case, folder, say), fresh_folder, fault)
    else:
        # One thread for all runs: it ends with the program, not with its plugin.
        runs = at_every_operation(lambda folder, say: run(case, folder, say, io), fresh_folder, fault, run_here)
    found = []
    for number, (folder, outcome) in enumerate(runs, start=1):
        if wrong := faults_of_run(case, folder, outcome, io):
            found.append((number, outcome.operation, wrong))
        shutil.rmtree(folder)
    assert number > FEWEST_OPERATIONS
    return found


@pytest.mark.parametrize("fault", [Fault("SIGKILL"), Fault("ENOSPC", lasting=True)], ids=lambda fault: fault.name)
def test_death_or_a_full_disk_before_any_operation_of_a_save_loses_nothing(fault: Fault, fresh_folder: Callable[[], Path]) -> None:
    assert all_faults(SAVE, fault, fresh_folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_death_before_any_operation_loses_nothing(case: Case, fresh_folder: Callable[[], Path]) -> None:
    assert all_faults(case, Fault("SIGKILL"), fresh_folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_error_of_any_operation_loses_nothing(case: Case, name: str, lasting: bool, fresh_folder: Callable[[], Path]) -> None:
    assert all_faults(case, Fault(name, lasting=lasting), fresh_folder) == []
