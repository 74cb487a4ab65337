"""How a command ends: its exit status, and the short errors that lead to it."""

from __future__ import annotations

FINISHED = 0
FAILED = 1
WRONG_USAGE = 2
STOPPED_BY_RULE = 3
INTERRUPTED = 130
TERMINATED = 143


class UsageError(Exception):
    """What was typed cannot work; the message says what came, what was expected and what to do. Exit status 2."""


class CommandError(Exception):
    """What was typed is fine, but it cannot be done here and now; the message says why and what to do. Exit status 1."""
