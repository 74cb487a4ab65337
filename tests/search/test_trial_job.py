"""A job brings its trial to a step, however often it is killed; what cannot be is told with its reason."""

from __future__ import annotations

import json
import math
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from musictrain.runs import RunFolder
from musictrain.runs.lineage import parents_of
from musictrain.runs.processes import Slot, launch
from musictrain.search import trial_job
from musictrain.search.definition import Objective
from musictrain.search.devices import Seat, devices_here
from musictrain.search.folder import SearchFolder
from musictrain.search.standing import disk_is_full, killed_by, last_words, rows_of, standing_of
from musictrain.search.trial_job import LOCK, Task, ask_to_end, train
from tests.checkpoints.small_versions import write_version
from tests.search.fake_trials import KILLED, LAST, FakeTrials, task_of, usual_loss


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchFolder:
    monkeypatch.setattr(trial_job, "LOOK_SECONDS", 0.01)
    return SearchFolder(tmp_path / "runs" / "small")


def run_of(task: Task) -> RunFolder:
    return RunFolder(Path(task.folder).parent / task.run)


def test_a_trial_begins_rests_and_goes_on_in_its_own_folder(folder: SearchFolder) -> None:
    fits = FakeTrials()
    task = task_of(folder, to_step=3)
    first = train(task, fits)
    assert (first.record.state, first.record.step, first.record.attempts) == ("reached", 3, 1)
    assert first.record.values == {"val/loss": usual_loss({"x": 1.0}, 3)}
    last = train(replace(task, to_step=LAST, attempts=1), fits)
    assert (last.record.state, last.record.step, last.record.attempts) == ("finished", LAST, 2)
    assert last.record.values == {"val/loss": usual_loss({"x": 1.0}, LAST)}
    assert [words[0] for words in fits.started] == ["fit", "resume"]
    assert fits.started[0][fits.started[0].index("--name") + 1] == task.run
    assert fits.trained == {task.run: [*range(1, LAST + 1)]}, "nothing is trained twice"
    assert [(parent.relation, parent.run) for parent in parents_of(run_of(task))] == [("trial of", "small")]
    assert {each["OMP_NUM_THREADS"] for each in fits.variables} == {"1"}


def test_what_has_been_done_is_read_and_not_done_again(folder: SearchFolder) -> None:
    task, fits = task_of(folder), FakeTrials()
    train(task, fits)
    again = train(task, fits)
    assert len(fits.started) == 1
    assert (again.record.state, again.record.attempts) == ("finished", 0), "nobody was there to see it ending"
    earlier = train(replace(task, to_step=3), fits)
    assert (earlier.record.state, earlier.record.step) == ("reached", 3)
    assert earlier.record.values == {"val/loss": usual_loss({"x": 1.0}, 3)}, "what came later does not help it"
    run_of(task).path.rename(folder.path.parent / "somebody-elses")
    assert train(replace(task, run="somebody-elses"), fits).record.state == "reused"


def test_a_trial_that_is_killed_goes_on_from_its_last_version(folder: SearchFolder) -> None:
    fates = iter([(2, -KILLED), (2, -KILLED), (5, -KILLED), (5, -KILLED), (5, -KILLED), None])
    fits = FakeTrials(fate=lambda run, before: next(fates))
    outcome = train(task_of(folder), fits)
    assert (outcome.record.state, outcome.record.step, outcome.record.attempts) == ("finished", LAST, 6)
    assert [*fits.trained.values()] == [[*range(1, LAST + 1)]]


def test_a_trial_is_no_rank_of_the_job_that_its_worker_is_one_of(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "SLURM_PROCID", "RANK", "WORLD_SIZE", "SLURM_JOB_END_TIME"):
        monkeypatch.setenv(name, "2")
    fits = FakeTrials()
    train(task_of(folder), fits)
    taken = {name for name, value in fits.variables[0].items() if not value}
    assert {"SLURM_NTASKS", "SLURM_PROCID", "RANK", "WORLD_SIZE"} <= taken
    assert "SLURM_JOB_END_TIME" not in fits.variables[0], "it saves before the job's time is up"


