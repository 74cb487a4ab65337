"""What every test may rely on: no network, no file in the user's own cache, one thread, and files of the repository by `repository`.

Laws over drawn cases draw the same ones every time, so that a red run is the fault of what was changed; `--hypothesis-profile=search`
draws new ones, many more.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("MPLBACKEND", "Agg")
# Tiny networks are faster on one thread, and their sums come out the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How wide the terminal is from which the tests were started is nothing to them; processes of a parallel run are told a width.
for _size in ("COLUMNS", "LINES"):
    os.environ.pop(_size, None)
# A shell lets what it starts in the background ignore Ctrl-C, and so would every program that a test presses Ctrl-C on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("same cases", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2_000)
settings.load_profile("same cases")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that is being tested."""
    return REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def corpus_cache(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where corpora are cached while testing, kept from one test run to the next, for subprocesses too."""
    folder = Path(request.config.cache.mkdir("musictrain-corpora"))  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSICTRAIN_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Any connection that would leave this machine is an error: musictrain works offline."""
    connect = socket.socket.connect

    def connect_on_this_machine(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and not _is_this_machine(str(address[0])):
            raise AssertionError(f"A test tried to connect to {address!r}: musictrain works offline, and so do its tests.")
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_on_this_machine)
        yield


def _is_this_machine(host: str) -> bool:
    if host in {"", "localhost", socket.gethostname()}:
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False
