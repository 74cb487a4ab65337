"""Notifications: real fits that tell, by real mail on this machine; what cannot be told never touches the training."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from musictrain.callbacks.notifications import Notifications
from musictrain.notifications import MailSettings
from musictrain.runs import read_records
from musictrain.runs.alerts import alert
from tests.notifications.mail_servers import bad_server, mail_server
from tests.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
log = logging.getLogger("musictrain.some.part")


class Scored(BoringModel):
    """Logs the validation scores it is given, one after the other."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = scores

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", torch.tensor(self.scores[0]))

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.scores = [*self.scores[1:], self.scores[0]]


class Alarm(Callback):
    """Raises an alert after the second step, and something else after the third."""

    def __init__(self, then: BaseException | None = None) -> None:
        self.then = then

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 2:
            alert(log, "The loss jumped.", kind="loss_spike", advice="Lower lr.", step=2)
        if trainer.global_step == 3 and self.then is not None:
            raise self.then


def fit(folder: Path, told: Notifications, *more: Callback, scores: tuple[float, ...] = (2.0, 3.0, 1.0), **options: Any) -> Any:
    trainer = lightning.Trainer(
        **{
            **{"default_root_dir": folder, "max_steps": 6, "accelerator": "cpu", "callbacks": [told, *more], "logger": False},
            **{"enable_model_summary": False, "enable_progress_bar": False, "enable_checkpointing": False, "limit_val_batches": 1},
            **{"val_check_interval": 2, "num_sanity_val_steps": 1, **options},
        }
    )
    trainer.fit(Scored(list(scores)))
    return trainer


def told_in(folder: Path) -> list[tuple[str, str]]:
    return [(record["event"], record["message"]) for record in read_records(folder / "notifications.jsonl")]


ALL = [
    ("start", "Training started."),
    ("alert", "The loss jumped."),
    ("best", "New best val/loss: 2."),
    ("best", "New best val/loss: 1 (before: 2)."),
    ("finish", "Training finished after 6 steps."),
]


def test_everything_that_happens_is_told_in_the_file_and_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, Notifications(file=True), Alarm())
    assert told_in(tmp_path) == ALL
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "start: Training started.",
        "alert: The loss jumped. Lower lr.",
        "best: New best val/loss: 2.",
        "best: New best val/loss: 1 (before: 2).",
        "finish: Training finished after 6 steps.",
    ]
    alarm = read_records(tmp_path / "notifications.jsonl")[1]
    assert {key: alarm[key] for key in ("step", "total", "kind", "advice", "run")} == {
        **{"step": 2, "total": 6, "kind": "loss_spike", "advice": "Lower lr.", "run": tmp_path.name},
    }


def test_an_alert_that_is_on_the_terminal_anyway_is_not_told_there_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Shows(logging.NullHandler):
        shows_alerts = True

    handler = Shows()
    logging.getLogger().addHandler(handler)
    try:
        fit(tmp_path, Notifications(file=True), Alarm())
    finally:
        logging.getLogger().removeHandler(handler)
    assert "The loss jumped" not in capsys.readouterr().out
    assert ("alert", "The loss jumped.") in told_in(tmp_path)


def test_mail_tells_the_same(tmp_path: Path) -> None:
    with mail_server() as (box, port):
        mail = MailSettings("127.0.0.1", "bob@example.org", tls="none", port=port)
        fit(tmp_path, Notifications(mail=mail, console=False), Alarm())
    texts = "\n".join(str(each.get_content()) for each in box.mails)
    for _, what in ALL:
        assert texts.count(what) >= 1
    assert "Lower lr." in texts
    assert str(tmp_path / "dashboard.html") in texts


