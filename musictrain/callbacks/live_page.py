"""LivePage: ``dashboard.html`` in the run folder, drawn again while the run goes on.

    Trainer(callbacks=[RunRecorder(), LivePage()])

Open the file by a double click: there is no server, and the page looks for new data by itself. At the end ``curves.png`` is written too.

When: always; it needs the records of a RunRecorder or a RunLogger. Cost: a thread of the first process that reads what the run has
written, at most every two seconds and at most about one part in a hundred of the time; nothing on the training thread.
"""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from musictrain.dashboard.curves import write_curves
from musictrain.dashboard.page_data import PageData
from musictrain.dashboard.page_files import write_data, write_page
from musictrain.runs.folder import RunFolder
from musictrain.runs.rollbacks import RolledBack
from musictrain.runs.status import read_status

log = logging.getLogger(__name__)

REST = 100  # times what the last drawing took
RECORDERS = {"RunRecorder", "RunLogger"}
LAST_WORD_SECONDS = 5.0
# Megabytes of metrics in one go: a long run that was resumed is read in portions, so that training never feels it.
PORTION = 4


class LivePage(Callback):
    """Writes the live page of a run, in a thread of its own.

    What goes wrong in it, such as a full disk, is logged once and never touches training. The page that is there stays.

    Args:
        every_seconds: least time between two drawings.
        curves: whether to write ``curves.png`` at the end.

    Raises:
        ValueError: if ``every_seconds`` is not positive.
    """

    def __init__(self, every_seconds: float = 2.0, curves: bool = True) -> None:
        if not every_seconds > 0:
            raise ValueError(f"LivePage got every_seconds={every_seconds}; it needs a positive number of seconds, such as 2.")
        self.every_seconds, self.curves = every_seconds, curves
        self._painter: Painter | None = None

    @property
    def path(self) -> Path | None:
        """The page that is being written; None where there is none."""
        return None if self._painter is None else self._painter.run.dashboard

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the page, and start the thread."""
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        parts = [*trainer.callbacks, *trainer.loggers]  # type: ignore[attr-defined]
        if not any(kind.__name__ in RECORDERS for part in parts for kind in type(part).__mro__):
            log.warning("LivePage has nothing to draw: nobody records this run. Add musictrain.callbacks.RunRecorder() to the callbacks.")
            return
        self._painter = Painter(RunFolder(Path(folder)), self.every_seconds, self.curves)
        self._painter.start()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The last drawing."""
        self._finish(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The last drawing, of a run that failed or was interrupted; one that has gone back is drawn on by the next fit."""
        if isinstance(exception, RolledBack) and self._painter is not None:
            self._painter.stop()
            self._painter = None
        self._finish(trainer)

    def on_end_between_fits(self, trainer: Trainer, run: RunFolder, error: BaseException) -> None:
        """The last drawing, of a run that has gone back and could not be fitted again."""
        if self._painter is None and run.dashboard.is_file():
            self._painter = Painter(run, self.every_seconds, self.curves)
            self._painter.start()
            self._finish(trainer)

    def _finish(self, trainer: Trainer) -> None:
        if self._painter is not None:
            for logger in trainer.loggers:
                if type(logger).__name__ == "RunLogger":
                    logger.flush(LAST_WORD_SECONDS)  # type: ignore[attr-defined]
            self._painter.finish()
            self._painter = None


class Painter:
    """The thread that draws.

    At the end the run's other writers may have their last word after this one's turn: it then waits for that word, up to five seconds,
    in the background; a program that ends waits for it too.
    """

    def __init__(self, run: RunFolder, every_seconds: float, curves: bool) -> None:
        self.run = run
        self._every_seconds, self._curves = every_seconds, curves
        self._data = PageData(run)
        self._ending = threading.Event()
        self._stopped = self._complained = False
        self._thread = threading.Thread(target=self._paint, name="musictrain live page", daemon=True)

    def start(self) -> None:
        """Draw until :meth:`finish`."""
        self._thread.start()
        # A daemon thread would be cut off in the middle of its last drawing.
        atexit.register(self._wait)

    def finish(self) -> None:
        """Draw once more and stop. Waits for it if the run has had its last word, else lets the thread wait for that."""
        self._ending.set()
        if self._has_ended():
            self._wait()

    def stop(self) -> None:
        """Stop without a last drawing, for one who draws the same run from now on."""
        self._stopped = True
        self._wait()

    def _wait(self) -> None:
        self._ending.set()
        self._thread.join(3 * LAST_WORD_SECONDS)
        atexit.unregister(self._wait)

    def _paint(self) -> None:
        self._try(lambda: write_page(self.run))
        while not self._ending.is_set():
            began = time.perf_counter()
            self._try(lambda: self._write_data(PORTION))
            self._ending.wait(max(self._every_seconds, REST * (time.perf_counter() - began)))
        if self._stopped:
            return
        self._wait_for_last_word()
        self._try(self._write_data)
        if self._curves:
            self._try(lambda: write_curves(self.run))

    def _write_data(self, most_blocks: float = math.inf) -> None:
        write_data(self.run, self._data.read(most_blocks))

    def _wait_for_last_word(self) -> None:
        until = time.monotonic() + LAST_WORD_SECONDS
        while not self._has_ended() and time.monotonic() < until:
            time.sleep(0.05)

    def _has_ended(self) -> bool:
        status = read_status(self.run.status)
        # Without a status there is no last word to wait for.
        return status is None or not status.is_active()

    def _try(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            if not self._complained:
                self._complained = True
                log.warning("The live page could not be drawn, and training goes on without it: %s: %s", type(error).__name__, error)
