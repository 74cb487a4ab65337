"""Mails on their way out: a thread sends them, so that a server that is slow, gone or angry never touches the training."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from email.message import EmailMessage

from musictrain.notifications.mail_settings import MailSettings
from musictrain.notifications.messages import Message, digest
from musictrain.notifications.smtp import MailError, Step, make_mail, send

log = logging.getLogger(__name__)

MOST_WAITING = 100
HOUR = 3600.0
# These are told at once, whatever went before; they come once a run.
URGENT = ("failure", "finish")
PAUSES = (5.0, 30.0, 120.0, 600.0)

Send = Callable[[MailSettings, EmailMessage], "list[Step]"]


class RateLimit:
    """At most ``most`` within any hour.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._times: deque[float] = deque(maxlen=most)

    def note(self, now: float) -> None:
        """One has been sent."""
        self._times.append(now)

    def wait(self, now: float) -> float:
        """Seconds until one more may be sent.

        >>> limit = RateLimit(2)
        >>> limit.note(0.0); limit.note(10.0)
        >>> limit.wait(20.0), limit.wait(3601.0)
        (3580.0, 0.0)
        """
        return max(0.0, self._times[0] + HOUR - now) if len(self._times) == self.most else 0.0


class Outbox:
    """Sends messages in a thread of its own.

    What may not be sent yet, or could not be, waits and goes out together as one mail. Of many the oldest give way, and how many is said
    in the mail. A failure is logged once, as a warning; then it is tried again after longer and longer pauses.

    Args:
        settings: how mail is sent.
        send: hands over one mail; raises MailError.
        pauses: seconds before a second, third... try; the last one stays.
    """

    def __init__(self, settings: MailSettings, *, send: Send = send, pauses: tuple[float, ...] = PAUSES) -> None:
        self.settings = settings
        self.sent = 0
        self._send, self._pauses = send, pauses
        self._limit = RateLimit(settings.most_per_hour)
        self._waiting: deque[Message] = deque()
        self._lost = self._failures = 0
        self._not_before = 0.0
        self._changed = threading.Condition()
        self._closing = self._busy = self._warned = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def put(self, message: Message) -> None:
        """Hand over a message; never waits and never fails. A process that was forked off sends nothing."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(message)
            if self._thread is None:
                self._closing = False
                self._thread = threading.Thread(target=self._send_all, name="mail", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Send what waits, in one last try of at most ``timeout`` seconds; gives back whether nothing is left."""
        if os.getpid() != self._pid:
            return True
        with self._changed:
            self._closing, thread = True, self._thread
            self._changed.notify_all()
        if thread is None:
            return True
        thread.join(timeout)
        with self._changed:
            left = len(self._waiting) + (1 if self._busy and not self._waiting else 0)
        if thread.is_alive() or left:
            self._warn("The mail server %s did not take the last mails within %g s.", self.settings.server(), timeout)
        return not thread.is_alive() and not left

    # What the thread does.

    def _send_all(self) -> None:
        while True:
            with self._changed:
                while not self._due():
                    if self._closing and not self._waiting:
                        self._thread = None
                        return
                    self._changed.wait(self._rest())
                batch, self._waiting = list(self._waiting), deque()
                lost, self._lost = self._lost, 0
                self._busy, last = True, self._closing
            told = self._try(batch, lost)
            with self._changed:
                self._busy = False
                if not told:
                    self._take_back(batch, lost)
                if last and (not told or not self._waiting):
                    self._thread = None
                    return

    def _due(self) -> bool:
        """Whether to send what waits now. Urgent messages wait for no limit, and the last ones for nothing."""
        if not self._waiting:
            return False
        now = time.monotonic()
        urgent = any(message.event in URGENT for message in self._waiting)
        return self._closing or (now >= self._not_before and (urgent or self._limit.wait(now) == 0.0))

    def _rest(self) -> float | None:
        """Seconds until something may be due; None: until somebody calls."""
        now = time.monotonic()
        return max(self._not_before - now, self._limit.wait(now), 0.01) if self._waiting else None

    def _try(self, batch: list[Message], lost: int) -> bool:
        try:
            subject, text = digest(batch, lost)
            for step in self._send(self.settings, make_mail(self.settings, subject, text)):
                if step.said.startswith("taken, but"):
                    log.warning("A mail was %s.", step.said)
        except MailError as error:
            self._note_failure(str(error), error.advice)
            return False
        except Exception as error:
            self._note_failure(f"{type(error).__name__}: {error}", "")
            log.debug("A mail could not be sent.", exc_info=True)
            return False
        if self._failures:
            log.info("Mail goes out again.")
        self._failures, self._warned = 0, False
        self._limit.note(time.monotonic())
        self.sent += 1
        return True

    def _note_failure(self, what: str, advice: str) -> None:
        self._not_before = time.monotonic() + self._pauses[min(self._failures, len(self._pauses) - 1)]
        self._warn("No mail could be sent to %s: %s %s", self.settings.server(), what, advice)
        self._failures += 1

    def _warn(self, message: str, *args: object) -> None:
        """Once is enough, until mail goes out again."""
        log.log(logging.INFO if self._warned else logging.WARNING, message, *args)
        self._warned = True

    def _take_back(self, batch: list[Message], lost: int) -> None:
        together = [*batch, *self._waiting]
        dropped = max(len(together) - MOST_WAITING, 0)
        self._waiting = deque(together[dropped:])
        self._lost += lost + dropped
