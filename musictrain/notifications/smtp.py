"""One mail handed to a server, step by step, each with what the server said and, if it fails, what to do."""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime, make_msgid
from typing import Any

from musictrain.notifications.mail_settings import MailSettings
from musictrain.runs.log_lines import cleaned, one_line
from musictrain.runs.secrets import hide

DOMAIN = "musictrain.localhost"


@dataclass(frozen=True)
class Step:
    """One step of handing over a mail.

    Args:
        what: ``connect``, ``tls``, ``login`` or ``send``.
        tried: with what.
        said: by the server; empty if it says nothing of its own.
    """

    what: str
    tried: str
    said: str = ""


class MailError(Exception):
    """A mail was not taken.

    Args:
        step: which one failed, and what was said.
        advice: what to do about it.
        done: the steps before.
    """

    def __init__(self, step: Step, advice: str, done: list[Step]) -> None:
        super().__init__(f"{step.what} failed ({step.tried}): {step.said}")
        self.step, self.advice, self.done = step, advice, done


def make_mail(settings: MailSettings, subject: str, text: str) -> EmailMessage:
    """A plain-text mail; whatever the subject holds, it stays one header."""
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = one_line(subject)
    mail["From"] = settings.sender
    mail["To"] = ", ".join(settings.to)
    mail["Date"] = format_datetime(localtime())
    mail["Message-ID"] = make_msgid(domain=DOMAIN)
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(cleaned(text), charset="utf-8")
    return mail


def send(settings: MailSettings, mail: EmailMessage) -> list[Step]:
    """Hand over a mail; gives back the steps.

    Raises:
        MailError: with the step that failed.
    """
    conversation = Conversation(settings)
    try:
        conversation.run("connect", settings.server(), conversation.connect)
        if settings.tls == "starttls":
            conversation.run("tls", "STARTTLS", conversation.protect)
        if settings.user:
            conversation.run("login", f"as {settings.user}, password from ${settings.password_variable}", conversation.log_in)
        conversation.run("send", f"from {settings.sender} to {', '.join(settings.to)}", lambda: conversation.hand_over(mail))
    finally:
        conversation.end()
    return conversation.done


class Conversation:
    """What is said to one server; ``done`` holds the steps so far."""

    def __init__(self, settings: MailSettings) -> None:
        self.settings = settings
        self.done: list[Step] = []
        self._server: Any = None

    def run(self, what: str, tried: str, step: Callable[[], str]) -> None:
        """Take one step and note what was said.

        Raises:
            MailError: if it fails.
        """
        try:
            said = step()
        except (OSError, smtplib.SMTPException, ValueError) as error:
            told, advice = explain(error, self.settings)
            raise MailError(Step(what, tried, told), advice, list(self.done)) from error
        self.done.append(Step(what, tried, said))

    def connect(self) -> str:
        """Open a connection; with ``ssl`` it is protected from the beginning."""
        host, port, seconds = self.settings.host.strip("[]"), self.settings.port or 0, self.settings.timeout_seconds
        if self.settings.tls == "ssl":
            self._server = smtplib.SMTP_SSL(host, port, local_hostname=DOMAIN, timeout=seconds, context=self._context())
        else:
            self._server = smtplib.SMTP(host, port, local_hostname=DOMAIN, timeout=seconds)
        return shown(*self._server.ehlo())

    def protect(self) -> str:
        """Turn on TLS; without it nothing goes on."""
        self._server.starttls(context=self._context())
        self._server.ehlo()
        return str(self._server.sock.version())

    def log_in(self) -> str:
        """Show the password."""
        password = self.settings.password_now()
        if password is None:
            raise ValueError(self.settings.problem())
        return shown(*self._server.login(self.settings.user, password))

    def hand_over(self, mail: EmailMessage) -> str:
        """The mail itself; it fails if nobody it goes to is accepted, and is not sent again to those who are."""
        refused = self._server.send_message(mail)
        but = "; ".join(f"{who}: {shown(*reply)}" for who, reply in refused.items())
        return f"taken, but not for {but}" if but else "taken"

    def end(self) -> None:
        """Say goodbye, if anybody still listens."""
        if self._server is not None and self._server.sock is not None:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                self._server.sock.settimeout(min(self.settings.timeout_seconds, 2.0))
                self._server.quit()
            self._server.close()

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.settings.ca_file is not None:
            context.load_verify_locations(self.settings.ca_file)
        return context


def shown(code: int, said: bytes | str) -> str:
    """A server's reply on one line, without secrets and terminal codes."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return one_line(hide(f"{code} {text}"))[:300]


def explain(error: BaseException, settings: MailSettings) -> tuple[str, str]:
    """What was said, and what to do about it."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        said = "; ".join(f"{who}: {shown(*reply)}" for who, reply in error.recipients.items())
        return said, "Check mail.to; many servers take mail for others only after a login (mail.user)."
    if isinstance(error, smtplib.SMTPResponseException):
        return shown(error.smtp_code, error.smtp_error), _advice_for_reply(error, settings)
    return one_line(hide(f"{type(error).__name__}: {error}"))[:300], _advice(error, settings)


def _advice_for_reply(error: smtplib.SMTPResponseException, settings: MailSettings) -> str:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"Check mail.user and the password in ${settings.password_variable}; some services want a password made for programs."
    if error.smtp_code in (530, 535):
        return f"The server wants a login: set mail.user, and the password in ${settings.password_variable}."
    if isinstance(error, smtplib.SMTPSenderRefused):
        return f"The server takes no mail from {settings.sender}: set mail.sender to an address of that account."
    return (
        "The server is not ready to take this mail; it may be later."
        if 400 <= error.smtp_code < 500
        else "The server does not take this mail."
    )


def _advice(error: BaseException, settings: MailSettings) -> str:
    other = "starttls" if settings.tls == "ssl" else "ssl"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "The server's certificate is not trusted: set mail.ca_file to that of who signed it, and mail.host to the name in it."
    if isinstance(error, ssl.SSLError):
        return f"The server does not speak TLS like this on port {settings.port}: try mail.tls: {other}, or another mail.port."
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return "The server does not offer this. Without STARTTLS try mail.tls: ssl; without logins leave out mail.user."
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return (
            f"Nobody answered for {settings.timeout_seconds:g} s: check mail.host and mail.port, and whether a firewall is between; or "
            f"port {settings.port} wants mail.tls: {other}."
        )
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return f"The server hung up: port {settings.port} may want mail.tls: {other}."
    if isinstance(error, socket.gaierror):
        return "There is no machine of that name, or names cannot be looked up here: check mail.host."
    if isinstance(error, ConnectionRefusedError):
        return "Nothing listens there: check mail.host and mail.port."
    return settings.problem() or "Check mail.host, mail.port and the network."
