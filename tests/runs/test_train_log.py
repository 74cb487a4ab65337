"""``train.log``: what it keeps, where it writes, and what happens when it cannot."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from musictrain.runs.train_log import TrainLog


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("musictrain", logging.INFO, __file__, 1, message, None, None)


def test_what_was_said_before_there_was_a_file_comes_first(tmp_path: Path) -> None:
    log = TrainLog()
    log.handle(record("before"))
    log.open(tmp_path / "train.log")
    log.handle(record("after"))
    log.stop()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["before", "after"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_costs_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    log = TrainLog()
    log.open("/dev/full")
    for number in range(3):
        log.handle(record(f"line {number} " + "x" * 10_000))
    log.stop()
    assert capsys.readouterr().err == ""
