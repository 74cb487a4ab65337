"""Ports for servers and groups of processes: two test runs at once, or two workers of one, are never given the same."""

from __future__ import annotations

import os
import random
import socket

FIRST, EACH = 10_000, 1_000
"""Below the ports that the system itself gives to connections; so many for each worker of a parallel test run."""
_DRAWN = random.SystemRandom()


def free_port() -> int:
    """A port of this worker's own that nobody listens on; what it starts may ask too.

    Raises:
        OSError: if none is left.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 20
    first = FIRST + EACH * worker
    for port in _DRAWN.sample(range(first, first + EACH), EACH):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"All ports from {first} to {first + EACH - 1} are taken.")
