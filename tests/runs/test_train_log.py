"""``train.log`` and the warnings of ``events.jsonl``: what they keep, one line a record, and what happens when they cannot."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.runs import log_writer, read_records
from musictrain.runs.alerts import alert
from musictrain.runs.log_lines import EventFormatter, LineFormatter
from musictrain.runs.secrets import OURS
from musictrain.runs.train_log import TrainLog

logger = logging.getLogger("musictrain.some.part")


def record(message: Any, *args: Any, level: int = logging.INFO, name: str = "musictrain") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, args, None)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TrainLog]:
    """One that listens and writes into the test's folder."""
    log = TrainLog()
    log.listen()
    log.open(tmp_path / "train.log", events=tmp_path / "events.jsonl")
    yield log
    log.stop()


def lines(log: TrainLog) -> list[str]:
    log.flush()
    assert log.path is not None
    return log.path.read_text(encoding="utf-8").splitlines()


def events(log: TrainLog) -> list[dict[str, Any]]:
    log.flush()
    assert log.path is not None
    return read_records(log.path.with_name("events.jsonl"))


def test_what_was_said_before_there_was_a_file_comes_first(tmp_path: Path) -> None:
    log = TrainLog()
    log.handle(record("before"))
    log.open(tmp_path / "train.log")
    log.handle(record("after"))
    log.stop()
    told = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split()[-1] for line in told] == ["before", "after"]


def test_what_was_said_too_early_keeps_what_it_spoke_of(tmp_path: Path) -> None:
    log = TrainLog()
    changing = ["then"]
    log.handle(record("it was %s", changing))
    changing[0] = "now"
    log.open(tmp_path / "train.log")
    log.stop()
    assert "it was ['then']" in (tmp_path / "train.log").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_costs_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    log = TrainLog()
    log.open("/dev/full")
    for number in range(3):
        log.handle(record(f"line {number} " + "x" * 10_000))
    log.stop()
    assert capsys.readouterr().err == ""


def test_a_line_says_when_how_grave_which_rank_and_step_and_who(log: TrainLog) -> None:
    log.at(step=lambda: 1500, rank=3)
    logger.info("all is %s", "well")
    (line,) = lines(log)
    assert line.endswith(" INFO     rank 3  step 1,500  musictrain.some.part: all is well")
    assert events(log) == []


def test_without_a_step_there_is_none(log: TrainLog) -> None:
    logger.warning("early")
    assert " rank 0  step -  " in lines(log)[0]
    assert events(log)[0]["step"] is None


def test_a_step_that_cannot_be_told_is_no_obstacle(log: TrainLog) -> None:
    log.at(step=lambda: 1 // 0)
    logger.warning("so what")
    assert events(log)[0]["step"] is None


def test_warnings_are_events_and_so_are_alerts_with_their_parts(log: TrainLog) -> None:
    log.at(step=7)
    logger.warning("slow disk")
    alert(logger, "The loss is nan.", kind="loss_nan", advice="Lower lr.", level=logging.ERROR, layer="head", step=6)
    warning, alarm = events(log)
    assert warning.pop("time") <= alarm.pop("time")
    assert warning == {"event": "log", "level": "WARNING", "rank": 0, "step": 7, "logger": "musictrain.some.part", "message": "slow disk"}
    assert alarm == {
        **{"event": "alert", "level": "ERROR", "rank": 0, "step": 6, "logger": "musictrain.some.part", "message": "The loss is nan."},
        **{"kind": "loss_nan", "advice": "Lower lr.", "layer": "head"},
    }
    assert lines(log)[1].endswith("step 6  musictrain.some.part: The loss is nan. Lower lr. [loss_nan]")


def test_an_alert_without_a_step_of_its_own_has_that_of_the_run_and_its_values_are_plain(log: TrainLog) -> None:
    log.at(step=9)
    alert(logger, "m" * 30_000, kind="k", step=None, share=np.float32(0.5), password="x", nested={"token": "y"})
    (event,) = events(log)
    assert (event["step"], event["share"], event["password"], event["nested"]) == (9, 0.5, "***", {"token": "***"})
    assert len(event["message"]) < 21_000
    alert(logger, "later", kind="k", step=np.int64(1200))
    assert "  step 1,200  " in lines(log)[1]


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "args", "shown"),
    [
        ("two\nlines\r\nand\rmore", (), "two\\nlines\\nand\\x0dmore"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b]8;;http://x\x1b\\link", (), "red  link"),
        ("bell \x07 nul \x00 back \x08", (), "bell \\x07 nul \\x00 back \\x08"),
        ("other ends \u2028 \u2029 \x85 \x0b \x0c \x1c", (), "other ends \\u2028 \\u2029 \\x85 \\x0b \\x0c \\x1c"),
        ("\u202eturned around", (), "\\u202eturned around"),
        ("lone \ud800 surrogate", (), "lone \\ud800 surrogate"),
        ("%d %s", ("x",), "%d %s (with arguments that do not fit: ('x',))"),
        ("%s", (Unspeakable(),), "%s (with arguments that do not fit: a tuple that cannot be shown)"),
        (Unspeakable(), (), "a Unspeakable that cannot be shown (with arguments that do not fit: ())"),
        ({"not": "a text"}, (), "{'not': 'a text'}"),
        ("100 %", (), "100 %"),
    ],
)
def test_one_line_a_record_whatever_the_message_holds(message: Any, args: tuple[Any, ...], shown: str, log: TrainLog) -> None:
    log.handle(record(message, *args, level=logging.WARNING))
    (line,) = lines(log)
    assert line.partition("musictrain: ")[2] == shown
    assert log.path is not None
    assert len(log.path.with_name("events.jsonl").read_bytes().splitlines()) == 1
    assert len(events(log)) == 1


