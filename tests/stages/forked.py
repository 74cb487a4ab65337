"""Real stages without the seconds of an import: a process that has imported everything forks drivers, and these fork their stages.

A callback in the stages' configuration kills at drawn places: the stage, its driver, or both. Where to, an environment variable says.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from musictrain.cli import stages_driving
from musictrain.cli.commands import main

KILLS, DRIVER = "STAGES_KILLS", "STAGES_DRIVER"
BEFORE = -1  # the first step, and the first version


class Killer(Callback):
    """Kills as the file says that ``STAGES_KILLS`` names: ``[[stage, step, victim], ...]``, each once.

    Args:
        stage: in which this one is.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._kill(trainer, BEFORE)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._kill(trainer, trainer.global_step)

    def _kill(self, trainer: Trainer, step: int) -> None:
        path = Path(os.environ.get(KILLS) or "/nowhere")
        told = json.loads(path.read_text()) if path.exists() else []
        for place in [each for each in told if each[:2] == [self.stage, step]]:
            path.write_text(json.dumps([each for each in told if each != place]))
            victim = place[2]
            if victim in ("driver", "both"):
                os.kill(int(os.environ[DRIVER]), signal.SIGKILL)
            if victim == "asked":
                os.kill(int(os.environ[DRIVER]), signal.SIGTERM)
                wait_for_word(trainer)
            if victim in ("stage", "both"):
                os.kill(os.getpid(), signal.SIGKILL)


def wait_for_word(trainer: Trainer) -> None:
    """Do nothing until the driver has passed on what it was asked to."""
    until = time.monotonic() + 120
    while not trainer.received_sigterm and time.monotonic() < until:  # type: ignore[attr-defined]
        time.sleep(0.02)


class Forked:
    """A child of this process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def fork(words: Sequence[str], log: Path, variables: Mapping[str, str], descriptor: int) -> Forked:
    """In place of ``launch``."""
    driver = os.getpid()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return Forked(pid)
    status = 1
    try:
        os.setsid()
        _say_into(log)
        for number in stages_driving_signals():
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.environ.update({**variables, DRIVER: str(driver)})
        status = main(list(words))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def stages_driving_signals() -> Sequence[int]:
    return importlib.import_module("musictrain.runs.processes").ASKED


def _say_into(log: Path) -> None:
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)


@contextmanager
def warmed_up(folder: Path) -> Iterator[Any]:
    """Gives a function that types ``stages`` in a fork: exit status, negative for a signal, once the driver has ended."""
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
    for module in ("musictrain.cli.training", "musictrain.cli.lightning_cli", "musictrain.datamodule", "musictrain.module"):
        importlib.import_module(module)
    stages_driving.launch = fork  # type: ignore[assignment]
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.environ[KILLS] = order["kills"]
            _say_into(Path(order["log"]))
            status = main(["stages", *order["words"]])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
