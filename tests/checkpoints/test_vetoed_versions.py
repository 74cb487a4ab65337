"""A vetoed version is healthy, is kept and gone on from like any other, and is never called best."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from musictrain.checkpoints.averaging import save_average
from musictrain.checkpoints.catalog import best_versions, version_path
from musictrain.checkpoints.retention import Retention, decide
from musictrain.checkpoints.seal import Seal, read_seal, seal_comment, seal_of_comment
from musictrain.checkpoints.storing import store
from musictrain.checkpoints.trainer_state import veto_of
from musictrain.cli.checkpoint_looking import rows_of
from tests.checkpoints.some_versions import numbers, version


def test_best_passes_over_it_and_nothing_else_does() -> None:
    versions = [version(1, loss=0.3), version(2, loss=0.1, vetoed="it loops"), version(3, loss=0.2), version(4, loss=0.4)]
    assert numbers(best_versions(versions, "val/loss")) == [3, 1, 4]
    assert versions[1].good
    assert versions[1].resumable
    assert numbers(decide(versions, Retention(newest=1, best=1)).keep) == [3, 4]
    assert numbers(decide(versions[:2], Retention(newest=1, best=1)).keep) == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=8))
def test_a_veto_changes_the_ranks_of_no_other(made: list[tuple[int, bool]]) -> None:
    versions = [version(number, loss=float(loss), vetoed="why" if vetoed else "") for number, (loss, vetoed) in enumerate(made, 1)]
    free = [version(number, loss=float(loss)) for number, (loss, _) in enumerate(made, 1)]
    expected = [number for number in numbers(best_versions(free, "val/loss")) if not made[number - 1][1]]
    assert numbers(best_versions(versions, "val/loss")) == expected


def test_the_seal_keeps_the_reason_and_one_without_has_no_word_of_it() -> None:
    seal = Seal("ab", 1, vetoed="val/copy_excess is 0.3, above 0.1 (bars 3-6 are bars 1-4 of bwv1.6)")
    assert seal_of_comment(seal_comment(seal)) == seal
    assert seal.healthy
    assert "vetoed" not in Seal("ab", 1).as_json()


def test_an_average_is_judged_by_its_own_music(tmp_path: Path) -> None:
    paths = [version_path(tmp_path, number, 10 * number) for number in (1, 2)]
    for number, path in enumerate(paths, start=1):
        facts = Seal("", 0, number=number, step=10 * number, vetoed="it loops", metrics={"val/loss": 0.5})
        store({"state_dict": {"a": torch.tensor([float(number)])}, "global_step": 10 * number}, path, facts)
    seals = [read_seal(path) for path in (paths[1], save_average(tmp_path, paths))]
    assert [(seal.kind, seal.vetoed) for seal in seals] == [("full", "it loops"), ("average", "")]


def test_it_is_listed_with_its_reason() -> None:
    assert rows_of([version(1, loss=0.1, vetoed="it loops")], "val/loss")[0][-1] == "last, vetoed: it loops"


@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        ([], ""),
        ([SimpleNamespace(veto="loops", vetoed_step=30)], "loops"),
        ([SimpleNamespace(veto="loops", vetoed_step=20)], ""),
        ([SimpleNamespace(veto="", vetoed_step=30), SimpleNamespace(veto="copies", vetoed_step=30), SimpleNamespace()], "copies"),
        ([SimpleNamespace(veto="a", vetoed_step=30), SimpleNamespace(veto="b", vetoed_step=30)], "a; b"),
    ],
)
def test_any_callback_can_veto_the_weights_of_a_step(callbacks: list[Any], expected: str) -> None:
    trainer: Any = SimpleNamespace(callbacks=callbacks, global_step=30)
    assert veto_of(trainer) == expected
