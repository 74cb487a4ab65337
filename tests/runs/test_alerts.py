"""An alert is a log record with a kind and an advice, whoever listens."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from musictrain.runs.alerts import AlertWatch, alert, alert_of

log = logging.getLogger("musictrain.test_alerts")


def test_an_alert_is_an_ordinary_record_with_its_parts(caplog: pytest.LogCaptureFixture) -> None:
    alert(log, "The loss is 12 times the usual.", kind="loss_spike", advice="Lower the learning rate.", level=logging.ERROR, step=7)
    (record,) = caplog.records
    assert record.getMessage() == "The loss is 12 times the usual. Lower the learning rate."
    assert record.levelno == logging.ERROR
    assert record.filename == "test_alerts.py"
    assert alert_of(record) == {
        "kind": "loss_spike",
        "message": "The loss is 12 times the usual.",
        "advice": "Lower the learning rate.",
        "step": 7,
    }


def test_what_is_no_alert_has_no_parts(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("A warning with %s", "100 %", extra={"alert": "not one"})
    assert alert_of(caplog.records[0]) is None


def test_percent_signs_in_a_message_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    alert(log, "Waiting for data took 60 % of %s.", kind="data_wait")
    assert caplog.messages == ["Waiting for data took 60 % of %s."]


def test_a_watch_hears_every_alert_from_listening_to_stopping_and_nothing_else() -> None:
    heard: list[dict[str, Any]] = []
    watch = AlertWatch(heard.append)
    alert(log, "before", kind="a")
    watch.listen()
    watch.listen()
    try:
        alert(log, "meanwhile", kind="b", layer=3)
        log.error("no alert")
    finally:
        watch.stop()
    watch.stop()
    alert(log, "after", kind="c")
    assert [(each["kind"], each["message"], each["layer"], each["time"] > 0) for each in heard] == [("b", "meanwhile", 3, True)]


def test_a_watch_that_fails_holds_nobody_up(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(told: dict[str, Any]) -> None:
        raise RuntimeError("no room")

    watch = AlertWatch(fail)
    watch.listen()
    try:
        alert(log, "still said", kind="a")
    finally:
        watch.stop()
    assert "no room" in capsys.readouterr().err
