"""The resume report says what came back, what did not, what has changed, and whether the bits will be the same."""

from __future__ import annotations

from typing import Any

import pytest

from musictrain.checkpoints.resume_report import Found, report_of

KEYS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
THEN = {"world_size": 1, "precision": "32-true", "threads": 2, "packages": {"torch": "2.13.0", "rich": "15.0"}, "commit": "abc"}


def found(**changes: Any) -> Found:
    facts: dict[str, Any] = {"checkpoint_keys": KEYS, "callback_states": ("Timer", "VersionedCheckpoint"), "position": True}
    return Found(**{**facts, "callbacks": ("Timer", "VersionedCheckpoint"), "circumstances": THEN, **changes})


def test_everything_restored_and_nothing_changed_is_exact() -> None:
    report = report_of("v000003_step000120.ckpt", 120, found(), THEN)
    assert report.lines() == [
        "resumed  v000003_step000120.ckpt, after step 120: weights, optimizer, schedule, loops, position in the data, callbacks "
        "(Timer, VersionedCheckpoint)",
        "         exact: as if there had been no interruption",
    ]
    assert report.as_record()["exact"] is True


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"callbacks": ("Timer",)}, "the state of VersionedCheckpoint, which this run does not have"),
        ({"callback_states": ("Timer",)}, "VersionedCheckpoint: the version has no state of it"),
        ({"position": False}, "the position in the data: neither data module nor loader keeps it"),
    ],
)
def test_what_did_not_come_back_is_named_and_not_exact(changes: dict[str, Any], words: str) -> None:
    report = report_of("v1", 5, found(**changes), THEN)
    assert any(words in line for line in report.lines())
    assert report.verdict() == "not exact, for what was not restored"


def test_at_the_beginning_no_position_is_missed() -> None:
    assert report_of("v1", 0, found(position=False), THEN).exact


@pytest.mark.parametrize("change", [{"world_size": 2}, {"precision": "bf16-mixed"}, {"threads": 1}, {"packages": {"torch": "2.14"}}])
def test_what_changes_the_bits_is_said_to(change: dict[str, Any]) -> None:
    report = report_of("v1", 5, found(), {**THEN, **change})
    assert report.verdict() == "the same state; from here on the changes count"
    (key,) = change
    assert any(what.startswith(key) for what, _, _ in report.changed)


def test_another_commit_or_an_unrelated_package_is_told_and_changes_nothing() -> None:
    report = report_of("v1", 5, found(), {**THEN, "commit": "def", "packages": {"torch": "2.13.0", "rich": "16.0"}})
    assert report.changed == (("packages.rich", "15.0", "16.0"), ("commit", "abc", "def"))
    assert report.exact


def test_a_changed_configuration_is_told_leaf_by_leaf_but_not_where_it_lies() -> None:
    was = "runs: a\nckpt_path: null\nmodel: {lr: 0.1}\ntrainer: {max_steps: 10, max_time: null}\n"
    now = "runs: b\nckpt_path: x.ckpt\nmodel: {lr: 0.2}\ntrainer: {max_steps: 10, max_time: 1h}\n"
    report = report_of("v1", 5, found(circumstances={**THEN, "config": was}), {**THEN, "config": now, "config_fingerprint": "x"})
    assert report.changed == (("model.lr", 0.1, 0.2), ("trainer.max_time", None, "1h"))
    assert not report.exact


def test_a_long_list_of_changes_is_cut_for_people_and_kept_for_programs() -> None:
    was, now = ("".join(f"model_{number}: {value}\n" for number in range(12)) for value in ("a" * 100, "b"))
    report = report_of("v1", 5, found(circumstances={**THEN, "config": was}), {**THEN, "config": now})
    assert any("and 4 more changes" in line for line in report.lines())
    assert all(len(line) < 160 for line in report.lines())
    assert len(report.as_record()["changed"]) == 12
