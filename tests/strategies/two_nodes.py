"""Two machines that are none: network namespaces with a cable between them, in which processes see each other as other nodes do."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=120)


def can_make_nodes() -> bool:
    """Whether this machine lets us: it takes root and the program ip."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"mt-try-{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except (subprocess.SubprocessError, OSError):
        return False
    _ip("netns", "delete", name)
    return True


@contextmanager
def two_nodes() -> Iterator[tuple[str, str]]:
    """The names of two namespaces with the ``ADDRESSES``, each on an interface ``eth0``; gone afterwards."""
    names = (f"mt-{os.getpid()}-a", f"mt-{os.getpid()}-b")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=120, check=False)


def on_node(name: str, words: list[str], variables: dict[str, str], **options: object) -> subprocess.Popen[str]:
    """Start a program on a node; processes that talk to each other there find their way by ``eth0``."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(["ip", "netns", "exec", name, *words], env=environment, text=True, **options)  # type: ignore[call-overload,no-any-return]


def pull_the_cable(name: str) -> None:
    """From now on nothing reaches this node or comes from it, and nobody is told."""
    _ip("-n", name, "link", "set", "eth0", "down")
