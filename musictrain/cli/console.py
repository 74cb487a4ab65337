"""What reaches the terminal while lightning works: results and short errors; everything else goes to ``train.log``."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musictrain.runs.atomic import atomic_write
from musictrain.runs.train_log import PROUD_LOGGERS, TrainLog, rank_of_process

ADVERTS = ("litlogger", "litmodels", "💡")


class WithoutAdverts(logging.Filter):
    """Lets everything pass but Lightning's tips to install or use something else."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is no advert."""
        message = record.getMessage()
        return not any(word in message for word in ADVERTS)


@contextmanager
def quiet_terminal() -> Iterator[TrainLog]:
    """Within it, log records and warnings of all packages go to a TrainLog instead of the terminal.

    It imports lightning, which takes seconds, since that is what adds the terminal handlers that are set aside for the time.
    """
    train_log = TrainLog()
    train_log.addFilter(WithoutAdverts())
    train_log.listen()
    importlib.import_module("lightning.pytorch")
    last_words = importlib.import_module("musictrain.strategies.lost_peer").LastWords()
    logging.getLogger("lightning.fabric").addHandler(last_words)
    loud = [
        (logger, handler)
        for logger in map(logging.getLogger, PROUD_LOGGERS)
        for handler in logger.handlers
        if handler not in (train_log, last_words)
    ]
    for logger, handler in loud:
        logger.removeHandler(handler)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield train_log
    finally:
        logging.captureWarnings(False)
        train_log.stop()
        logging.getLogger("lightning.fabric").removeHandler(last_words)
        for logger, handler in loud:
            logger.addHandler(handler)


def report_failure(error: BaseException, train_log: TrainLog, runs_dir: Path) -> None:
    """One short line for the person, the traceback for the file.

    Errors that were written for people (ValueError and the like) speak for themselves, others are introduced by their type.
    """
    rank = rank_of_process()
    if train_log.path is None:
        # Every process for itself: of several, each may know a part of what happened.
        path = runs_dir / ("last_error.log" if rank == 0 else f"last_error_rank{rank}.log")
        logging.getLogger(__name__).error("It ended before a run had begun.", exc_info=error)
        # Where not even that can be written, the short line has to do.
        with contextlib.suppress(OSError):
            runs_dir.mkdir(parents=True, exist_ok=True)
            atomic_write(path, "")
            train_log.open(path)
    spoken = isinstance(error, ValueError | OSError) or type(error).__name__ == "MisconfigurationException"
    message = str(error) if spoken and str(error) else f"{type(error).__name__}: {error}"
    message = network_error(error) or message
    where = f"\n(traceback: {train_log.path})" if train_log.path is not None else ""
    print(f"error{f' on rank {rank}' if rank else ''}: {message}{where}", file=sys.stderr)


def network_error(error: BaseException) -> str:
    """What an error of the network between processes means, and how to go on; empty for any other error."""
    from musictrain.strategies.lost_peer import GO_ON, lost_peer

    return "" if (found := lost_peer(error)) is None else f"{found}\n{GO_ON}"


def program() -> str:
    """How this program was called, for commands that can be copied from the screen."""
    if Path(sys.argv[0]).name == "musictrain":
        return "musictrain"
    python = Path(sys.executable)
    on_path = shutil.which("python")
    if on_path and Path(on_path) == python:
        return "python -m musictrain"
    shown = os.path.relpath(python) if python.is_relative_to(Path.cwd()) else str(python)
    return f"{shown} -m musictrain"
