"""A search goes from round to round by what stands in its ledger; interrupted anywhere, the next driver ends it as an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from musictrain.cli.exits import CommandError, UsageError
from musictrain.cli.search_driving import Driver, Trials
from musictrain.cli.search_workers import Work, as_they_come, cluster_workers, local_workers
from musictrain.runs import RunFolder
from musictrain.runs.lineage import add_parent, parents_of
from musictrain.runs.records import read_records
from musictrain.search import trial_job
from musictrain.search.definition import Definition, Most, Objective
from musictrain.search.folder import SearchFolder
from musictrain.search.identity import identity_of
from musictrain.search.ledger import Ledger, read_ledger
from musictrain.search.plan import Round
from musictrain.search.reusing import REMEMBERED, identities_of_runs, runs_to_reuse
from musictrain.search.trial_job import Outcome, train
from tests.search.fake_trials import KILLED, LAST, FakeTrials, planned_of, search_of

XS = (5.0, 1.0, 4.0, 2.0, 3.0)


class Quiet:
    """Tells nobody, and remembers."""

    def __init__(self) -> None:
        self.rounds: list[tuple[int, int]] = []
        self.ended = 0

    def begin(self, ledger: Ledger, round: Round) -> None:
        self.rounds.append((round.step, len(round.jobs)))

    def look(self, ledger: Ledger) -> None:
        pass

    def take(self, outcome: Outcome) -> None:
        pass

    def end(self, ledger: Ledger, best: Any) -> None:
        self.ended += 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_job, "LOOK_SECONDS", 0.01)


def driver_of(tmp_path: Path, definition: Definition, fits: FakeTrials, teller: Quiet | None = None) -> Driver:
    folder = SearchFolder(tmp_path / "runs" / definition.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    trials = Trials(definition, folder, planned_of(definition), lambda job: [f"x={json.dumps(job.point.values['x'])}"], LAST)
    return Driver(trials, local_workers(definition.slots, partial(train, start=fits)), teller or Quiet())


def told(tmp_path: Path) -> dict[str, tuple[str, int, dict[int, dict[str, float]]]]:
    """State, step and values of each trial."""
    trials = read_ledger(tmp_path / "runs" / "small" / "trials.jsonl").trials.values()
    return {
        trial.last.identity: (trial.last.state, trial.step, {step: dict(values) for step, values in trial.at.items()}) for trial in trials
    }


def test_without_a_rule_every_point_is_trained_to_the_end(tmp_path: Path) -> None:
    fits, teller = FakeTrials(), Quiet()
    assert driver_of(tmp_path, search_of(XS, seeds=(0, 1)), fits, teller).run() == 0
    assert teller.rounds == [(LAST, 10)]
    assert teller.ended == 1
    assert sorted(map(len, fits.trained.values())) == [LAST] * 10
    assert {state for state, _, _ in told(tmp_path).values()} == {"finished"}


def test_survivors_go_on_from_their_own_versions(tmp_path: Path) -> None:
    fits, teller = FakeTrials(), Quiet()
    assert driver_of(tmp_path, search_of(XS, (3, 6, LAST), "halving"), fits, teller).run() == 0
    assert teller.rounds == [(3, 5), (6, 2), (LAST, 1)]
    assert sorted(map(len, fits.trained.values())) == [3, 3, 3, 6, LAST]
    assert all(steps == [*range(1, len(steps) + 1)] for steps in fits.trained.values())
    assert sorted(state for state, _, _ in told(tmp_path).values()) == ["finished", *["pruned"] * 4]
    best = max(fits.trained, key=lambda run: len(fits.trained[run]))
    assert json.loads((tmp_path / "runs" / best / "config.yaml").read_text()) == {"point": {"x": 1.0}}


def test_nothing_is_left_for_a_second_driver(tmp_path: Path) -> None:
    definition = search_of(XS, (3, LAST), "halving")
    driver_of(tmp_path, definition, FakeTrials()).run()
    before, fits, teller = told(tmp_path), FakeTrials(), Quiet()
    assert driver_of(tmp_path, definition, fits, teller).run() == 0
    assert (fits.started, teller.rounds, told(tmp_path)) == ([], [], before)


def test_a_value_that_is_added_is_all_that_is_trained(tmp_path: Path) -> None:
    driver_of(tmp_path, search_of(XS), FakeTrials()).run()
    fits = FakeTrials()
    assert driver_of(tmp_path, search_of([*XS, 0.5]), fits).run() == 0
    assert len(fits.started) == 1
    assert len(told(tmp_path)) == len(XS) + 1


def test_failed_trials_leave_the_rest_alone_and_are_tried_again_on_demand(tmp_path: Path) -> None:
    bad = planned_of(search_of(XS))[1].identity[:8]
    fits = FakeTrials(fate=lambda run, before: (2, 1) if run.endswith(bad) else None)
    assert driver_of(tmp_path, search_of(XS), fits).run() == 0
    failed = [trial.last for trial in read_ledger(tmp_path / "runs/small/trials.jsonl").trials.values() if trial.failed]
    assert [record.reason for record in failed] == ["ValueError: it cannot be"]
    assert [event["event"] for event in read_records(tmp_path / "runs/small/events.jsonl")].count("failed") == 1
    healed = FakeTrials()
    assert driver_of(tmp_path, search_of(XS), healed).run() == 0
    assert healed.started == []
    assert driver_of(tmp_path, search_of(XS), healed).run(retry_failed=True) == 0
    assert [words[0] for words in healed.started] == ["resume"]
    assert {state for state, _, _ in told(tmp_path).values()} == {"finished"}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_search_and_the_same_command_goes_on(tmp_path: Path, capsys: Any, number: int, status: int) -> None:
    definition, handler = search_of(XS, (3, LAST), "halving"), signal.getsignal(number)
    driver_of(tmp_path / "whole", definition, FakeTrials()).run()

    def fate(run: str, before: int) -> tuple[int, int] | None:
        if len(fits.started) == 3:
            os.kill(os.getpid(), number)
            return 2, 143
        return None

    fits = FakeTrials(fate=fate)
    assert driver_of(tmp_path, definition, fits).run() == status
    assert "The same command" in capsys.readouterr().out
    assert len(fits.started) < len(XS) + 1
    assert signal.getsignal(number) is handler, "it is given back"
    assert list((tmp_path / "runs/small/running").glob("stop*")) == []
    more = FakeTrials(trained=fits.trained)
    assert driver_of(tmp_path, definition, more).run() == 0
    assert told(tmp_path) == told(tmp_path / "whole")
    assert all(steps == [*range(1, len(steps) + 1)] for steps in fits.trained.values()), "nothing is trained twice"


def test_a_metric_that_no_trial_logs_ends_the_search_and_says_what_there_is(tmp_path: Path) -> None:
    definition = search_of(XS, (3, LAST), "halving")
    wrong = Definition(**{**vars(definition), "objectives": (Objective("val/lost"),)})
    fits = FakeTrials()
    with pytest.raises(CommandError, match=r"looks at 'val/lost', and it logged val/loss\. Did you mean 'val/loss'\?"):
        driver_of(tmp_path, wrong, fits).run()
    assert len(fits.started) < len(XS), "who is next is not begun"
    assert driver_of(tmp_path, definition, FakeTrials(trained=fits.trained)).run() == 0
    assert all(steps == [*range(1, len(steps) + 1)] for steps in fits.trained.values())


def test_trials_that_are_ended_from_outside_go_on_and_not_for_ever(tmp_path: Path) -> None:
    fits = FakeTrials(fate=lambda run, before: (2, 143) if before == 0 else None)
    assert driver_of(tmp_path, search_of(XS), fits).run() == 0
    assert all(steps == [*range(1, LAST + 1)] for steps in fits.trained.values())
    always = FakeTrials(fate=lambda run, before: (2, 143))
    with pytest.raises(CommandError, match="All trials are asked to end from outside, 3 times"):
        driver_of(tmp_path / "always", search_of(XS), always).run()
    assert {state for state, _, _ in told(tmp_path / "always").values()} == {"begun"}, "none of them has failed"


def test_a_search_ends_when_its_hours_are_over_and_goes_on_with_more(tmp_path: Path) -> None:
    definition = search_of(XS)
    short = Definition(**{**vars(definition), "most": Most(hours=1e-9)})
    fits = FakeTrials()
    with pytest.raises(CommandError, match="The 1e-09 hours of --most-hours are over"):
        driver_of(tmp_path, short, fits).run()
    assert len(fits.started) < len(XS)
    assert driver_of(tmp_path, definition, FakeTrials(trained=fits.trained)).run() == 0
    assert all(steps == [*range(1, LAST + 1)] for steps in fits.trained.values())


def test_a_driver_that_dies_between_an_end_and_its_record_reads_it(tmp_path: Path) -> None:
    definition = search_of(XS)
    driver_of(tmp_path, definition, FakeTrials()).run()
    ledger = tmp_path / "runs/small/trials.jsonl"
    whole = told(tmp_path)
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-2]) + lines[-2][:20])
    fits = FakeTrials()
    assert driver_of(tmp_path, definition, fits).run() == 0
    assert fits.started == []
    assert {key: (step, values) for key, (_, step, values) in told(tmp_path).items()} == {
        key: (step, values) for key, (_, step, values) in whole.items()
    }


def test_a_trial_killed_for_good_has_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    bad = planned_of(search_of(XS))[0].identity[:8]
    fits = FakeTrials(fate=lambda run, before: (2, -KILLED) if run.endswith(bad) else None)
    assert driver_of(tmp_path, search_of(XS), fits).run() == 0
    states = told(tmp_path)
    assert sorted(state for state, _, _ in states.values()) == ["failed", *["finished"] * 4]


# Runs that are there already.


def write_run(runs: Path, name: str, config: dict[str, Any], state: str, step: int = LAST) -> RunFolder:
    run = RunFolder(runs / name)
    run.path.mkdir(parents=True)
    run.config.write_text(json.dumps(config))
    run.status.write_text(json.dumps({"name": name, "state": state, "step": step}))
    return run


def read_config(path: Path) -> Any:
    return json.loads(path.read_text())


def test_runs_that_ended_are_reused_and_others_are_left_alone(tmp_path: Path) -> None:
    config = {"seed_everything": 1, "model": {"init_args": {"width": 3}}}
    identity = identity_of(config)
    write_run(tmp_path, "broken", config, "interrupted")
    write_run(tmp_path, "resting", config, "paused", 3)
    assert runs_to_reuse(tmp_path, {identity}, read_config) == {}
    trial = write_run(tmp_path, "trial", config, "paused", 6)
    add_parent(trial, "trial of", "another")
    assert runs_to_reuse(tmp_path, {identity}, read_config) == {identity: "trial"}
    write_run(tmp_path, "done", {**config, "name": "x"}, "finished")
    write_run(tmp_path, "else", {**config, "seed_everything": 2}, "finished")
    assert runs_to_reuse(tmp_path, {identity}, read_config) == {identity: "done"}
    assert runs_to_reuse(tmp_path, {"unknown"}, read_config) == {}


def test_a_configuration_is_read_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", {"seed_everything": 1}, "finished")
    known = identities_of_runs(tmp_path, read_config)
    assert known == {"a": identity_of({"seed_everything": 1})}

    def refuse(path: Path) -> Any:
        raise AssertionError("it was read before")

    assert identities_of_runs(tmp_path, refuse) == known
    assert identities_of_runs(tmp_path, refuse, ["a"]) == {}
    write_run(tmp_path, "b", {"seed_everything": 2}, "finished")
    assert identities_of_runs(tmp_path, read_config, ["a"]) == {"b": identity_of({"seed_everything": 2})}
    (tmp_path / "b" / "config.yaml").unlink()
    assert identities_of_runs(tmp_path, refuse) == known
    run.config.write_text(json.dumps({"seed_everything": 22}))
    assert identities_of_runs(tmp_path, read_config) == {"a": identity_of({"seed_everything": 22})}
    (tmp_path / REMEMBERED).write_text("[")
    assert identities_of_runs(tmp_path, read_config) == {"a": identity_of({"seed_everything": 22})}


def test_a_trial_of_another_search_gets_a_second_parent(tmp_path: Path) -> None:
    definition = search_of([1.0])
    driver_of(tmp_path, definition, FakeTrials()).run()
    trial = planned_of(definition)[0]
    run = RunFolder(tmp_path / "runs" / f"small-{trial.identity[:8]}")
    (tmp_path / "runs" / REMEMBERED).write_text(
        json.dumps({run.name: [run.config.stat().st_mtime_ns, run.config.stat().st_size, trial.identity]})
    )
    fits = FakeTrials()
    other = Definition(**{**vars(definition), "name": "other"})
    assert driver_of(tmp_path, other, fits).run() == 0
    assert fits.started == []
    record = read_ledger(tmp_path / "runs/other/trials.jsonl").trials[trial.identity].last
    assert (record.state, record.run) == ("reused", run.name)
    assert [parent.run for parent in parents_of(run)] == ["small", "other"]


# Workers.


def test_what_the_workers_raise_is_raised(tmp_path: Path) -> None:
    def broken(tasks: Sequence[Any]) -> Any:
        raise RuntimeError("the cluster is lost")

    with pytest.raises(RuntimeError, match="the cluster is lost"):
        list(as_they_come(Work(broken, 1), [], 0.01))


def test_a_cluster_that_is_not_there_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("musictrain.cli.search_workers.CONNECT_SECONDS", 1)
    with pytest.raises(CommandError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"), cluster_workers("tcp://127.0.0.1:9"):
        pass


def test_without_dask_there_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'musictrain\[cluster\]'"), cluster_workers("tcp://10.0.0.1:8786"):
        pass
