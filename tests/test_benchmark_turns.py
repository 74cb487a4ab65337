"""Trainings that take turns, in threads and in forked ranks: nobody is left out, and nobody waits for one who fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fit_speed import paired, thirds
from benchmarks.turns import Turns, TurnsError

ROUNDS = 3


def taking_turns(turns: Turns, name: str, order: list[str]) -> None:
    for _ in range(ROUNDS):
        turns.next(name)
        order.append(name)
    turns.next(name)


def test_every_training_takes_a_step_in_every_round() -> None:
    turns, order = Turns(["ours", "theirs", "bare"]), []
    turns.run({name: lambda name=name: taking_turns(turns, name, order) for name in turns.seconds})
    assert order == ["ours", "theirs", "bare"] * ROUNDS
    assert [len(steps) for steps in turns.seconds.values()] == [ROUNDS] * 3
    assert [set(each) for each in turns.rounds(skip=1)] == [{"ours", "theirs", "bare"}] * (ROUNDS - 1)


def test_who_is_done_leaves_the_turns_to_the_others() -> None:
    turns, order = Turns(["short", "long"]), []

    def short() -> None:
        turns.next("short")
        order.append("short")

    turns.run({"short": short, "long": lambda: taking_turns(turns, "long", order)})
    assert order == ["short"] + ["long"] * ROUNDS


def test_the_failure_of_one_ends_all() -> None:
    turns, order = Turns(["well", "ill"]), []

    def ill() -> None:
        turns.next("ill")
        raise ValueError("no such network")

    with pytest.raises(ValueError, match="no such network"):
        turns.run({"well": lambda: taking_turns(turns, "well", order), "ill": ill})
    assert order == ["well"]
    with pytest.raises(TurnsError, match="Another training failed"):
        turns.next("well")


def test_a_hiccup_does_not_move_a_ratio() -> None:
    ours, theirs = [1.0, 2.0, 4.0, 2.0, 1.0], [1.5, 3.0, 6.0, 3.0, 1.5]
    assert paired(ours, theirs) == 1.5
    theirs[2] = 1000.0
    assert paired(ours, theirs) == 1.5
    assert thirds(ours, theirs) == [1.5, 1.5, 250.0]


FORKED = """
import json, os, sys
from pathlib import Path
from benchmarks.rank_groups import RankError, start

def train(turn, report, word):
    steps = sum(1 for _ in turn.batches(None))
    report.write_text(json.dumps({"rank": os.environ.get("RANK"), "word": word, "steps": steps}))

def fail(turn, report):
    turn.take()
    raise SystemExit(3)

folder = Path(sys.argv[1])
groups = [start("two", 2, train, "a", folder=folder), start("one", 1, train, "b", folder=folder)]
for _ in range(4):
    for group in groups:
        group.step()
print([[report["steps"] for report in group.finish()] for group in groups], [len(group.seconds) for group in groups])
failing = start("failing", 1, fail, folder=folder)
try:
    failing.step()
except RankError as error:
    print(error)
"""


def test_groups_of_ranks_take_the_steps_they_are_told_to(repository: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", FORKED, str(tmp_path)]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines() == ["[[4, 4], [4]] [4, 4]", "A rank of failing failed or hangs."]
