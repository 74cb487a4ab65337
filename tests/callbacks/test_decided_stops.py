"""A run that was killed after the validation that ended it, and before its end was written down, ends where it would have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from musictrain.callbacks import MusicalEarlyStopping, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.runs import RunFolder
from musictrain.runs.status import read_status
from musictrain.stopping import Guard
from tests.callbacks.test_musical_early_stopping import fit

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
LOSSES = [2.0, 1.0, 1.5, 1.25, 0.5, 0.25]
COPIES = [0.0, 0.0, 0.0, 0.75, 0.0, 0.0]


def stopping(by_guard: bool, patience: int = 2) -> MusicalEarlyStopping:
    guards = [Guard("val/copies", above=0.5, advice="Listen.")] if by_guard else []
    return MusicalEarlyStopping("val/loss", patience=9 if by_guard else patience, guards=guards)


def train(folder: Path, callback: MusicalEarlyStopping, *, resumed: bool = False) -> int:
    """The step at which the run has ended."""
    last = list_versions(folder / "versions")[-1].path if resumed else None
    callbacks = (RunRecorder(), callback, VersionedCheckpoint(folder / "versions"))
    return fit(folder, *callbacks, epochs=6, ckpt_path=last, loss=LOSSES, copies=COPIES).global_step


def as_if_killed(folder: Path) -> None:
    """Take from the events that the run has ended."""
    events = RunFolder(folder).events
    lines = events.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["event"] != "stopped"]
    assert len(kept) == len(lines) - 1
    events.write_text("\n".join(kept) + "\n", encoding="utf-8")


@pytest.mark.parametrize("by_guard", [True, False])
def test_what_was_decided_before_a_kill_stands(tmp_path: Path, by_guard: bool) -> None:
    whole = stopping(by_guard)
    assert train(tmp_path, whole) == 4
    as_if_killed(tmp_path)
    resumed = stopping(by_guard)
    assert train(tmp_path, resumed, resumed=True) == 4
    told = [(each.stop_reason, each.stop_advice, each.stopped_by_guard) for each in (whole, resumed)]
    assert told[0] == told[1]
    status = read_status(RunFolder(tmp_path).status)
    assert status is not None
    assert (status.state, status.step, status.reason) == ("stopped", 4, whole.stop_reason)


def test_a_run_that_has_ended_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    assert train(tmp_path, stopping(by_guard=True)) == 4
    assert train(tmp_path, stopping(by_guard=True), resumed=True) == 6


def test_a_larger_patience_takes_the_decision_back(tmp_path: Path) -> None:
    assert train(tmp_path, stopping(by_guard=False)) == 4
    as_if_killed(tmp_path)
    assert train(tmp_path, stopping(by_guard=False, patience=3), resumed=True) == 6
