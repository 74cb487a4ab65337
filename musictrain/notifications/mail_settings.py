"""How mail is sent: the server, who sends, to whom. Never the password: that is in the environment alone."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from email.utils import parseaddr
from pathlib import Path
from typing import Literal

from musictrain.suggestions import did_you_mean

TLS_MODES = ("starttls", "ssl", "none")
PORTS = {"starttls": 587, "ssl": 465, "none": 25}
PASSWORD_VARIABLE = "MUSICTRAIN_SMTP_PASSWORD"


@dataclass
class MailSettings:
    """How mail is sent.

    Args:
        host: of the mail server.
        to: whom it goes to, one address or several.
        sender: whom it comes from; the first of ``to`` if left out.
        port: 587 with ``starttls``, 465 with ``ssl`` and 25 with ``none`` if left out.
        tls: ``starttls`` or ``ssl``, by which nobody on the way can read along; ``none`` is for a server on this very machine.
        user: whom to log in as; nobody if left out.
        password_variable: the environment variable that holds the password.
        ca_file: certificates to trust, in PEM, for a server whose own is not signed by one that this machine trusts anyway.
        allow_plain: whether ``tls: none`` may go over a network, where everybody can read it.
        timeout_seconds: how long one step of the conversation may take.
        most_per_hour: so many mails at most; what goes beyond is gathered into one. A finish or a failure is always told at once.
        password: refused. Configurations are written down with every run.

    Raises:
        ValueError: for what cannot work, or would show the password.
    """

    host: str
    to: str | list[str]
    sender: str = ""
    port: int | None = None
    tls: Literal["starttls", "ssl", "none"] = "starttls"
    user: str | None = None
    password_variable: str = PASSWORD_VARIABLE
    ca_file: str | None = None
    allow_plain: bool = False
    timeout_seconds: float = 20.0
    most_per_hour: int = 12
    password: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.password is not None:
            raise ValueError(
                f"mail.password is refused: a configuration is written down with every run, and a password must not be. Put it into "
                f"the environment variable {self.password_variable} (another one: mail.password_variable) and take it out of the file."
            )
        self.to = [self.to] if isinstance(self.to, str) else list(self.to)
        self.sender = self.sender or (self.to[0] if self.to else "")
        self._check_server()
        self._check_people()
        for name in ("timeout_seconds", "most_per_hour"):
            if not getattr(self, name) > 0:
                raise ValueError(f"mail.{name} is {getattr(self, name)}; it needs a number above 0.")

    def _check_server(self) -> None:
        if not re.fullmatch(r"[\w.:%\[\]-]+", self.host or ""):
            raise ValueError(f"mail.host is {self.host!r}; expected the name or address of a mail server, such as mail.example.org.")
        if self.tls not in TLS_MODES:
            raise ValueError(
                f"mail.tls is {self.tls!r}; expected {', '.join(TLS_MODES)}. {did_you_mean(str(self.tls), TLS_MODES)}".rstrip()
            )
        self.port = PORTS[self.tls] if self.port is None else self.port
        if not 0 < self.port < 65536:
            raise ValueError(f"mail.port is {self.port}; expected a number from 1 to 65535.")
        if self.tls == "none" and not self.allow_plain and not is_this_machine(self.host):
            raise ValueError(
                f"mail.tls is none and mail.host {self.host} is another machine: everybody on the way could read the mails"
                f"{' and the password' if self.user else ''}. Use starttls or ssl, or set mail.allow_plain if that network is yours alone."
            )
        if self.ca_file is not None and not Path(self.ca_file).is_file():
            raise ValueError(f"mail.ca_file {self.ca_file} is no file; expected certificates in PEM.")

    def _check_people(self) -> None:
        if not self.to:
            raise ValueError("mail.to names nobody; expected an address or several.")
        for key, address in [*(("to", each) for each in self.to), ("sender", self.sender)]:
            if not is_address(address):
                raise ValueError(f"mail.{key} has {address!r}, which is no mail address; expected one such as ada@example.org.")

    def password_now(self) -> str | None:
        """The password, read from the environment where it is needed and kept nowhere; None if there is none."""
        return os.environ.get(self.password_variable) or None

    def problem(self) -> str:
        """What is missing outside the configuration, and what to do; empty if nothing is."""
        if self.user and self.password_now() is None:
            return f"mail.user is {self.user}, but the environment variable {self.password_variable} is not set: put the password into it."
        return ""

    def server(self) -> str:
        """Host, port and how it is protected, for people."""
        return f"{self.host}:{self.port} ({'no TLS' if self.tls == 'none' else self.tls})"


def is_this_machine(host: str) -> bool:
    """Whether a name or address leads to this machine whoever is asked.

    >>> [is_this_machine(host) for host in ("localhost", "127.0.0.1", "::1", "mail.example.org", "10.0.0.1")]
    [True, True, True, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]").split("%")[0]).is_loopback
    except ValueError:
        return False


def is_address(text: str) -> bool:
    """Whether a text is one mail address, with a name before it or without.

    >>> [is_address(text) for text in ("ada@example.org", "Ada <ada@example.org>", "ada", "a@b, c@d", "a@b\\nBcc: c@d")]
    [True, True, False, False, False]
    """
    address = parseaddr(text)[1]
    return text.isprintable() and re.fullmatch(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+", address) is not None and text.rstrip(">").endswith(address)
