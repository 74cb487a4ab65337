"""Mails wait, are gathered and tried again; nothing of that touches whoever tells."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from musictrain.notifications import MailSettings, Message, Outbox, outbox
from musictrain.notifications.messages import digest
from musictrain.notifications.outbox import RateLimit
from musictrain.notifications.smtp import MailError, Step
from musictrain.runs import RunFolder
from musictrain.runs.status import Status
from tests.notifications.mail_servers import mail_server
from tests.ports import free_port


def message(event: str = "alert", what: str = "The loss is nan.", **more: Any) -> Message:
    return Message(event, RunFolder(Path("runs") / "2026-my-run"), what, **{"step": 5, **more})


def settings(port: int = 25, **more: Any) -> MailSettings:
    return MailSettings("127.0.0.1", "bob@example.org", tls="none", port=port, timeout_seconds=60.0, **more)


class Server:
    """Takes mails, unless it is told to fail; ``begin`` holds it up."""

    def __init__(self, failures: int = 0) -> None:
        self.subjects: list[str] = []
        self.texts: list[str] = []
        self.failures = failures
        self.begin = threading.Event()
        self.begin.set()
        self.came = threading.Semaphore(0)

    def __call__(self, _: MailSettings, mail: EmailMessage) -> list[Step]:
        assert self.begin.wait(20)
        self.came.release()
        if self.failures:
            self.failures -= 1
            raise MailError(Step("connect", "there", "refused"), "Look at it.", [])
        self.subjects.append(str(mail["Subject"]))
        self.texts.append(str(mail.get_content()))
        return []

    def wait(self, number: int = 1) -> None:
        for _ in range(number):
            assert self.came.acquire(timeout=120)


def test_a_message_becomes_a_mail_on_a_real_server() -> None:
    with mail_server() as (box, port):
        out = Outbox(settings(port))
        out.put(message())
        box.wait()
        assert out.close(10)
    (mail,) = box.mails
    assert mail["Subject"] == "[2026-my-run] The loss is nan."


def test_what_the_rate_does_not_allow_is_gathered_and_told_in_the_end() -> None:
    server = Server()
    out = Outbox(settings(most_per_hour=1), send=server)
    out.put(message(what="first"))
    server.wait()
    for number in range(20):
        out.put(message(what=f"alert {number}"))
    out.put(message("best", "New best."))
    assert server.subjects == ["[2026-my-run] first"]
    assert out.close(10)
    assert server.subjects[1:] == ["[2026-my-run] 21 messages"]
    assert all(f"alert {number}\n" in server.texts[1] for number in range(20))


def test_a_failure_waits_for_no_rate_and_takes_the_others_along() -> None:
    server = Server()
    out = Outbox(settings(most_per_hour=1), send=server)
    out.put(message(what="first"))
    server.wait()
    out.put(message(what="second"))
    out.put(message("failure", "Training failed."))
    server.wait()
    assert out.close(10)
    assert server.subjects == ["[2026-my-run] first", "[2026-my-run] 2 messages, among them: Training failed."]


def test_of_too_many_the_oldest_give_way_and_the_mail_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_WAITING", 3)
    server = Server()
    out = Outbox(settings(most_per_hour=1), send=server)
    out.put(message(what="first"))
    server.wait()
    for number in range(10):
        out.put(message(what=f"alert {number}"))
    assert out.close(10)
    assert "7 older messages are left out" in server.texts[1]
    assert "alert 6" not in server.texts[1]
    assert "alert 7" in server.texts[1]


def test_a_server_that_was_gone_gets_everything_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = Server(failures=2)
    out = Outbox(settings(), send=server, pauses=(0.01,))
    out.put(message(what="one"))
    server.wait()
    out.put(message(what="two"))
    server.wait(2)
    assert out.close(10)
    assert [text.count("one\n") + text.count("two\n") for text in ["".join(server.texts)]] == [2]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "No mail could be sent to 127.0.0.1:25 (no TLS): connect failed (there): refused Look at it." in warnings[0]
    assert "Mail goes out again." in caplog.text


def test_a_server_that_refuses_costs_one_warning_at_a_time_and_nobody_waits(caplog: pytest.LogCaptureFixture) -> None:
    out = Outbox(settings(free_port()))
    for number in range(200):
        out.put(message(what=f"alert {number}"))
    assert not out.close(10)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "No mail could be sent" in warning


def test_a_server_that_hangs_is_left_alone_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.begin.clear()
    out = Outbox(settings(), send=server)
    out.put(message("finish", "Training finished."))
    assert not out.close(0.1)
    assert "did not take the last mails within 0.1 s" in caplog.text
    server.begin.set()
    server.wait()


def test_whatever_goes_wrong_inside_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> list[Step]:
        raise ZeroDivisionError("inside")

    out = Outbox(settings(), send=broken)
    out.put(message())
    assert not out.close(10)
    assert "ZeroDivisionError: inside" in caplog.text


def test_closing_without_a_message_starts_nothing() -> None:
    before = threading.active_count()
    assert Outbox(settings()).close(10)
    assert threading.active_count() == before


def test_the_limit_is_that_of_any_hour() -> None:
    limit = RateLimit(3)
    for now in (0.0, 600.0, 1200.0):
        assert limit.wait(now) == 0.0
        limit.note(now)
    assert limit.wait(1300.0) == 2300.0
    assert limit.wait(3600.0) == 0.0
    limit.note(3600.0)
    assert limit.wait(3601.0) == 599.0


class Logged:
    """A value as Lightning logs it: a number only if asked."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


