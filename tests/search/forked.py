"""Real searches without the seconds of an import: a process that has imported everything forks drivers, and these fork their trials.

A callback in the configuration of the trials kills at drawn places: the trial, the driver, or both; or it asks the driver to end.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from musictrain.cli import search
from musictrain.cli.commands import main
from musictrain.runs.processes import ASKED
from musictrain.search import trial_job

KILLS = "SEARCH_KILLS"
BEFORE = -1  # the first step, and the first version
WAIT_SECONDS = 240.0

Drive = Callable[..., int]
"""Types ``search`` with these words; what it prints is added to a file; kills as another file says."""


class Killer(Callback):
    """Kills as the file says that ``SEARCH_KILLS`` names: ``[[run, step, victim], ...]``, each once."""

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._kill(trainer, BEFORE)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._kill(trainer, trainer.global_step)

    def _kill(self, trainer: Trainer, step: int) -> None:
        path, run = Path(os.environ.get(KILLS) or "/nowhere"), Path(str(trainer.log_dir)).name
        told = json.loads(path.read_text()) if path.exists() else []
        for place in [each for each in told if each[:2] == [run, step]]:
            # Another trial may be at its own place in this moment: each place has a mark of its own.
            mark = path.with_name(f"{path.stem}-{run}-{step}-{place[2]}")
            if not mark.exists():
                mark.touch()
                self._do(trainer, place[2])

    def _do(self, trainer: Trainer, victim: str) -> None:
        if victim in ("driver", "both"):
            os.kill(present_driver(), signal.SIGKILL)
        if victim == "asked":
            driver = present_driver()
            wait_for_word(lambda: os.kill(driver, signal.SIGTERM))
        if victim in ("trial", "both"):
            os.kill(os.getpid(), signal.SIGKILL)


def present_driver() -> int:
    """The driver that hears signals now: that of this trial may have been killed, and the next one has to begin."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        try:
            pid = int(Path(os.environ[KILLS]).with_suffix(".driver").read_text())
            caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        except (OSError, ValueError):
            caught = None
        if caught is not None and int(caught[1], 16) & 1 << (signal.SIGTERM - 1):
            return pid
        time.sleep(0.02)
    raise AssertionError("no driver came")


def wait_for_word(ask: Callable[[], None]) -> None:
    """Ask the driver, and do nothing until its job has passed that on."""
    heard: list[int] = []
    earlier = signal.getsignal(signal.SIGTERM)

    def hear(number: int, frame: Any) -> None:
        heard.append(number)
        if callable(earlier):
            earlier(number, frame)

    signal.signal(signal.SIGTERM, hear)
    ask()
    until = time.monotonic() + WAIT_SECONDS
    while not heard and time.monotonic() < until:
        time.sleep(0.02)
    signal.signal(signal.SIGTERM, earlier)


class Forked:
    """A child of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def fork(words: Sequence[str], log: Path, variables: Mapping[str, str], *descriptors: int) -> Forked:
    """In place of ``launch``."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Forked(pid)
    status = 1
    try:
        os.setsid()
        _say_into(log)
        for number in ASKED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.update({name: value for name, value in variables.items() if value})
        status = main(list(words))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _say_into(log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)


@contextmanager
def warmed_up(folder: Path) -> Iterator[Drive]:
    """Gives a function that types ``search`` in a fork: exit status, negative for a signal, once the driver has ended."""
    server = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=folder
    )
    assert server.stdin is not None
    assert server.stdout is not None
    orders, answers = server.stdin, server.stdout

    def drive(words: Sequence[str], log: Path, kills: Path | None = None) -> int:
        orders.write(json.dumps({"words": list(words), "log": str(log), "kills": str(kills or "")}) + "\n")
        return int(answers.readline())

    try:
        yield drive
    finally:
        orders.close()
        server.wait(120)


def serve() -> None:
    """Fork a driver for each line of orders; answer with its exit status."""
    modules = ("training", "lightning_cli", "search_driving", "search_workers", "search_telling", "search_checking")
    for module in (*(f"musictrain.cli.{name}" for name in modules), "musictrain.datamodule", "musictrain.module", "sklearn.ensemble"):
        importlib.import_module(module)
    trial_job.launch = search.launch = fork  # type: ignore[assignment]
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.environ[KILLS] = order["kills"]
            _say_into(Path(order["log"]))
            status = main(["search", *order["words"]])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        if order["kills"]:
            Path(order["kills"]).with_suffix(".driver").write_text(str(pid))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
