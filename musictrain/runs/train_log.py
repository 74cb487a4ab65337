"""``train.log`` and the warnings of ``events.jsonl``: what people and programs read when something went wrong at night."""

from __future__ import annotations

import copy
import logging
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from musictrain.runs.log_lines import message_of, traceback_of
from musictrain.runs.log_writer import MOST_WAITING, LogWriter
from musictrain.runs.records import cut_torn_line
from musictrain.runs.repeats import Repeats

# Their records never reach the root logger: each keeps its own to itself, some only once they are imported.
PROUD_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")
TALKATIVE = ("torch", "wandb")
NEWS_FOR_PROGRAMMERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


class TrainLog(logging.Handler):
    """Keeps log records until there is a file for them, then writes those and all that follow, in a thread of its own.

    A run's folder is made when training begins, but the reasons why it never began are logged before: whoever holds the log can still
    write it elsewhere. The first process of a run writes ``train.log`` and the warnings among the events; any other one writes
    ``train_rank1.log`` and so on, and only if it has a warning to tell.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.path: Path | None = None
        self.rank_path: Path | None = None
        self._step: int | Callable[[], int] | None = None
        self._rank = rank_of_process()
        self._held: deque[logging.LogRecord] = deque(maxlen=MOST_WAITING)
        self._writer: LogWriter | None = None
        self._repeats = Repeats()
        self._heard: list[logging.Logger] = []
        self._told_before: Any = None
        self._in_emit = threading.local()

    def at(self, *, step: int | Callable[[], int] | None = None, rank: int | None = None) -> None:
        """Where the run stands, for all records from now on; what is left out stays.

        Args:
            step: optimizer steps done, or what tells their number whenever a record is written, which costs nothing between.
            rank: number of this process; by default what the environment says.
        """
        self._step = self._step if step is None else step
        self._rank = self._rank if rank is None else rank

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record, or hand it over to be written; one that comes by two ways is taken once."""
        quiet = record.levelno < logging.WARNING and record.name.split(".")[0] in TALKATIVE
        if quiet or getattr(record, "train_log", None) == id(self) or getattr(self._in_emit, "now", False):
            return
        record.train_log = id(self)
        self._in_emit.now = True  # what is logged meanwhile, such as by a message that is being shown, would never end
        try:
            repeats = self._repeats.note(record)
            if repeats is not None:
                self._take(self._final(record, repeats))
        finally:
            self._in_emit.now = False

    def open(self, path: str | Path, events: str | Path | None = None) -> None:
        """Append to this file from now on, beginning with what was kept.

        Args:
            path: the log for people.
            events: ``events.jsonl``, to which warnings and alerts are added; None for none.

        Raises:
            OSError: if it cannot be written.
        """
        self._close_file()
        if self._heard:
            self.listen()  # to those too that were imported since
        self.path = Path(path)
        if events is not None:
            # Now, before anybody else writes to that file.
            cut_torn_line(Path(events))
        writer = LogWriter(self.path, Path(events) if events is not None else None)
        with self._alone():
            self._writer, self.rank_path = writer, None
            self._take_held()

    def open_rank(self, folder: str | Path, rank: int) -> None:
        """In a process that is not the first: write ``train_rankN.log`` in the run folder as soon as there is a warning to tell."""
        self._close_file()
        self.at(rank=rank)
        with self._alone():
            self.rank_path = Path(folder) / f"train_rank{rank}.log"
            self._take_held()

    def listen(self) -> None:
        """Hear everything: this package's messages, lightning's, and all warnings and errors; may be called again after imports."""
        logging.getLogger("musictrain").setLevel(logging.INFO)
        for logger in proud_loggers():
            if self not in logger.handlers:
                logger.addHandler(self)
                self._heard.append(logger)
        if self._told_before is None:
            self._told_before, warnings.showwarning = warnings.showwarning, self._hear_warning

    def stop(self) -> None:
        """Hear no more, write what is left and give the file back."""
        heard, self._heard = self._heard, []
        for logger in heard:
            logger.removeHandler(self)
        if self._told_before is not None:
            if warnings.showwarning == self._hear_warning:
                warnings.showwarning = self._told_before
            self._told_before = None
        self._close_file()

    def flush(self) -> None:
        """Wait until everything is written, for seconds at most."""
        if self._writer is not None:
            self._writer.flush()

    def _final(self, record: logging.LogRecord, repeats: str) -> logging.LogRecord:
        """A copy that says the same for ever: the training goes on, and with it what a message speaks of."""
        final = copy.copy(record)
        traceback_of(final)
        final.told = final.msg = message_of(record) + repeats
        final.args, final.exc_info, final.repeats = None, None, repeats
        final.step, final.rank = getattr(record, "step", self._step_now()), getattr(record, "rank", self._rank)
        return final

    def _step_now(self) -> int | None:
        try:
            return self._step() if callable(self._step) else self._step
        except Exception:
            return None

    def _take(self, record: logging.LogRecord) -> None:
        if self._writer is None and self.rank_path is not None and record.levelno >= logging.WARNING:
            try:
                self._writer = LogWriter(self.rank_path)
            except OSError:
                self.rank_path = None
        if self._writer is not None:
            if self.rank_path is None or record.levelno >= logging.WARNING:
                self._writer.put(record)
        elif self.rank_path is None:
            self._held.append(record)

    def _take_held(self) -> None:
        held, self._held = self._held, deque(maxlen=MOST_WAITING)
        for record in held:
            self._take(record)

    def _close_file(self) -> None:
        with self._alone():
            writer = self._writer
            for repeat in self._repeats.unwritten() if writer is not None else ():
                told = copy.copy(repeat.record)
                told.created = time.time()
                self._take(self._final(told, f" (said {repeat.count:,} times in all)"))
            self._writer = None
        if writer is not None:
            writer.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No record comes in meanwhile."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _hear_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """What Python calls for each warning: hear it, unless it is for programmers, and let whoever heard it before hear it too."""
        before = self._told_before or warnings._showwarning_orig  # type: ignore[attr-defined]
        if file is None and not issubclass(category, NEWS_FOR_PROGRAMMERS):
            text = f"{filename}:{lineno}: {category.__name__}: {message}"
            self.handle(logging.LogRecord("py.warnings", logging.WARNING, filename, lineno, "%s", (text,), None))
        before(message, category, filename, lineno, file, line)


def proud_loggers() -> list[logging.Logger]:
    """The root logger, and those whose records never get there."""
    proud = [name for name, logger in list(logging.root.manager.loggerDict.items()) if _keeps_to_itself(name, logger)]
    return [logging.getLogger(name) for name in dict.fromkeys(("", *PROUD_LOGGERS, *TALKATIVE, *proud))]


def _keeps_to_itself(name: str, logger: object) -> bool:
    return isinstance(logger, logging.Logger) and not logger.propagate and name.split(".")[0] in (*TALKATIVE, "lightning")


def rank_of_process() -> int:
    """The number of this process among those of a run, as the program that started it says; 0 alone."""
    found = next((value for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if (value := os.environ.get(name, "")).isdigit()), "0")
    return int(found)
