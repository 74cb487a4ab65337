"""``notify``: what a run tells whom, and one mail to a real server on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.tiny import type_command
from tests.notifications.mail_servers import PASSWORD, USER, certificate, mail_server
from tests.ports import free_port


def config_with(path: Path, mail: dict[str, Any] | None, **options: Any) -> Path:
    callback = {"class_path": "musictrain.callbacks.Notifications", "init_args": {"mail": mail, **options}}
    others = {"class_path": "musictrain.callbacks.WriteSamples"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [others, callback]}}))
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return config_with(tmp_path / "mine.yaml", {"host": "mail.example.org", "to": ["bob@example.org", "eve@example.org"], "user": "ada"})


def test_it_says_what_would_be_told_to_whom(plain: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSICTRAIN_SMTP_PASSWORD", raising=False)
    status, out, err = type_command(capsys, "notify", "--config", plain)
    assert (status, err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if line[:1].islower())
    assert rows["events"] == "start, finish, failure, alert, best"
    assert rows["mail"] == "to      bob@example.org, eve@example.org"
    assert rows["server"] == "mail.example.org:587 (starttls)"
    assert "MUSICTRAIN_SMTP_PASSWORD is not set" in rows["problem"]
    assert f"musictrain notify --test --config {plain}" in out


def test_of_a_run_it_shows_what_was_told_last(tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "2026-01-01_000000-mine-calm-fox"
    config_with(run / "config.yaml", None, file=True, events=["alert"], console=False)
    told = [{"event": "alert", "step": number, "message": f"alert {number} \x1b[31m"} for number in range(7)]
    (run / "notifications.jsonl").write_text("".join(json.dumps(each) + "\n" for each in told))
    status, out, _ = type_command(capsys, "notify", "calm-fox", "--runs", tmp_path)
    assert status == 0
    assert "told so far  7 messages" in out
    assert "alert 1 " not in out
    assert out.splitlines()[-1] == "  step        6  alert    alert 6 "
    _, as_json, _ = type_command(capsys, "notify", "--json", "--runs", tmp_path)
    facts = json.loads(as_json)
    assert (facts["events"], facts["mail"], facts["file"], facts["console"]) == (["alert"], None, True, False)
    assert len(facts["told"]) == 5


def test_a_test_mail_arrives(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTRAIN_SMTP_PASSWORD", PASSWORD)
    pem = certificate(tmp_path)
    with mail_server("starttls", pem, login=True) as (box, port):
        mail = {"host": "localhost", "port": port, "to": "bob@example.org", "user": USER, "ca_file": str(pem)}
        status, out, err = type_command(capsys, "notify", "--test", "--config", config_with(tmp_path / "a.yaml", mail))
    assert (status, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[:4]] == [["ok", what] for what in ("connect", "tls", "login", "send")]
    assert "Sent. Look into the mailbox of bob@example.org" in out
    assert box.mails[0]["Subject"] == "musictrain: a test"
    assert PASSWORD not in out


def test_a_test_that_fails_says_where_why_and_what_to_do(tmp_path: Path, capsys: Any) -> None:
    mail = {"host": "127.0.0.1", "port": free_port(), "to": "bob@example.org", "tls": "none"}
    config = config_with(tmp_path / "a.yaml", mail)
    status, out, _ = type_command(capsys, "notify", "--test", "--config", config)
    lines = out.splitlines()
    assert status == 1
    assert lines[0].startswith("FAILED  connect ")
    assert "refused" in lines[0]
    assert lines[1] == "  -> Nothing listens there: check mail.host and mail.port."
    assert lines[2] == "No mail was sent. Training would go on without."
    status, out, _ = type_command(capsys, "notify", "--test", "--json", "--config", config)
    told = json.loads(out)
    assert (status, told["sent"], told["steps"], told["failed"]["what"]) == (1, False, [], "connect")


@pytest.mark.parametrize(
    ("mail", "message"),
    [
        ({"host": "h.example.org", "to": "a@b.c", "password": "canary"}, "mail.password is refused"),
        ({"host": "h.example.org", "to": "a@b.c", "prot": 5}, "mail.prot is no key. Did you mean 'port'"),
        ({"host": "h.example.org"}, "mail lacks 'to'."),
        ({"host": "h.example.org", "to": "a@b.c", "user": "ada"}, "No mail can be sent: mail.user is ada, but"),
        (None, "sets no mail for Notifications"),
        ("h.example.org", "mail is str, expected keys"),
    ],
)
def test_settings_that_cannot_work_are_named(mail: Any, message: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSICTRAIN_SMTP_PASSWORD", raising=False)
    status, out, err = type_command(capsys, "notify", "--test", "--config", config_with(tmp_path / "a.yaml", mail))
    assert (status, out) == (2, "")
    assert message in err
    assert "canary" not in err


def test_without_the_callback_it_says_how_to_add_it(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("trainer: {max_steps: 3}\n")
    status, _, err = type_command(capsys, "notify", "--config", tmp_path / "bare.yaml")
    assert status == 2
    assert "class_path: musictrain.callbacks.Notifications" in err


@pytest.mark.parametrize("content", ["- a list\n", "password: [canary\n", "\x00"])
def test_what_is_no_configuration_is_refused(content: str, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(content)
    status, _, err = type_command(capsys, "notify", "--config", tmp_path / "odd.yaml")
    assert status == 2
    assert "odd.yaml" in err
    assert len(err.splitlines()) < 12


def test_a_run_and_a_configuration_are_one_too_many(plain: Path, capsys: Any) -> None:
    status, _, err = type_command(capsys, "notify", "latest", "--config", plain)
    assert status == 2
    assert "name one of them" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mail": {"host": "h.example.org", "to": "a@b.c", "password": "canary"}}, "error: mail.password is refused: a configuration is"),
        ({"wait_seconds": -1}, "error: Notifications got wait_seconds=-1.0; it needs 0 or more."),
    ],
)
def test_fit_refuses_the_same_in_a_line(options: dict[str, Any], message: str, config_file: Path, tmp_path: Path, capsys: Any) -> None:
    config = yaml.safe_load(config_file.read_text())
    config["trainer"]["callbacks"].append({"class_path": "musictrain.callbacks.Notifications", "init_args": options})
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(config))
    status, out, err = type_command(capsys, "fit", "--config", tmp_path / "a.yaml", "--runs", tmp_path / "runs")
    assert (status, out) == (2, "")
    assert err.startswith(message)
    assert len(err.splitlines()) == 1
    assert "canary" not in err
