"""Real mail servers on this machine: good ones with TLS and logins, and bad ones."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.ports import free_port

USER, PASSWORD = "ada", "canary-p4ss of ada"


class Mailbox:
    """Takes what is sent, and can be told to refuse."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.refuse_recipient = ""
        self.refuse_data = ""
        self.arrived = threading.Semaphore(0)

    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]) -> str:  # noqa: N802
        if self.refuse_recipient and self.refuse_recipient in address:
            return "550 5.1.1 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refuse_data:
            return self.refuse_data
        self.envelopes.append(envelope)
        self.arrived.release()
        return "250 OK taken"

    @property
    def mails(self) -> list[EmailMessage]:
        """What has come, as a mail program reads it."""
        return [message_from_bytes(bytes(each.content or b""), policy=default) for each in self.envelopes]  # type: ignore[misc]

    def wait(self, number: int = 1) -> None:
        """Until so many more mails have come."""
        for _ in range(number):
            assert self.arrived.acquire(timeout=120), f"{len(self.envelopes)} mails have come"


def certificate(folder: Path, name: str = "localhost") -> Path:
    """A self-made certificate and its key in one file."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    words = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {cert} -days 2 -subj /CN={name}"
    subprocess.run([*words.split(), "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"], check=True, capture_output=True, timeout=300)
    (folder / "both.pem").write_text(key.read_text() + cert.read_text())
    return folder / "both.pem"


def _check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=known, handled=False)


@contextlib.contextmanager
def mail_server(tls: str = "none", pem: Path | None = None, login: bool = False) -> Iterator[tuple[Mailbox, int]]:
    """A server and its port; with ``starttls`` or ``ssl`` it has the certificate in ``pem``, with ``login`` it wants one."""
    box = Mailbox()
    context = None
    if pem is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
    options: dict[str, Any] = {"authenticator": _check, "auth_required": True, "auth_require_tls": tls == "starttls"} if login else {}
    if tls == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    elif tls == "ssl":
        options |= {"ssl_context": context}
    controller = Controller(box, hostname="127.0.0.1", port=free_port(), ready_timeout=120, **options)
    controller.start()
    try:
        yield box, controller.port
    finally:
        controller.stop()


@contextlib.contextmanager
def bad_server(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that says to everybody what ``talk`` says, and hangs up; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    talk(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
