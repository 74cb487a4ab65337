"""The phases of training, and how any code says in which one it is. Standard library only."""

from __future__ import annotations

import contextlib
import threading
from typing import Protocol

from musictrain.suggestions import did_you_mean

PHASES = ("data", "forward", "backward", "optimizer", "validation", "sampling", "saving", "reporting", "other")
"""Waiting for data; the three parts of a step; what interrupts training; measuring itself; whatever is left."""

ASIDE = ("validation", "sampling", "saving", "reporting")
"""The phases in which nothing is trained."""


class Listener(Protocol):
    """Whatever keeps the time of phases."""

    def enter(self, phase: str) -> None:
        """A phase begins inside the present one."""

    def leave(self, phase: str) -> None:
        """It ends; nothing happens if it was never entered."""


# Who listens to which thread: a version that is written behind the training's back does not hold training up.
_listeners: dict[int, list[Listener]] = {}


def listen(listener: Listener) -> None:
    """Tell ``listener`` of the phases of this thread from now on; twice is once."""
    mine = _listeners.setdefault(threading.get_ident(), [])
    if listener not in mine:
        mine.append(listener)


def stop_listening(listener: Listener) -> None:
    """Tell it nothing any more; nothing happens if it did not listen."""
    for thread, listeners in list(_listeners.items()):
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            del _listeners[thread]


class _Phase(contextlib.ContextDecorator):
    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        for listener in _listeners.get(threading.get_ident(), ()):
            listener.enter(self.name)

    def __exit__(self, *error: object) -> None:
        for listener in _listeners.get(threading.get_ident(), ()):
            listener.leave(self.name)


def phase(name: str) -> _Phase:
    """What happens inside, ``with phase("sampling"):``, is of this phase; also a decorator, ``@phase("saving")``.

    Phases may lie inside one another: each moment belongs to the innermost. Costs nothing where nobody listens.

    Raises:
        ValueError: if ``name`` is not one of ``PHASES``.
    """
    if name not in PHASES:
        hint = did_you_mean(name, PHASES)
        raise ValueError(f"There is no phase {name!r} of training: {', '.join(PHASES)}.{hint and ' ' + hint}")
    return _Phase(name)