def test_what_is_set_to_nothing_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN_AWAY", "1")
    seen: dict[str, str] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: seen.update(options["env"]))
    launch(["doctor"], tmp_path / "log", {"TAKEN_AWAY": "", "GIVEN": "2"})
    assert "TAKEN_AWAY" not in seen
    assert seen["GIVEN"] == "2"


def test_a_trial_that_was_asked_to_end_by_others_has_not_failed(folder: SearchFolder) -> None:
    outcome = train(task_of(folder), FakeTrials(fate=lambda run, before: (4, 143)))
    assert (outcome.record.state, outcome.asked, outcome.record.attempts) == ("begun", True, 1)


def test_a_trial_that_is_killed_at_one_place_three_times_has_failed(folder: SearchFolder) -> None:
    fits = FakeTrials(fate=lambda run, before: (4, -KILLED))
    outcome = train(task_of(folder), fits)
    assert outcome.record.state == "failed"
    assert outcome.record.reason == "killed by signal 9 (SIGKILL): out of memory?, 3 times at step 4"
    assert outcome.record.attempts == 4, "the first one came to step 4"


def test_a_crash_is_told_with_what_was_said_last(folder: SearchFolder) -> None:
    outcome = train(task_of(folder), FakeTrials(fate=lambda run, before: (2, 1)))
    assert (outcome.record.state, outcome.record.attempts) == ("failed", 1)
    assert outcome.record.reason == "ValueError: it cannot be"


def test_a_trial_stopped_by_a_guard_has_failed(folder: SearchFolder) -> None:
    outcome = train(task_of(folder), FakeTrials(fate=lambda run, before: (6, 3)))
    assert (outcome.record.state, outcome.record.step) == ("failed", 6)
    assert outcome.record.reason == "stopped for its health: it loops"


def test_a_value_that_is_no_number_fails_its_trial(folder: SearchFolder) -> None:
    outcome = train(task_of(folder), FakeTrials(loss=lambda point, step: math.inf))
    assert outcome.record.state == "failed"
    assert outcome.record.reason == f"val/loss is not finite at step {LAST}"


def test_a_metric_that_is_not_logged_stops_all(folder: SearchFolder) -> None:
    outcome = train(task_of(folder, to_step=3, objectives=(Objective("val/lose"),)), FakeTrials())
    assert outcome.record.state == "begun"
    assert outcome.halt == "The search looks at 'val/lose', and it logged val/loss. Did you mean 'val/loss'?"


def test_a_full_disk_is_no_failure_of_the_trial(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trial_job, "add_parent", full)
    outcome = train(task_of(folder), FakeTrials())
    assert outcome.record.state == "begun"
    assert outcome.halt.startswith("The disk is full. On ")
    assert disk_is_full("OSError: [Errno 28] No space left on device: 'x'")
    assert not disk_is_full("OSError: [Errno 5] Input/output error")


def test_a_machine_that_does_not_see_the_runs_says_so(tmp_path: Path) -> None:
    task = task_of(SearchFolder(tmp_path / "here" / "small"))
    elsewhere = replace(task, folder=str(tmp_path / "nowhere" / "small"))
    assert "All machines of a search must see the folder of the runs under the same path" in train(elsewhere, FakeTrials()).halt
    assert not (tmp_path / "nowhere").exists()


def test_who_is_asked_to_end_begins_nothing(folder: SearchFolder) -> None:
    task, fits = task_of(folder), FakeTrials()
    ask_to_end(folder, task.stop, signal.SIGTERM)
    outcome = train(task, fits)
    assert outcome.asked
    assert outcome.record.state == "begun"
    assert fits.started == []
    assert train(replace(task, stop="another"), fits).record.state == "finished", "only those are meant that know this word"


SLEEPER = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print('up', flush=True); time.sleep(120)"


