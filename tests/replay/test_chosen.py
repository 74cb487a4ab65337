"""Which attempt made a step, which line of the records tells of it, and from which version it can be reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.storing import store
from musictrain.replay.chosen import (
    Attempt,
    ReplayError,
    attempt_of_step,
    attempts_of,
    began_elsewhere,
    decided_until,
    first_whole,
    recorded_until,
    said_at,
    seconds_per_step,
    versions_before,
)
from musictrain.runs import RunFolder
from musictrain.runs.rows import marker


def a_run(folder: Path, *lines: dict[str, Any]) -> RunFolder:
    run = RunFolder(folder / "run")
    run.path.mkdir(exist_ok=True)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def row(step: int, loss: float, time: float = 0.0, attempt: int = 1) -> dict[str, Any]:
    return {"time": time, "step": step, "epoch": 0, "attempt": attempt, "train/loss": loss}


def resumed(folder: Path) -> RunFolder:
    """Thirty steps; gone on from step 20 to 40; then from step 10 to 20."""
    return a_run(
        folder,
        *(marker(1, 0, 100.0), row(10, 3.0), row(20, 2.0), row(30, 1.0)),
        *(marker(2, 20, 200.0), row(30, 1.5, attempt=2), row(40, 0.5, attempt=2)),
        *(marker(3, 10, 300.0), row(20, 2.5, attempt=3)),
    )


def test_attempts_are_told_by_their_marks(tmp_path: Path) -> None:
    assert attempts_of(resumed(tmp_path).metrics) == [Attempt(1, 0, 100.0, 30), Attempt(2, 20, 200.0, 40), Attempt(3, 10, 300.0, 20)]


def test_records_without_marks_are_one_attempt(tmp_path: Path) -> None:
    assert attempts_of(a_run(tmp_path, row(5, 1.0)).metrics) == [Attempt(1, 0, 0.0, 5)]
    assert attempts_of(tmp_path / "nowhere.jsonl") == []


def test_a_step_is_the_last_attempt_s_that_made_it(tmp_path: Path) -> None:
    run = resumed(tmp_path)
    assert [attempt_of_step(run, step).number for step in (5, 10, 11, 20)] == [1, 1, 3, 3]
    assert [attempt_of_step(run, 25, number).number for number in (1, 2)] == [1, 2]


def test_a_step_that_was_withdrawn_is_pointed_to(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"has come to step 20, and step 35 is beyond that. Attempt 2 had: add --attempt 2"):
        attempt_of_step(resumed(tmp_path), 35)
    with pytest.raises(ReplayError, match="Attempt 2 of run run began after step 20: step 15 is an earlier one's"):
        attempt_of_step(resumed(tmp_path), 15, 2)
    with pytest.raises(ReplayError, match="no attempt 7; its attempts: 1, 2, 3"):
        attempt_of_step(resumed(tmp_path), 15, 7)


@pytest.mark.parametrize(
    ("step", "attempt", "line", "since", "loss"), [(10, 1, 10, 1, 3.0), (11, 1, 20, 11, 2.0), (25, 1, 30, 21, 1.0), (25, 2, 30, 21, 1.5),
                                                  (12, 3, 20, 11, 2.5), (40, 2, 40, 31, 0.5)]
)  # fmt: skip
def test_the_line_is_that_of_the_records_as_the_attempt_left_them(
    tmp_path: Path, step: int, attempt: int, line: int, since: int, loss: float
) -> None:
    run = resumed(tmp_path)
    recorded = recorded_until(run, step, attempt_of_step(run, step, attempt))
    assert (recorded.line, recorded.since, recorded.values["train/loss"]) == (line, since, loss)


def test_a_line_that_a_kill_kept_from_the_file_is_that_of_the_attempt_before(tmp_path: Path) -> None:
    # The version of step 15 knew of its line, and the resumed run wrote it down.
    lines = (marker(1, 0, 100.0), row(12, 3.0), marker(2, 15, 200.0), row(15, 2.0), row(18, 1.0, attempt=2))
    run = a_run(tmp_path, *lines)
    recorded = recorded_until(run, 14, attempt_of_step(run, 14))
    assert (recorded.attempt.number, recorded.line, recorded.since, recorded.values["train/loss"]) == (1, 15, 13, 2.0)
    # What came later is not its own.
    assert recorded_until(run, 16, attempts_of(run.metrics)[0]).line is None


def test_a_step_that_the_run_turned_back_from_has_left_no_row_and_is_known(tmp_path: Path) -> None:
    run = a_run(tmp_path, marker(1, 0, 100.0), row(10, 3.0), marker(2, 8, 200.0), row(10, 2.0, attempt=2))
    (run.path / "rollbacks.jsonl").write_text(json.dumps({"time": 150.0, "number": 1, "step": 14, "to": 8}) + "\n")
    run.events.write_text(json.dumps({"time": 150.1, "event": "rolled_back", "step": 14, "to": 8}) + "\n")
    assert attempt_of_step(run, 14, 1).number == 1
    with pytest.raises(ReplayError, match=r"has come to step 10, and step 14 is beyond that\. Attempt 1 had: add --attempt 1"):
        attempt_of_step(run, 14)


def test_a_step_after_the_last_line_has_none(tmp_path: Path) -> None:
    run = a_run(tmp_path, marker(1, 0, 1.0), row(10, 1.0))
    recorded = recorded_until(run, 12, attempts_of(run.metrics)[0])
    assert (recorded.line, recorded.since, recorded.values) == (None, 11, {})


def a_version(run: RunFolder, number: int, step: int, tags: str = "", kind: str = "full") -> Path:
    path = run.checkpoints / f"v{number:06d}_step{step:06d}{tags}.ckpt"
    path.parent.mkdir(exist_ok=True)
    store({"state_dict": {"weight": torch.zeros(3)}}, path, Seal("", 0, kind=kind, number=number, step=step))
    return path


def test_versions_are_the_nearest_first_whole_and_on_the_attempt_s_branch(tmp_path: Path) -> None:
    run = resumed(tmp_path)
    attempts = attempts_of(run.metrics)
    for number, (step, tags, kind) in enumerate(
        [(0, "", "full"), (10, "", "full"), (12, ".thin", "weights"), (14, "", "weights"), (16, "", "full"), (20, "", "full")], start=1
    ):
        a_version(run, number, step, tags, kind)

    def steps(step: int, attempt: int) -> list[int]:
        return [version.step for version in versions_before(run, step, attempts, attempts[attempt - 1])]

    assert steps(18, 3) == [16, 10, 0]
    assert steps(20, 3) == [16, 10, 0]
    assert steps(10, 1) == [0]
    # What was saved after step 10 is the third attempt's.
    assert steps(25, 1) == [10, 0]


def test_a_damaged_version_is_passed_over_and_said(tmp_path: Path) -> None:
    run = a_run(tmp_path, row(10, 1.0))
    a_version(run, 1, 2)
    damaged = a_version(run, 2, 5)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    found, reasons = first_whole(versions_before(run, 8, attempts_of(run.metrics), attempts_of(run.metrics)[0]))
    assert found is not None
    assert found.step == 2
    assert len(reasons) == 1
    assert reasons[0].startswith("v000002_step000005.ckpt is passed over")


def test_the_pace_is_the_middle_one_whatever_validations_took(tmp_path: Path) -> None:
    times = [(10, 100.0), (20, 105.0), (30, 190.0), (40, 195.0)]
    assert seconds_per_step(a_run(tmp_path, *(row(step, 1.0, time) for step, time in times))) == 0.5
    assert seconds_per_step(a_run(tmp_path, row(10, 1.0, 100.0))) is None


def test_a_run_that_went_on_from_another_s_version_is_known_by_its_first_mark(tmp_path: Path) -> None:
    assert began_elsewhere(a_run(tmp_path, marker(1, 70, 1.0), row(80, 1.0))) == 70
    assert began_elsewhere(a_run(tmp_path, row(80, 1.0))) == 0


def test_what_was_said_at_a_step_is_found_among_the_events(tmp_path: Path) -> None:
    run = a_run(tmp_path, row(10, 1.0))
    events = [{"event": "alert", "step": 7, "message": "high"}, {"event": "best", "step": 7}, {"event": "skipped", "step": 8}]
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    assert [event["message"] for event in said_at(run, 7)] == ["high"]
    assert [event["event"] for event in said_at(run, 8)] == ["skipped"]


def test_what_was_said_on_another_branch_is_not_said_of_this_one(tmp_path: Path) -> None:
    run = a_run(tmp_path, marker(1, 0, 1.0), row(10, 1.0), marker(2, 4, 11.0), row(10, 1.0), marker(3, 8, 21.0), row(10, 1.0))
    events: list[dict[str, Any]] = [
        {"time": 9.0, "event": "alert", "step": 7, "message": "spoiled"},
        {"time": 10.0, "event": "rolled_back", "step": 7, "to": 4},
        {"time": 12.0, "event": "alert", "step": 7, "message": "again"},
        {"time": 15.0, "event": "alert", "step": 9, "message": "told before the resume"},
    ]
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    first, second, third = attempts_of(run.metrics)
    assert [event.get("message", event["event"]) for event in said_at(run, 7, first)] == ["spoiled", "rolled_back"]
    assert [event["message"] for event in said_at(run, 7, second)] == ["again"]
    # A resume is no other branch: what was told before it is not told again.
    assert [event["message"] for event in said_at(run, 9, third)] == ["told before the resume"]


def test_decisions_of_a_curriculum_are_those_of_the_branch(tmp_path: Path) -> None:
    run = resumed(tmp_path)
    told = [(101.0, 5, 0.1), (102.0, 15, 0.2), (103.0, 25, 0.3), (201.0, 25, 0.4), (202.0, 35, 0.5), (301.0, 15, 0.6)]
    events = [
        {"time": time, "event": "curriculum", "step": step, "batch": step + 3, "count": step + 3, "competence": competence}
        for time, step, competence in told
    ]
    run.events.write_text("".join(json.dumps(event) + "\n" for event in [*events, {"time": 105.0, "event": "curriculum", "over": True}]))
    attempts = attempts_of(run.metrics)
    of_attempts = [[(count, competence) for _, competence, count in decided_until(run, each, attempts)] for each in attempts]
    assert of_attempts == [[(8, 0.1), (18, 0.2), (28, 0.3)], [(8, 0.1), (18, 0.2), (28, 0.4), (38, 0.5)], [(8, 0.1), (18, 0.6)]]
