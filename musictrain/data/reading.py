"""Many score files at once, in processes of their own: a crash, a hang or a memory bomb costs one file.

Each worker is a plain child process, not one of ``multiprocessing``: those import the caller's script again, which breaks scripts
without an ``if __name__ == "__main__"`` guard, and when one dies nobody knows which file it held.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from musictrain.data.reading_worker import READY
from musictrain.data.source_reading import Reading, read_source
from musictrain.data.sources import Source

SECONDS_PER_FILE = 120.0
MOST_WORKERS = 16
WORKER_COMMAND = (sys.executable, "-m", "musictrain.data.reading_worker")


def read_in_order(
    sources: Sequence[Source], *, workers: int | None = None, seconds_per_file: float = SECONDS_PER_FILE
) -> Iterator[Reading]:
    """What each source gave, in the order of the sources; files are read ahead while the caller works.

    Args:
        sources: the files.
        workers: processes; None takes one for each CPU this process may use, at most 16; 0 reads here, without protection.
        seconds_per_file: a file that takes longer is given up.

    Raises:
        ValueError: if ``workers`` is negative.
        RuntimeError: if worker processes cannot be started at all.
    """
    if workers is not None and workers < 0:
        raise ValueError(f"workers={workers}, expected 0 (read in this process) or more.")
    workers = min(usable_cpus() if workers is None else workers, len(sources), MOST_WORKERS)
    return _Pool(sources, seconds_per_file).run(workers) if workers else map(read_source, sources)


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Pool:
    """Threads that each keep one worker process busy; the caller takes the readings in order."""

    def __init__(self, sources: Sequence[Source], seconds_per_file: float) -> None:
        self.sources, self.seconds_per_file = sources, seconds_per_file
        self.numbers = iter(range(len(sources)))
        self.outcomes: queue.SimpleQueue[tuple[int, Reading | BaseException]] = queue.SimpleQueue()
        self.workers: list[Worker] = []
        self.stopped = threading.Event()
        self.lock = threading.Lock()

    def run(self, workers: int) -> Iterator[Reading]:
        threads = [threading.Thread(target=self._keep_busy, daemon=True) for _ in range(workers)]
        early: dict[int, Reading] = {}
        try:
            for thread in threads:
                thread.start()
            for number in range(len(self.sources)):
                while number not in early:
                    done, outcome = self.outcomes.get()
                    if isinstance(outcome, BaseException):
                        raise outcome
                    early[done] = outcome
                yield early.pop(number)
        finally:
            self.stopped.set()
            for worker in self.workers:
                worker.kill()
            for thread in threads:
                thread.join()

    def _keep_busy(self) -> None:
        worker = Worker(self.seconds_per_file)
        self.workers.append(worker)
        try:
            while (number := self._next()) is not None:
                self.outcomes.put((number, worker.read(self.sources[number])))
        except BaseException as error:
            self.outcomes.put((-1, error))
        finally:
            worker.close()

    def _next(self) -> int | None:
        with self.lock:
            return None if self.stopped.is_set() else next(self.numbers, None)


class Worker:
    """One child process that reads files; started when needed, started anew after it died or was given up."""

    def __init__(self, seconds_per_file: float = SECONDS_PER_FILE) -> None:
        self.seconds_per_file = seconds_per_file
        self.process: subprocess.Popen[bytes] | None = None

    def read(self, source: Source) -> Reading:
        """What the child makes of the source; a Reading with one rejection if it crashes or takes too long."""
        process = self._started()
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            process.kill()

        clock = threading.Timer(self.seconds_per_file, give_up)
        clock.start()
        try:
            return self._ask(process, source)
        except (EOFError, OSError, pickle.UnpicklingError):
            return Reading([], [(source.shown, self._why_it_ended(process, timed_out.is_set()))])
        finally:
            clock.cancel()

    def _ask(self, process: subprocess.Popen[bytes], source: Source) -> Reading:
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(source, process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(WORKER_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment())
            self._await_ready(self.process)
        return self.process

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        try:
            ready = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            ready = None
        if ready != READY:
            self.close()
            raise RuntimeError(f"A process to read scores in could not be started ({sys.executable}). workers=0 reads without one.")

    def _why_it_ended(self, process: subprocess.Popen[bytes], timed_out: bool) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        self.close()
        if timed_out:
            return f"takes longer than {self.seconds_per_file:g} seconds to read"
        return f"reading it ended the process (exit status {process.returncode})"

    def kill(self) -> None:
        """End the child at once, from any thread; whoever waits for its answer gets a rejection."""
        if (process := self.process) is not None:
            process.kill()

    def close(self) -> None:
        """End the child and let go of its pipes."""
        if self.process is None:
            return
        self.process.kill()
        self.process.communicate()
        self.process = None


def _environment() -> dict[str, str]:
    """This process's environment and import path; one thread of arithmetic, since every CPU already has a worker."""
    import musictrain

    package_folder = str(Path(musictrain.__file__).resolve().parents[1])
    path = os.pathsep.join([package_folder, *(entry for entry in sys.path if entry)])
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