@contextmanager
def held_by_another(task: Task) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a trial, as one does whose driver has died."""
    run_of(task).path.mkdir(parents=True)
    slot = Slot(run_of(task).path / LOCK)
    descriptor = slot.take()
    assert descriptor is not None
    process = subprocess.Popen([sys.executable, "-c", SLEEPER], pass_fds=(descriptor,), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        slot.give(process.pid)
        yield process
    finally:
        process.kill()
        process.wait(60)


def test_a_job_waits_for_a_process_that_outlived_its_driver(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    task, fits = task_of(folder), FakeTrials()
    with held_by_another(task) as process:
        waited: list[float] = []

        def end_it(seconds: float) -> None:
            waited.append(seconds)
            assert fits.started == [], "nobody begins beside it"
            if len(waited) == 3:
                process.kill()
                process.wait(60)

        monkeypatch.setattr(trial_job.time, "sleep", end_it)
        assert train(task, fits).record.state == "finished"
    assert len(waited) >= 3


def test_what_is_asked_for_reaches_a_process_that_outlived_its_driver(folder: SearchFolder) -> None:
    task, fits = task_of(folder), FakeTrials()
    with held_by_another(task) as process:
        # Asked once the job waits: one that is asked before looks at nothing.
        ask_later = replace(task, stop="later")
        real = trial_job.TrialJob._prepare

        def prepare(job: trial_job.TrialJob) -> None:
            real(job)
            ask_to_end(folder, "later", signal.SIGTERM)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trial_job.TrialJob, "_prepare", prepare)
            outcome = train(ask_later, fits)
        assert process.wait(60) == 143
    assert outcome.asked
    assert fits.started == []


def test_a_task_and_what_comes_of_it_travel(folder: SearchFolder) -> None:
    task = task_of(folder)
    assert pickle.loads(pickle.dumps(task)) == task
    outcome = train(task, FakeTrials())
    assert pickle.loads(pickle.dumps(outcome)) == outcome


# What a run's folder tells.


def test_a_run_killed_between_its_last_version_and_its_word_is_done(folder: SearchFolder) -> None:
    task = task_of(folder)
    train(task, FakeTrials(fate=lambda run, before: (LAST, -KILLED) if before == 0 else (LAST, 0)))
    run = run_of(task)
    assert json.loads(run.status.read_text())["state"] == "training"
    told = standing_of(run, LAST)
    assert (told.ended, told.step) == (True, LAST)
    assert not standing_of(run, LAST + 1).ended


def test_a_row_that_a_kill_took_is_known_by_the_version(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text('{"time": 1.0, "step": 3, "val/loss": 0.5}\n')
    write_version(run.checkpoints, 1, 3, metrics={"val/loss": 0.7, "train/loss": 0.9})
    write_version(run.checkpoints, 2, 6, metrics={"val/loss": 0.25, "train/loss": 0.9})
    rows = rows_of(run)
    assert [(row["step"], row["val/loss"]) for row in rows] == [(3, 0.5), (6, 0.25)]


def test_the_last_words_are_the_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("error: an earlier one\n")
    place = log.stat().st_size
    with log.open("a") as out:
        out.write("Traceback\n  File x\ntorch.OutOfMemoryError: CUDA out of memory\nGo on with: musictrain resume\n")
    assert last_words(log, place) == "torch.OutOfMemoryError: CUDA out of memory"
    assert last_words(tmp_path / "none") == ""
    assert killed_by(15) == "killed by signal 15 (SIGTERM)"


# GPUs.


def test_trials_sit_on_different_gpus_before_they_share_one(tmp_path: Path) -> None:
    seats = [Seat(tmp_path, ["0", "1"]) for _ in range(4)]
    taken = [seat.take() for seat in seats]
    assert None not in taken
    assert [seat.device for seat in seats] == ["0", "1", "0", "1"]
    seats[1].give()
    again = Seat(tmp_path, ["0", "1"])
    assert again.take() is not None
    assert again.device == "1"
    for seat in (*seats, again):
        seat.give()


def test_without_a_gpu_nobody_sits(tmp_path: Path) -> None:
    seat = Seat(tmp_path, [])
    assert (seat.take(), seat.device) == (None, "")
    assert devices_here({}, tmp_path / "no-driver") == []
    assert devices_here({"CUDA_VISIBLE_DEVICES": ""}) == []
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    assert devices_here({}, tmp_path / "gpus") == ["0"]


def test_a_trial_sees_its_own_gpu_alone(folder: SearchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    fits = FakeTrials()
    train(task_of(folder), fits)
    assert fits.variables[0]["CUDA_VISIBLE_DEVICES"] == "5"
