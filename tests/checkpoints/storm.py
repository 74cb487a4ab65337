"""Kill storms: real fits that are killed with SIGKILL again and again, and start again by ``--ckpt_path auto`` until they are done.

A fit is started by the real command line, or forked from a process that has imported everything already: that one costs a second less for
each of many kills. A callback notes where the fit is, so that kills can be aimed.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from musictrain.checkpoints.disk import TEMPORARY
from musictrain.cli.commands import main
from musictrain.runs import list_runs

WHERE = "STORM_WHERE"
STARTING, STEPPING, VALIDATING, ENDING = "starting", "stepping", "validating", "ending"
SAVING = "saving"
AIMS = (STEPPING, SAVING, STARTING, VALIDATING)
LONGEST_SECONDS = 900.0


class Whereabouts(Callback):
    """Writes what the fit is doing into the file that an environment variable names; nothing without one."""

    def _now(self, where: str) -> None:
        if os.environ.get(WHERE) and os.environ.get("LOCAL_RANK", "0") == "0":
            # Overwritten in place: a reader never finds it empty.
            with Path(os.environ[WHERE]).open("r+") as file:
                file.write(f"{where:<10}")

    def on_train_start(self, *args: Any) -> None:
        self._now(STEPPING)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            self._now(ENDING)

    def on_validation_start(self, trainer: Trainer, *args: Any) -> None:
        if not trainer.sanity_checking and trainer.global_step < trainer.max_steps:
            self._now(VALIDATING)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        if not trainer.sanity_checking and trainer.global_step < trainer.max_steps:
            self._now(STEPPING)


@dataclass
class Life:
    """One start of a fit, in a process group of its own."""

    pid: int
    ended: Callable[[float], int | None]
    """Waits so many seconds for the end; gives back the exit status, None if it still runs."""

    def kill(self, pid: int | None = None) -> None:
        os.kill(pid or self.pid, signal.SIGKILL)

    def sweep(self) -> None:
        """Kill what is left of the group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


Start = Callable[[Sequence[str], Path], Life]
"""Starts ``musictrain`` with these words; what it prints goes to ``log`` in the folder, what it is doing to ``where``."""


def start_by_command_line(words: Sequence[str], folder: Path) -> Life:
    """``python -m musictrain``, as anybody would type it."""
    environment = {**os.environ, WHERE: str(folder / "where")}
    with (folder / "log").open("ab") as out:
        command = [sys.executable, "-m", "musictrain", *words]
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)

    def ended(seconds: float) -> int | None:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    return Life(process.pid, ended)


@contextmanager
def warmed_up(folder: Path) -> Iterator[Start]:
    """A process that has imported everything, and forks a fit whenever it is asked to."""
    server = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=folder
    )
    assert server.stdin is not None
    assert server.stdout is not None
    orders, answers = server.stdin, server.stdout

    def ended(seconds: float) -> int | None:
        return int(answers.readline()) if select.select([answers], [], [], seconds)[0] else None

    def start(words: Sequence[str], folder: Path) -> Life:
        orders.write(json.dumps({"words": list(words), "folder": str(folder)}) + "\n")
        return Life(int(answers.readline()), ended)

    try:
        yield start
    finally:
        orders.close()
        server.wait(300)


