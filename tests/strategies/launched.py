"""Runs that torchrun, srun or Lightning start as programs of their own, and the ends that are made of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.storing import load
from musictrain.runs import list_runs
from tests.cli.tiny import tiny_config, write_config, write_corpus

REPOSITORY = Path(__file__).resolve().parents[2]
ELASTIC = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
BOUND_SECONDS = 300


class Deadly(Callback):
    """Kills its own process with SIGKILL after some step, unless the file that it leaves is there already; every step takes its time.

    Args:
        mark: the file.
        rank: of the process.
        step: after which.
        pause: seconds that each step takes at least.
        absence: seconds that the other processes do something else after that step.
    """

    def __init__(self, mark: str, rank: int = 1, step: int = 8, pause: float = 0.0, absence: float = 0.0) -> None:
        self.mark, self.rank, self.step, self.pause, self.absence = Path(mark), rank, step, pause, absence

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        time.sleep(self.pause)
        if trainer.global_step == self.step and trainer.global_rank == self.rank and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if trainer.global_step == self.step:
            time.sleep(self.absence)


def config_of(folder: Path, *, steps: int = 16, **deadly: Any) -> Path:
    """A tiny run that saves every third step; ``deadly`` are arguments of Deadly."""
    config = tiny_config(write_corpus(folder / "frames.json"))
    config["trainer"] |= {
        "max_steps": steps,
        "val_check_interval": 6,
        "limit_val_batches": 1,
        "enable_progress_bar": False,
        "callbacks": [
            {"class_path": "musictrain.callbacks.WriteSamples", "init_args": {"num": 0, "continuations": 0}},
            {"class_path": "musictrain.callbacks.VersionedCheckpoint", "init_args": {"every_n_train_steps": 3, "every_n_minutes": 0}},
            {"class_path": "tests.strategies.launched.Deadly", "init_args": {"mark": str(folder / "killed"), **deadly}},
        ],
    }
    return write_config(folder / "run.yaml", config)


def fit_words(config: Path, runs: Path, *more: str) -> list[str]:
    """The words after ``python -m musictrain``."""
    return ["fit", "--config", str(config), "--runs", str(runs), "--name", "run", *more]


def torchrun_words(*options: str, processes: int = 2) -> list[str]:
    """torchrun up to the module's own words; on one machine at a free port."""
    place = options if any(option.startswith("--master") for option in options) else ("--standalone", *options)
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), *place, "-m", "musictrain"]


@contextmanager
def started(words: list[str], log: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own, of which nothing is left afterwards."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    with log.open("w") as output:
        program = subprocess.Popen(
            words, cwd=REPOSITORY, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
    try:
        yield program
    finally:
        end_session(program.pid)
        program.wait(timeout=120)


def run_to_end(words: list[str], log: Path, *, timeout_seconds: float = 600, **variables: str) -> tuple[int, str]:
    """Exit status and what was printed."""
    with started(words, log, **variables) as program:
        status = program.wait(timeout=timeout_seconds)
    return status, log.read_text()


def processes_of_session(session: int) -> list[int]:
    """Those that live, by the number of the first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(folder.name))
    return found


def end_session(session: int) -> None:
    """SIGKILL for what is left of it, torchrun's workers with sessions of their own included."""
    for number in [*workers_of(processes_of_session(session)), *processes_of_session(session)]:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue


def workers_of(parents: list[int]) -> list[int]:
    """Children of these processes, and theirs."""
    found: list[int] = []
    for parent in parents:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                children = [int(number) for number in task.read_text().split()]
            except OSError:
                continue
            found += [*children, *workers_of(children)]
    return list(dict.fromkeys(found))


def rank_of(number: int) -> str:
    """``RANK`` (or Lightning's ``LOCAL_RANK``) of a process; empty if it has none or is gone."""
    try:
        variables = dict(word.partition("=")[::2] for word in Path(f"/proc/{number}/environ").read_text().split("\0"))
    except OSError:
        return ""
    return variables.get("RANK") or variables.get("LOCAL_RANK", "")


def is_alive(number: int) -> bool:
    """Whether a process runs; one whose end nobody has taken note of does not."""
    try:
        return (Path("/proc") / str(number) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(holds: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait for something to hold; gives it back.

    Raises:
        TimeoutError: if it never does.
    """
    end = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > end:
            raise TimeoutError("what was waited for did not come")
        time.sleep(0.1)
    return found


def steps_saved(runs: Path) -> list[int]:
    """Steps of the sealed versions of the newest run."""
    found = list_runs(runs)
    return sorted(version.step for version in list_versions(found[-1].checkpoints)) if found else []


def last_weights(runs: Path) -> dict[str, torch.Tensor]:
    """Weights of the highest version of the only run."""
    (run,) = list_runs(runs)
    version = max(list_versions(run.checkpoints), key=lambda version: version.step)
    return load(version.path)["state_dict"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