@given(st.text(max_size=80))
def test_any_text_is_one_line_for_people_and_programs(text: str) -> None:
    some = record(text, level=logging.WARNING)
    assert len(LineFormatter().format(some).splitlines()) == 1
    told = EventFormatter().format(some)
    assert told.isascii()
    assert len(told.splitlines()) == 1
    json.loads(told)["message"].encode()


FORGED = "2026-01-01 00:00:00,000 ERROR    rank 0  step 1  musictrain: forged"


def test_a_traceback_is_one_field_and_indented_lines_that_pass_for_no_record(log: TrainLog) -> None:
    try:
        raise ValueError(f"first\n{FORGED}")
    except ValueError:
        logger.exception("it broke\n%s", FORGED)
    told = lines(log)
    assert [line for line in told if not line.startswith("    | ")] == [told[0]]
    assert told[0].endswith(f"it broke\\n{FORGED}")
    assert f"    | {FORGED}" in told
    (event,) = events(log)
    assert event["traceback"].startswith("Traceback (most recent call last)")
    assert event["traceback"].endswith(FORGED)


def test_a_very_long_message_is_cut_and_the_end_of_a_traceback_is_kept(log: TrainLog) -> None:
    logger.warning("x" * 100_000)
    try:
        raise ValueError("y" * 100_000 + " the end")
    except ValueError:
        logger.exception("it broke")
    first, second = events(log)
    assert first["message"].endswith("... (80,000 characters more)")
    assert second["traceback"].endswith("the end")
    assert len(second["traceback"]) < 25_000


@pytest.mark.parametrize("place", range(19_975, 20_003, 3))
def test_a_cut_goes_through_no_secret(place: int, log: TrainLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "canary-at-the-cut")
    logger.warning("x" * place + "canary-at-the-cut" + "y" * 9)
    try:
        raise ValueError("y" * 9 + "canary-at-the-cut" + "x" * (place - 3))
    except ValueError:
        logger.exception("it broke")
    assert "can" not in "".join(lines(log)) + str(events(log))
    assert "-cut" not in "".join(lines(log)) + str(events(log))


def test_the_same_warning_over_and_over_is_counted(log: TrainLog) -> None:
    for number in range(1234):
        logger.warning("Batch %d took %.2f s.", number, number / 7)
    logger.info("in between")
    logger.warning("something else")
    log.stop()
    assert log.path is not None
    told = log.path.read_text().splitlines()
    assert len(told) == 10 + 2 + 2 + 1
    assert told[9].endswith("(again and again: from here on only counted)")
    assert "(said 100 times by now)" in told[10]
    assert "(said 1,000 times by now)" in told[11]
    assert told[-1].endswith("musictrain.some.part: Batch 0 took 0.00 s. (said 1,234 times in all)")
    assert len(events(log)) == len(told) - 1


def test_python_warnings_come_in_by_every_way_and_still_reach_whoever_heard_them_before(tmp_path: Path) -> None:
    log = TrainLog()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        heard: list[str] = []
        warnings.showwarning = lambda message, *rest, **more: heard.append(str(message))
        before = warnings.showwarning
        log.listen()
        log.open(tmp_path / "train.log", events=tmp_path / "events.jsonl")
        warnings.warn("the batch is too small", UserWarning, stacklevel=1)
        warnings.warn("use another name", FutureWarning, stacklevel=1)
        logging.captureWarnings(True)
        warnings.warn_explicit("old\nstyle", DeprecationWarning, "lib/site-packages/torch/optim/adam.py", 12)
        logging.captureWarnings(False)
        log.stop()
        assert warnings.showwarning is before
    first, second = [event["message"] for event in events(log)]
    assert first.startswith("UserWarning: the batch is too small (")
    assert second == "DeprecationWarning: old\nstyle (torch/optim/adam.py:12)"
    assert heard == ["the batch is too small", "use another name"]


@pytest.mark.parametrize("name", ["lightning.pytorch.utilities", "lightning.fabric", "lightning", "torch._dynamo.some", "wandb", "other"])
def test_warnings_of_other_packages_come_in_once(name: str, tmp_path: Path) -> None:
    importlike = logging.getLogger(name.rpartition(".")[0] or name)
    propagates = importlike.propagate
    importlike.propagate = name == "other"
    log = TrainLog()
    log.listen()
    log.open(tmp_path / "train.log")
    logging.getLogger(name).warning("heard")
    log.stop()
    importlike.propagate = propagates
    assert (tmp_path / "train.log").read_text().count("heard") == 1
    assert log not in logging.getLogger(name).handlers


