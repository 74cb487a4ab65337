"""Mail settings refuse what cannot work or would show the password; one mail is handed over to real servers, good and bad."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from musictrain.notifications import MailSettings
from musictrain.notifications.smtp import MailError, make_mail, send
from tests.notifications.mail_servers import PASSWORD, USER, bad_server, certificate, mail_server
from tests.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")
TO = "bob@example.org"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("certificate"))


def settings(port: int, **more: Any) -> MailSettings:
    return MailSettings(**{"host": "127.0.0.1", "to": TO, "port": port, "tls": "none", "timeout_seconds": 60.0, **more})


def hand_over(mail: MailSettings, subject: str = "hello", text: str = "how are you?") -> list[tuple[str, str]]:
    return [(step.what, step.said) for step in send(mail, make_mail(mail, subject, text))]


def text_of(mail: EmailMessage) -> str:
    return str(mail.get_content()).replace("\r\n", "\n")


@pytest.mark.parametrize("tls", ["starttls", "ssl"])
def test_a_mail_goes_through_tls_and_a_login(tls: str, pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTRAIN_SMTP_PASSWORD", PASSWORD)
    with mail_server(tls, pem, login=True) as (box, port):
        said = hand_over(settings(port, tls=tls, user=USER, ca_file=str(pem), host="localhost"))
    assert [what for what, _ in said] == ["connect", *(["tls"] if tls == "starttls" else []), "login", "send"]
    (mail,) = box.mails
    assert (mail["Subject"], mail["To"], mail["From"]) == ("hello", TO, TO)
    assert text_of(mail) == "how are you?\n"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert PASSWORD not in str(said)


def test_letters_of_all_languages_arrive() -> None:
    with mail_server() as (box, port):
        hand_over(settings(port), "Übung für Käte ♪", "Größe: 3 µm\n日本語 🎵\n" + "long " * 500)
    (mail,) = box.mails
    assert mail["Subject"] == "Übung für Käte ♪"
    assert text_of(mail).startswith("Größe: 3 µm\n日本語 🎵\nlong long")
    assert max(map(len, bytes(box.envelopes[0].content or b"").splitlines())) < 998


def test_no_header_can_be_smuggled_in() -> None:
    evil = "run\r\nBcc: eve@example.org\r\n\r\n<b>body</b>\x00\u2028X-Evil: 1"
    with mail_server() as (box, port):
        hand_over(settings(port), evil, "line\r\n.\r\nMAIL FROM:<eve@example.org>\r\n\x1b[31m")
    (mail,) = box.mails
    assert mail["Bcc"] is None
    assert mail["X-Evil"] is None
    assert mail["Subject"].startswith("run\\nBcc: eve@example.org\\n\\n<b>body</b>\\x00")
    assert box.envelopes[0].rcpt_tos == [TO]
    assert text_of(mail) == "line\n.\nMAIL FROM:<eve@example.org>\n"


def test_a_wrong_password_is_named_and_not_shown(pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_VARIABLE", "wrong canary")
    mail = {"tls": "starttls", "user": USER, "password_variable": "OTHER_VARIABLE", "ca_file": str(pem)}
    with mail_server("starttls", pem, login=True) as (box, port), pytest.raises(MailError, match=r"login failed .*535") as failure:
        hand_over(settings(port, **mail))
    assert "$OTHER_VARIABLE" in failure.value.advice
    assert "canary" not in f"{failure.value} {failure.value.advice} {failure.value.step}"
    assert box.envelopes == []


def test_a_login_that_is_wanted_and_not_given(pem: Path) -> None:
    with mail_server("starttls", pem, login=True) as (_, port), pytest.raises(MailError, match=r"send failed .*530") as failure:
        hand_over(settings(port, tls="starttls", ca_file=str(pem)))
    assert "set mail.user" in failure.value.advice


@pytest.mark.parametrize("tls", ["starttls", "ssl"])
def test_a_certificate_that_nobody_signed_is_not_trusted(tls: str, pem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTRAIN_SMTP_PASSWORD", PASSWORD)
    with mail_server(tls, pem, login=True) as (box, port), pytest.raises(MailError, match="CERTIFICATE_VERIFY_FAILED") as failure:
        hand_over(settings(port, tls=tls, user=USER))
    assert "mail.ca_file" in failure.value.advice
    assert box.envelopes == []


def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = certificate(tmp_path, "mail.example.org")
    with mail_server("starttls", pem) as (_, port), pytest.raises(MailError, match="Hostname mismatch"):
        hand_over(settings(port, tls="starttls", ca_file=str(pem), host="localhost"))


def test_without_tls_on_offer_nothing_is_sent_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTRAIN_SMTP_PASSWORD", PASSWORD)
    with mail_server() as (box, port), pytest.raises(MailError, match=r"tls failed .*STARTTLS") as failure:
        hand_over(settings(port, tls="starttls", user=USER))
    assert "tls: ssl" in failure.value.advice
    assert box.envelopes == []


def test_who_is_refused_is_named_and_the_others_get_their_mail_once() -> None:
    with mail_server() as (box, port):
        box.refuse_recipient = "eve"
        said = hand_over(settings(port, to=[TO, "eve@example.org"]))
        assert said[-1][1].startswith("taken, but not for eve@example.org: 550")
        with pytest.raises(MailError, match=r"550 5.1.1 nobody of that name"):
            hand_over(settings(port, to=["eve@example.org"]))
    assert len(box.mails) == 1


def test_a_server_that_is_too_busy() -> None:
    with mail_server() as (box, port):
        box.refuse_data = "451 come back later"
        with pytest.raises(MailError, match="451 come back later") as failure:
            hand_over(settings(port))
    assert "may be later" in failure.value.advice


def _silent(over: threading.Event) -> Callable[[socket.socket], None]:
    return lambda connection: [None, over.wait(20)][0]


def test_a_server_that_says_nothing() -> None:
    over = threading.Event()
    with bad_server(_silent(over)) as port:
        with pytest.raises(MailError, match=r"connect failed .*(timed out|TimeoutError)") as failure:
            hand_over(settings(port, timeout_seconds=0.3))
        over.set()
    assert "firewall" in failure.value.advice


def test_nobody_listens() -> None:
    with pytest.raises(MailError, match=r"connect failed .*refused") as failure:
        hand_over(settings(free_port()))
    assert "mail.port" in failure.value.advice


def _says(*lines: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for line in lines:
            connection.sendall(line)
            connection.recv(1000)

    return talk


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ((b"220 hello\r\n", b"250 fine\r\n"), "hung up|disconnected|closed"),
        ((b"554 go away \x1b[31m\r\n",), "554 go away"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "connect failed"),
        ((b"\xff\xfe\x00" * 40 + b"\r\n",), "connect failed"),
    ],
)
def test_servers_that_are_none_or_die(lines: tuple[bytes, ...], match: str) -> None:
    with bad_server(_says(*lines)) as port, pytest.raises(MailError, match=match) as failure:
        hand_over(settings(port, timeout_seconds=2.0))
    assert failure.value.advice
    assert str(failure.value).isprintable()


def test_a_port_of_the_other_kind_of_tls(pem: Path) -> None:
    with mail_server("ssl", pem) as (_, port), pytest.raises(MailError, match="connect failed") as failure:
        hand_over(settings(port, tls="starttls", ca_file=str(pem), timeout_seconds=1.0))
    assert "mail.port" in failure.value.advice
    with mail_server("starttls", pem) as (_, port), pytest.raises(MailError, match="SSL") as failure:
        hand_over(settings(port, tls="ssl", ca_file=str(pem)))
    assert "starttls" in failure.value.advice


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"password": "canary"}, "mail.password is refused: .*MUSICTRAIN_SMTP_PASSWORD"),
        ({"host": ""}, "mail.host is ''"),
        ({"host": "a\nb"}, "mail.host is"),
        ({"tls": "startls"}, "Did you mean 'starttls'"),
        ({"tls": "none"}, "mail.tls is none and mail.host mail.example.org is another machine"),
        ({"port": 0}, "mail.port is 0"),
        ({"to": []}, "mail.to names nobody"),
        ({"to": "ada"}, "mail.to has 'ada', which is no mail address"),
        ({"to": ["a@b.c", "x@y.z\nBcc: e@f.g"]}, "is no mail address"),
        ({"sender": "a@b.c, d@e.f"}, "mail.sender has"),
        ({"most_per_hour": 0}, "mail.most_per_hour is 0"),
        ({"timeout_seconds": -1.0}, "mail.timeout_seconds is -1"),
        ({"ca_file": "nowhere.pem"}, "mail.ca_file nowhere.pem is no file"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        MailSettings(**{"host": "mail.example.org", "to": TO, **given})
    assert "canary" not in str(refusal.value)


def test_settings_fill_in_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSICTRAIN_SMTP_PASSWORD", raising=False)
    mail = MailSettings("mail.example.org", [TO, "c@d.e"], user="ada")
    assert (mail.port, mail.sender, MailSettings("h.i", TO, tls="ssl").port) == (587, TO, 465)
    assert "MUSICTRAIN_SMTP_PASSWORD is not set" in mail.problem()
    assert MailSettings("mail.example.org", TO, tls="none", allow_plain=True).problem() == ""
    monkeypatch.setenv("MUSICTRAIN_SMTP_PASSWORD", "x")
    assert mail.problem() == ""