def test_only_what_was_asked_for_is_told(tmp_path: Path) -> None:
    fit(tmp_path, Notifications(file=tmp_path / "elsewhere" / "told.jsonl", console=False, events=["finish", "best"], mode="max"))
    records = read_records(tmp_path / "elsewhere" / "told.jsonl")
    assert [record["message"] for record in records] == ["New best val/loss: 2.", "New best val/loss: 3 (before: 2).", ALL[-1][1]]


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (
            RuntimeError("canary failed at ftp://a:canary2@b\n"),
            "Training failed after 3 steps: RuntimeError: *** failed at ftp://a:***@b\n",
        ),
        (KeyboardInterrupt(), "Training was interrupted after 3 steps: KeyboardInterrupt"),
    ],
)
def test_a_failure_is_told_before_it_is_over(error: BaseException, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "canary")
    with mail_server() as (box, port):
        mail = MailSettings("127.0.0.1", "bob@example.org", tls="none", port=port)
        with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
            fit(tmp_path, Notifications(mail=mail, file=True, console=False, events=["failure"]), Alarm(error))
    assert told_in(tmp_path) == [("failure", what)]
    (only,) = box.mails
    assert f"musictrain resume {tmp_path.name}" in only.get_content()
    assert "canary" not in str(box.envelopes[0].content)


def hang(over: threading.Event) -> Any:
    return lambda connection: over.wait(30)


@pytest.mark.parametrize("kind", ["gone", "hangs", "no certificate", "no password"])
def test_a_bad_mail_server_never_touches_the_training(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUSICTRAIN_SMTP_PASSWORD", raising=False)
    over = threading.Event()
    with bad_server(hang(over)) as port, mail_server() as (_, plain_port):
        more = {
            "gone": {"port": free_port(), "tls": "none"},
            "hangs": {"port": port, "tls": "none"},
            "no certificate": {"port": plain_port, "tls": "ssl"},
            "no password": {"port": port, "user": "ada"},
        }[kind]
        told = Notifications(mail=MailSettings("127.0.0.1", "bob@example.org", **more), console=False, wait_seconds=0.3)  # type: ignore[arg-type]
        trainer = fit(tmp_path, told, Alarm())
        over.set()
    assert trainer.global_step == 6
    assert trainer.state.finished
    told_of = [record for record in caplog.records if record.levelno == logging.WARNING and "mail" in record.getMessage()]
    assert len(told_of) == 1


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "notifications.jsonl").mkdir()
    assert fit(tmp_path, Notifications(file=True, console=False, wait_seconds=0.2)).global_step == 6


def test_a_resume_tells_of_no_older_best(tmp_path: Path) -> None:
    first = Notifications(file=True, console=False)
    trainer = fit(tmp_path, first)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert json.dumps(first.state_dict()) == '{"best": 1.0}'
    (tmp_path / "notifications.jsonl").unlink()
    again = Notifications(file=True, console=False)
    options = {"callbacks": [again], "max_steps": 10, "enable_checkpointing": False, "logger": False, "accelerator": "cpu"}
    more = lightning.Trainer(default_root_dir=tmp_path, enable_progress_bar=False, val_check_interval=2, limit_val_batches=1, **options)  # type: ignore[arg-type]
    more.fit(Scored([1.5, 0.5]), ckpt_path=tmp_path / "a.ckpt")
    told = told_in(tmp_path)
    assert told[0] == ("start", "Training went on after step 6.")
    assert [what for event, what in told if event == "best"] == ["New best val/loss: 0.5 (before: 1)."]


def test_a_process_that_died_is_told_when_lightnings_launcher_says_so(tmp_path: Path) -> None:
    class Launcher(Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                words = "[rank: 1] Child process with PID 77 terminated with code -9. Forcefully terminating all other processes"
                logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script").info(words)

    fit(tmp_path, Notifications(file=True, console=False, events=["failure", "finish"]), Launcher())
    what = "Training failed: [rank: 1] Child process with PID 77 terminated with code -9, and with it all others end."
    assert told_in(tmp_path) == [("failure", what)]


def test_the_log_is_left_as_it_was(tmp_path: Path) -> None:
    before = [list(logging.getLogger(name).handlers) for name in ("", "lightning.fabric")]
    fit(tmp_path, Notifications(console=False, file=True))
    assert [list(logging.getLogger(name).handlers) for name in ("", "lightning.fabric")] == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"events": ["finsh"]}, "Did you mean 'finish'"),
        ({"events": []}, "would tell nobody anything"),
        ({"console": False}, "would tell nobody anything"),
        ({"mode": "lowest"}, "mode='lowest'; it knows min and max"),
        ({"wait_seconds": -1}, "wait_seconds=-1; it needs 0 or more"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Notifications(**given)
