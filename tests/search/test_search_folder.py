"""Trials whose identities begin alike share nothing: neither a run nor a file, and each is known as its search's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from musictrain.search.folder import SearchFolder
from musictrain.search.ledger import FINISHED, SHORT, Ledger
from musictrain.search.plan import Planned, Round, next_round
from musictrain.search.points import Point
from musictrain.search.trial_job import train
from tests.search.fake_trials import FakeTrials, search_of, task_of

TWINS = ("8" * SHORT + "0" * 56, "8" * SHORT + "1" * 56)


def test_twins_have_files_of_their_own() -> None:
    folder = SearchFolder(Path("small"))
    assert folder.log(TWINS[0]) != folder.log(TWINS[1])
    assert folder.layer(TWINS[0]) != folder.layer(TWINS[1])


def test_twins_are_two_runs_and_both_the_searchs_own(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "small")
    planned = [Planned(Point({"x": x}), 0, identity) for x, identity in zip((1.0, 2.0), TWINS, strict=True)]
    now = next_round(search_of([1.0, 2.0]), planned, Ledger())
    assert isinstance(now, Round)
    tasks = [replace(task_of(folder, job.point.values["x"]), identity=job.identity, run=job.run) for job in now.jobs]
    fits = FakeTrials()
    values = [train(task, fits).record.values["val/loss"] for task in tasks]
    assert values[1] == values[0] + 1
    assert sorted(fits.trained) == ["small-88888888", "small-8888888811111111"]
    # Whoever sees them for the first time, and starts nothing, knows that they are no others' runs.
    assert [train(task, fits).record.state for task in tasks] == [FINISHED] * 2
    assert len(fits.started) == 2