def test_a_logger_that_turned_away_meanwhile_is_heard_from_the_opening_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = TrainLog()
    log.listen()
    late = logging.getLogger("torch.imported_late")
    monkeypatch.setattr(late, "propagate", False)
    log.open(tmp_path / "train.log")
    late.warning("heard")
    log.stop()
    assert (tmp_path / "train.log").read_text().count("heard") == 1
    assert late.handlers == []


def test_what_torch_and_wandb_chat_about_stays_out(log: TrainLog) -> None:
    for name in ("torch.some", "wandb"):
        log.handle(record("chatter", name=name))
    assert lines(log) == []


def test_another_rank_writes_a_file_of_its_own_only_if_it_has_a_warning(tmp_path: Path) -> None:
    log = TrainLog()
    log.handle(record("started"))
    log.open_rank(tmp_path, 2)
    log.handle(record("all is well"))
    log.flush()
    assert list(tmp_path.iterdir()) == []
    assert log.path is None
    log.handle(record("a slow disk", level=logging.WARNING))
    log.stop()
    (path,) = tmp_path.iterdir()
    assert path.name == "train_rank2.log"
    assert path.read_text().count("\n") == 1
    assert "WARNING  rank 2  step -  musictrain: a slow disk" in path.read_text()


def test_the_warnings_of_another_rank_before_it_knew_the_folder_are_kept(tmp_path: Path) -> None:
    log = TrainLog()
    log.handle(record("an early warning", level=logging.WARNING))
    log.open_rank(tmp_path, 1)
    log.stop()
    assert "an early warning" in (tmp_path / "train_rank1.log").read_text()


def test_secrets_stay_out_of_both_files(log: TrainLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "canary-of-the-log")
    try:
        raise ValueError("login with canary-of-the-log failed")
    except ValueError:
        logger.exception("at ftp://ada:canary2@host")
    alert(logger, "bad canary-of-the-log", kind="login", token="canary3")
    log.flush()
    assert log.path is not None
    everything = log.path.read_text() + log.path.with_name("events.jsonl").read_text()
    assert "canary" not in everything
    assert everything.count("***") >= 6
    assert OURS.hide("canary-of-the-log") == "***"


def test_a_disk_that_hangs_holds_nobody_up(log: TrainLog, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    write = log_writer.ForgivingFile.write

    def hang(self: Any, line: str) -> None:
        begun.set()
        assert goes_on.wait(30)
        write(self, line)

    monkeypatch.setattr(log_writer.ForgivingFile, "write", hang)
    monkeypatch.setattr(log_writer, "MOST_WAITING", 5)
    logger.info("line 0")
    assert begun.wait(30)
    for number in range(1, 20):
        logger.info("line %d", number)  # gives control back: the law of this test
    goes_on.set()
    told = lines(log)
    assert told[-1].endswith("line 19")
    assert any(line.endswith("14 log records were lost, since the disk took none for too long.") for line in told)


def _warn_in_child(log: TrainLog) -> None:
    logger.warning("from a child")
    log.flush()
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_loses_no_warning(log: TrainLog) -> None:
    logger.info("from the parent")
    log.flush()
    child = multiprocessing.get_context("fork").Process(target=_warn_in_child, args=(log,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    logger.info("from the parent again")
    assert [line.partition(": ")[2] for line in lines(log)] == ["from the parent", "from a child", "from the parent again"]


def test_a_record_can_still_be_sent_elsewhere(log: TrainLog) -> None:
    some = record("to be sent")
    log.handle(some)
    assert pickle.loads(pickle.dumps(some.__dict__))["msg"] == "to be sent"


def test_a_torn_event_is_cut_off_before_others_are_added(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "started"}\n{"event": "lo')
    log = TrainLog()
    log.open(tmp_path / "train.log", events=tmp_path / "events.jsonl")
    log.handle(record("late", level=logging.WARNING))
    log.stop()
    assert [event["event"] for event in read_records(tmp_path / "events.jsonl")] == ["started", "log"]


def test_lightnings_tables_stay_readable(log: TrainLog) -> None:
    log.handle(record("\n  | Name\n--------\n0 | net", name="lightning.pytorch.callbacks.model_summary"))
    assert lines(log)[1:] == ["    |   | Name", "    | --------", "    | 0 | net"]


def test_the_table_of_an_optimizer_does_too_and_nothing_else_passes_for_one(log: TrainLog) -> None:
    logging.getLogger("musictrain.module").info("\n%s optimizes\n%s", "Muon", "matrices\n    by Muon")
    logging.getLogger("musictrain.data").info("%s", "\nno table\n2030-01-01 a record")
    assert lines(log)[1:4] == ["    | Muon optimizes", "    | matrices", "    |     by Muon"]
    assert len(lines(log)) == 5
