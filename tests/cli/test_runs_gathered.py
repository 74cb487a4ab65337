"""A search and a protocol of stages are no runs; ``runs show`` knows them by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from musictrain.runs import RunFolder
from musictrain.search.definition import Definition, Objective, Rule
from musictrain.search.folder import SearchFolder
from musictrain.search.ledger import FINISHED, LedgerWriter, Record
from musictrain.stages.folder import ProtocolFolder
from musictrain.stages.state import FINISHED as DONE
from musictrain.stages.state import Record as StageRecord
from musictrain.stages.state import State, write_state
from tests.cli.tiny import type_command
from tests.runs.some_runs import losses, write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A search of two trials, and a protocol of which one stage is done, one goes on and one is to come."""
    runs_dir = tmp_path / "runs"
    folder = SearchFolder(runs_dir / "rates")
    folder.path.mkdir(parents=True)
    definition = Definition("rates", grid=({"x": (1.0, 2.0)},), seeds=(0,), objectives=(Objective(),), rule=Rule("none", 3, (10,)))
    folder.definition.write_text(json.dumps(definition.told()))
    with LedgerWriter(folder.trials) as ledger:
        for x in (1.0, 2.0):
            ledger.write(Record(f"{x:.0f}" * 64, {"x": x}, 0, f"rates-{x:.0f}", FINISHED, 10, {"val/loss": x / 4}))
            write_run(runs_dir, f"rates-{x:.0f}", losses(x / 4), state="finished")
    best = {"metric": "val/loss", "value": 0.5, "step": 300}
    write_run(runs_dir, "day-1", losses(0.5), state="finished", step=400, total=400, best=best)
    write_run(runs_dir, "day-2", losses(0.5), state="training", step=1200, total=2000, updated=4e9)
    write_run(runs_dir, "day-0", losses(0.5), state="finished")
    protocol = ProtocolFolder(runs_dir / "two-days")
    protocol.path.mkdir()
    protocol.protocol.write_text("stages: [{name: morning}, {name: noon}, {name: evening}]\n")
    begun = (StageRecord("morning", "day-1", state=DONE), StageRecord("noon", "day-2", started_from="day-1@best"))
    write_state(protocol.state, State(begun, (StageRecord("morning", "day-0"),)))
    return runs_dir


def show(capsys: Any, runs: Path, *words: Any) -> str:
    status, out, err = type_command(capsys, "runs", "show", *words, "--runs", runs)
    assert (status, err) == (0, "")
    return str(out)


def test_a_search_is_told_as_the_search_tells_itself(capsys: Any, runs: Path) -> None:
    first, _, rest = show(capsys, runs, "rates").partition("\n")
    assert first == "rates is a search; its trials are runs. The same: musictrain search --show rates"
    assert type_command(capsys, "search", "--show", "rates", "--runs", runs)[1] == rest
    assert rest.startswith("rates: finished, 2 points, 2 of 2 trials")
    record = json.loads(show(capsys, runs, runs / "rates", "--json"))
    assert [point["values"]["x"] for point in record["points"]] == [1.0, 2.0]


def test_a_protocol_is_told_by_its_stages(capsys: Any, runs: Path) -> None:
    lines = show(capsys, runs, "two-days").splitlines()
    assert lines[0] == "two-days is a protocol of 3 stages, each of which is a run."
    assert [line.split() for line in lines[2:5]] == [
        ["morning", "finished", "400", "val/loss", "0.5", "day-1"],
        ["noon", "training", "1,200", "day-2"],
        ["evening", "to", "come"],
    ]
    assert lines[5:] == ["  replaced  morning: day-0"]
    told = json.loads(show(capsys, runs, "two-days", "--json"))
    assert [(stage["name"], stage["state"], stage.get("run")) for stage in told["stages"]] == [
        ("morning", "finished", "day-1"), ("noon", "training", "day-2"), ("evening", "to come", None),
    ]  # fmt: skip


def test_a_state_that_cannot_be_read_is_said(capsys: Any, runs: Path) -> None:
    ProtocolFolder(runs / "two-days").state.write_text("{")
    status, _, err = type_command(capsys, "runs", "show", "two-days", "--runs", runs)
    assert (status, "state.json cannot be read, so nobody knows what was done" in err) == (2, True)


def test_a_run_and_a_part_of_its_name_mean_the_run(capsys: Any, runs: Path) -> None:
    assert RunFolder(runs / "rates-1").is_run()
    assert show(capsys, runs, "rates-1").startswith("rates-1  finished")
    assert show(capsys, runs, "y-1").startswith("day-1  finished")