def serve() -> None:
    """Fork a fit for each line of orders; answer with its process, and with its exit status once it has ended."""
    for module in ("musictrain.cli.training", "musictrain.cli.lightning_cli", "musictrain.datamodule", "musictrain.module"):
        importlib.import_module(module)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(_live(order))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _live(order: dict[str, Any]) -> int:
    os.setsid()
    folder = Path(order["folder"])
    out = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    os.environ[WHERE] = str(folder / "where")
    status = main(order["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    return status


# The storm.


@dataclass
class Storm:
    """What came of one.

    Args:
        killed: how often, by what the fit was doing.
        lives: how often it was started.
        seconds: how long it all took.
    """

    killed: Counter[str]
    lives: int
    seconds: float


def until_done(start: Start, words: Sequence[str], folder: Path, kills: int, pace: float = 0.2, seed: int = 0) -> Storm:
    """Start a fit in ``folder / "runs"`` again and again, and kill it so many times, until it has ended by itself.

    Args:
        start: how.
        words: the options of ``fit``.
        folder: of the runs and the log.
        kills: so many, fewer if the fit is done sooner.
        pace: seconds a life may train at most before it is killed, where it is killed between two saves.
        seed: of the moments.

    Raises:
        AssertionError: if it ends otherwise than by being done, or hangs.
    """
    chance, killed, began, start_seconds = random.Random(seed), Counter[str](), time.monotonic(), 1.0
    folder.mkdir(parents=True, exist_ok=True)
    for lives in range(1, kills + 2):
        (folder / "where").write_text(f"{STARTING:<10}")
        life = start(["fit", *words, "--runs", str(folder / "runs"), "--name", "storm", "--ckpt_path", "auto"], folder)
        aim = AIMS[(lives - 1) % len(AIMS)] if lives <= kills else ""
        moment = chance.random() * {STARTING: start_seconds, STEPPING: pace, VALIDATING: 0.05, SAVING: 0.01}.get(aim, 0.0)
        try:
            status, place, started_after = wait_and_kill(life, aim, folder, moment)
        finally:
            life.sweep()
        if status == 0:
            return Storm(killed, lives, time.monotonic() - began)
        assert status == -signal.SIGKILL, f"exit status {status} while aiming at {aim!r}:\n{(folder / 'log').read_text()[-3000:]}"
        killed[place] += 1
        start_seconds = started_after or start_seconds
    raise AssertionError(f"it was not done after {kills} kills:\n{(folder / 'log').read_text()[-3000:]}")


def wait_and_kill(life: Life, aim: str, folder: Path, moment: float) -> tuple[int, str, float]:
    """Kill a fit so many seconds after it does what is aimed at, never if that is empty.

    Gives back its exit status, what it was doing when it was hit, and after how many seconds it was seen to train, 0 if it was not.
    """
    began, place, started_after = time.monotonic(), "", 0.0
    while time.monotonic() < began + LONGEST_SECONDS:
        if not started_after and whereabouts(folder) != STARTING:
            started_after = time.monotonic() - began
        if aim and not place and hit(aim, folder):
            time.sleep(moment)
            place = whereabouts(folder)
            if place != ENDING:
                life.kill()
        if (status := life.ended(0.1 if place or not aim else 0.001)) is not None:
            return status, place, started_after
    raise AssertionError(f"the fit has not ended in {LONGEST_SECONDS:g} seconds:\n{(folder / 'log').read_text()[-3000:]}")


def hit(aim: str, folder: Path) -> bool:
    """Whether the fit is doing what is aimed at; one that has just been started is starting, whatever becomes of it."""
    return aim in (STARTING, whereabouts(folder))


def whereabouts(folder: Path) -> str:
    """What the fit is doing: what its callback says, and whether a version is being written meanwhile."""
    where = (folder / "where").read_text().strip()
    writing = where in (STEPPING, VALIDATING) and any(folder.glob(f"runs/*/checkpoints/{TEMPORARY}*.ckpt"))
    return SAVING if writing else where


def uninterrupted(start: Start, words: Sequence[str], folder: Path) -> None:
    """The same fit without a storm.

    Raises:
        AssertionError: if it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "where").write_text(f"{STARTING:<10}")
    life = start(["fit", *words, "--runs", str(folder / "runs"), "--name", "whole"], folder)
    assert life.ended(LONGEST_SECONDS) == 0, (folder / "log").read_text()[-3000:]


def run_in(folder: Path) -> Any:
    """The one run with versions; lives that ended before their first save have left folders without."""
    (run,) = [run for run in list_runs(folder / "runs") if any(run.checkpoints.glob("v*"))]
    return run


if __name__ == "__main__":
    serve()
