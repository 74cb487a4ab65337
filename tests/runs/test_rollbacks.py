"""rollbacks.jsonl: what was decided is durable and comes back as it was; a torn or foreign line spoils nothing."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from musictrain.runs.rollbacks import FILE_NAME, Rollback, RolledBack, ask, read_rollbacks, settle

ONE = Rollback(1, 90, 80, "v000003_step000080", 80, "The loss is nan.", 88, 89, 16, "non_finite")
TWO = Rollback(2, 120, 118, "v000004_step000100", 100, "Again.")


def test_what_is_asked_comes_back_and_is_settled_by_its_number(tmp_path: Path) -> None:
    place = tmp_path / "run" / FILE_NAME
    assert read_rollbacks(place) == []
    ask(place, ONE)
    assert read_rollbacks(place) == [ONE]
    settle(place, replace(ONE, version="v000002_step000070", to=70))
    ask(place, TWO)
    assert read_rollbacks(place) == [replace(ONE, version="v000002_step000070", to=70, settled=True), TWO]


def test_a_torn_line_is_as_if_it_had_never_been_written(tmp_path: Path) -> None:
    place = tmp_path / FILE_NAME
    ask(place, ONE)
    whole = place.read_bytes()
    settle(place, ONE)
    for end in range(len(whole), len(place.read_bytes()) - 1, 7):
        torn = tmp_path / f"torn_{end}.jsonl"
        torn.write_bytes(place.read_bytes()[:end])
        assert read_rollbacks(torn) == [ONE]
        settle(torn, ONE)
        assert read_rollbacks(torn) == [replace(ONE, settled=True)]


def test_what_a_later_version_adds_and_what_nobody_understands_is_passed_over(tmp_path: Path) -> None:
    place = tmp_path / FILE_NAME
    ask(place, ONE)
    place.write_text(place.read_text().replace('"kind"', '"of_later": [1], "kind"') + '{"number": 2}\n{"settled": true, "number": 7}\n')
    assert read_rollbacks(place) == [ONE]


def test_it_is_durable_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def noting(name: str) -> None:
        real: Any = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, **options: done.append(name) or real(*args, **options))

    noting("write")
    noting("fsync")
    ask(tmp_path / FILE_NAME, ONE)
    assert done == ["write", "fsync", "fsync"]  # the file's content, then its name


def test_a_disk_that_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(OSError, match=FILE_NAME):
        ask(tmp_path / FILE_NAME, ONE)


def test_the_exception_travels_between_processes_and_says_what_to_do() -> None:
    raised = RolledBack(ONE)
    assert pickle.loads(pickle.dumps(raised)).rollback == ONE
    assert str(raised) == (
        "Rolled back from step 90 to step 80, passing over batches 88 to 89. The loss is nan. "
        "Go on with ckpt_path='last', or with musictrain resume."
    )


@pytest.mark.parametrize(("rollback", "words"), [(TWO, ""), (replace(ONE, first=88, last=88), "batch 88"), (ONE, "batches 88 to 89")])
def test_its_batches_in_words(rollback: Rollback, words: str) -> None:
    assert rollback.passed_over == words
    assert (", passing over " in rollback.sentence()) == bool(words)
