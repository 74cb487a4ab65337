"""What it costs to write a run down: everything on against everything off.

*Off* is the bare Trainer: no logger, no callback, no progress line, no checkpoints. *On* is the same training with everything that
watches it: records and status, progress line, live page, ThroughputReport, notifications to a file, TensorBoard, and W&B offline. Samples
and versions are in neither: what they cost is measured elsewhere (``fit_speed``, ``checkpoints``).

Both train in one process, a step each in turn, since two processes after one another differ by ten parts in a hundred on the machine this
was written on. Threads and processes beside the training, which would slow both turns alike, are counted apart: what they compute is added
to the cost as if all of it had been taken from the training.

    python -m benchmarks.recording [steps]
"""

from __future__ import annotations

import contextlib
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from benchmarks.fit_sides import InTurn, asking
from benchmarks.fit_speed import paired, thirds
from benchmarks.results_file import write_result
from benchmarks.turns import Turns
from musictrain import Decoder, MusicDataModule, MusicModule

WARM_UP, ROWS, WINDOW, LOG_EVERY = 22, 8, 512, 10
ON, OFF = "on", "off"
TARGET = 0.02


class InTurns(MusicDataModule):
    """The chorales; a batch is made when this training has its turn."""

    name = ON

    def train_dataloader(self) -> Any:
        return InTurn(super().train_dataloader(), self.name)


def training(name: str, num_steps: int, folder: Path) -> Callable[[], object]:
    """One of the two."""
    seed_everything(1)
    data = InTurns(window=WINDOW, batch_size=ROWS)
    data.name = name
    options, callbacks = watchers(folder) if name == ON else ({"logger": False, "enable_progress_bar": False}, [])
    trainer = Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=num_steps,
        log_every_n_steps=LOG_EVERY,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **options,
    )
    module = MusicModule(Decoder(data.vocab_size, 256, 6, 4))
    return lambda: trainer.fit(module, data)


def watchers(folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Everything that watches a run, as options and callbacks of a Trainer."""
    from musictrain.callbacks import LivePage, Notifications, ProgressLine, RunLogger, RunRecorder, ThroughputReport
    from musictrain.loggers import TensorBoard, WandB

    loggers = [RunLogger(folder), TensorBoard(), WandB()]
    return {"logger": loggers}, [RunRecorder(), ThroughputReport(), LivePage(), Notifications(file=True), ProgressLine()]


class BesideTheTraining:
    """Processor seconds of Python's threads and of the processes beside the trainings, read every half second until they end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.since = 0.0
        self._first: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="this watch", daemon=True)

    def __enter__(self) -> BesideTheTraining:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        trainings = {thread.ident for thread in threading.enumerate()} - {self._thread.ident}
        while not self._ended.wait(0.5):
            for thread in threading.enumerate():
                if thread.ident not in trainings and thread not in (threading.current_thread(), *TRAININGS):
                    self._note(thread.name, f"/proc/self/task/{thread.native_id}/stat")
            for child in Path("/proc/self/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    for pid in child.read_text().split():
                        self._note(f"process {pid}", f"/proc/{pid}/stat")

    def _note(self, name: str, path: str) -> None:
        with contextlib.suppress(OSError, IndexError):
            fields = Path(path).read_text().rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            self._first.setdefault(name, used if not self.since else 0.0)
            self.seconds[name] = used - self._first[name]

    def begin(self) -> None:
        """What was before, such as starting W&B, does not count."""
        self._first = {name: self._first[name] + used for name, used in self.seconds.items()}
        self.seconds, self.since = {}, time.perf_counter()


TRAININGS: list[threading.Thread] = []


def measure(num_steps: int, folder: Path) -> dict[str, Any]:
    """The cost of everything on, as a share of the time."""
    load_before = os.getloadavg()[0]
    turns = Turns([ON, OFF])
    trainings = {name: training(name, num_steps, folder / name) for name in (ON, OFF)}
    trainings[OFF] = noting_its_thread(trainings[OFF])
    with BesideTheTraining() as beside, asking(turns):
        threading.Thread(target=begin_after_warm_up, args=(turns, beside), daemon=True).start()
        turns.run(trainings)
    rounds = list(turns.rounds(WARM_UP))
    on, off = ([each[name] for each in rounds] for name in (ON, OFF))
    held_up, elsewhere = 1 - paired(on, off), sum(beside.seconds.values()) / sum(on)
    return {
        "cost": round(held_up + elsewhere, 4),
        "of_it_on_the_training_thread": round(held_up, 4),
        "of_it_in_threads_and_processes_beside_at_most": round(elsewhere, 4),
        "target": TARGET,
        "ratio_in_each_third": thirds(on, off),
        "ratio_of_the_fastest_steps": round(min(off) / min(on), 4),
        "tokens_per_second": {name: round(ROWS * WINDOW / statistics.median(steps)) for name, steps in ((ON, on), (OFF, off))},
        "processor_seconds_beside": {name: round(used, 2) for name, used in sorted(beside.seconds.items()) if used},
        "rounds": len(rounds),
        "threads": torch.get_num_threads(),
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }


def noting_its_thread(train: Callable[[], object]) -> Callable[[], object]:
    """The training; the thread it runs in is known as one."""

    def run() -> None:
        TRAININGS.append(threading.current_thread())
        train()

    return run


def begin_after_warm_up(turns: Turns, beside: BesideTheTraining) -> None:
    """Begin to count when the rounds do."""
    while len(turns.seconds[ON]) < WARM_UP:
        time.sleep(0.05)
    beside.begin()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of the trainings on the terminal."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def main() -> None:
    """Measure and write ``results/recording.json``."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    with tempfile.TemporaryDirectory() as folder, quiet():
        result = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 80, Path(folder))
    write_result("recording", result)


if __name__ == "__main__":
    main()
