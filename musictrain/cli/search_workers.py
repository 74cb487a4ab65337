"""Who does the jobs of a round: threads of this process, each waiting for a process of its own, or the workers of a Dask cluster.

Both are joblib's. A job is the same on either: see ``musictrain.search.trial_job``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictrain.cli.exits import CommandError, UsageError
from musictrain.search.trial_job import LOOK_SECONDS, Outcome, Task, train

CONNECT_SECONDS = 30
WORKERS_SECONDS = 60


@dataclass(frozen=True)
class Work:
    """Does jobs, and gives back what came of each as it comes.

    Args:
        do: all jobs of a round.
        slots: how many at the same time.
    """

    do: Callable[[Sequence[Task]], Iterable[Outcome]]
    slots: int


def local_workers(slots: int, do: Callable[[Task], Outcome] = train) -> Work:
    """So many jobs at a time on this machine.

    Args:
        slots: how many.
        do: does one.
    """
    return Work(lambda tasks: _in_parallel(tasks, do, slots, {"backend": "threading"}), slots)


@contextmanager
def cluster_workers(address: str, do: Callable[[Task], Outcome] = train) -> Iterator[Work]:
    """As many jobs at a time as the workers of a Dask cluster have threads.

    Args:
        address: of the scheduler, such as ``tcp://10.0.0.1:8786``; or a file that the scheduler has written.
        do: does one; the workers must be able to import it.

    Raises:
        UsageError: if Dask is not installed.
        CommandError: if the scheduler does not answer, or has no workers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("--cluster needs Dask on this machine and on all workers: pip install 'musictrain[cluster]'.") from error
    where = {"scheduler_file": str(written(Path(address)))} if address.endswith(".json") else {"address": address}
    try:
        client = Client(timeout=CONNECT_SECONDS, set_as_default=False, **where)
    except (OSError, ValueError, TypeError) as error:
        raise CommandError(
            f"No Dask scheduler answers at {address}: {str(error) or type(error).__name__}. Start one with `dask scheduler`, and workers "
            "on every machine with `dask worker ADDRESS --nthreads TRIALS`."
        ) from error
    try:
        check_workers(client, address)
        yield Work(lambda tasks: _on_cluster(tasks, do, client, address), sum(client.nthreads().values()))
    finally:
        client.close(timeout=CONNECT_SECONDS)


def written(file: Path) -> Path:
    """The file that a scheduler has written, once it is there.

    Raises:
        CommandError: if it is not, for a minute.
    """
    until = time.monotonic() + WORKERS_SECONDS
    while not file.is_file():
        if time.monotonic() > until:
            raise CommandError(f"No Dask scheduler has written {file}. Start one: `dask scheduler --scheduler-file {file}`.")
        time.sleep(LOOK_SECONDS)
    return file


def check_workers(client: Any, address: str) -> None:
    """Wait for the first worker, and refuse a cluster whose workers do not have what this machine has.

    Raises:
        CommandError: saying what is missing.
    """
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except (TimeoutError, OSError) as error:
        raise CommandError(
            f"The Dask scheduler at {address} has no workers. Start some: `dask worker {address} --nthreads TRIALS`."
        ) from error
    here = versions()
    for worker, there in client.run(versions, on_error="return").items():
        if isinstance(there, BaseException):
            raise CommandError(f"The worker {worker} cannot do the trials of this search: {type(there).__name__}: {there}.")
        if there != here:
            differ = ", ".join(f"{name} {there.get(name)} there, {value} here" for name, value in here.items() if there.get(name) != value)
            raise CommandError(f"The worker {worker} is another than this machine: {differ}. A search needs the same on all of them.")


def versions() -> dict[str, str]:
    """What the result of a trial hangs on."""
    import platform

    from musictrain.runs.environment import package_versions

    found = package_versions(["musictrain", "torch", "lightning"])
    return {"python": platform.python_version(), **{name: str(version) for name, version in found.items()}}


def _in_parallel(tasks: Sequence[Task], do: Callable[[Task], Outcome], jobs: int, backend: dict[str, Any]) -> Iterator[Outcome]:
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(**backend):
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(delayed(do)(task) for task in tasks)


def _on_cluster(tasks: Sequence[Task], do: Callable[[Task], Outcome], client: Any, address: str) -> Iterator[Outcome]:
    """A worker that is lost is none of a trial's doing: Dask gives its job to another one. The scheduler is not."""
    backend = {"backend": "dask", "client": client, "wait_for_workers_timeout": WORKERS_SECONDS}
    try:
        yield from _in_parallel(tasks, do, -1, backend)
    except Exception as error:
        raise CommandError(
            f"The cluster at {address} has given up: {type(error).__name__}: {error}. Trials that are at work go on by themselves, and the "
            "same command waits for them."
        ) from error


def as_they_come(work: Work, tasks: Sequence[Task], look_seconds: float = LOOK_SECONDS) -> Iterator[Outcome | None]:
    """What came of each job, and None whenever nothing has for a moment, so that whoever waits can draw and hear signals.

    Raises:
        Exception: what the workers raise, such as the loss of a cluster.
    """
    told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_feed, args=(work, tasks, told), name="search-workers", daemon=True).start()
    while True:
        try:
            what, found = told.get(timeout=look_seconds)
        except queue.Empty:
            yield None
            continue
        if what == "end":
            return
        if what == "error":
            raise found
        yield found


def _feed(work: Work, tasks: Sequence[Task], told: queue.SimpleQueue[tuple[str, Any]]) -> None:
    try:
        for outcome in work.do(tasks):
            told.put(("outcome", outcome))
        told.put(("end", None))
    except BaseException as error:
        told.put(("error", error))