def test_a_mail_says_what_people_ask(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.status.write_text(Status("x", left_seconds=7500.0).as_json())
    told = Message(
        "alert", run, "The loss is nan.", 500, 1500, {"train/loss": Logged(1.25), "val/loss": "?"}, {"advice": "Lower lr."}
    ).text()
    lines = dict(line.split("  ", 1) for line in told.splitlines()[2:])
    assert told.startswith("The loss is nan.\n\n")
    assert {key: value.strip() for key, value in lines.items() if key != "at"} == {
        "run": str(tmp_path),
        "step": "500 of 1,500",
        "training loss": "1.25",
        "time left": "2 h 5 min",
        "advice": "Lower lr.",
        "live page": str(run.dashboard),
    }


def test_a_failure_says_how_to_go_on_and_which_logs_there_are(tmp_path: Path) -> None:
    assert "go on with  musictrain resume 2026-my-run\n" in message("failure", "Training failed.").text()
    (tmp_path / "train_rank3.log").touch()
    told = Message("failure", RunFolder(tmp_path), "Training failed.").text()
    assert f"log          {tmp_path / 'train.log'}\nother ranks  train_rank3.log\n" in told


@pytest.mark.parametrize("part", [lambda told: told.subject(), lambda told: told.text(), lambda told: str(told.as_record())])
def test_no_part_holds_secrets_or_terminal_codes(part: Callable[[Message], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "canary-of-the-mail")
    told = part(message(what="\x1b[31mcanary-of-the-mail\nand\r\nBcc: eve", details={"advice": "ftp://a:canary@b \x1b[0m"}))
    assert "canary" not in told
    assert "\x1b" not in told
    assert "\r" not in told


def test_long_messages_are_cut() -> None:
    told = message(what="x" * 100_000, details={"kind": "y" * 100_000})
    assert len(told.subject()) == 150
    assert len(told.text()) < 10_000


def test_several_messages_are_one_mail_oldest_first() -> None:
    subject, text = digest([message(what="one"), message("finish", "Training finished."), message(what="two")])
    assert subject == "[2026-my-run] 3 messages, among them: Training finished."
    assert text.index("one") < text.index("finished") < text.index("two")
