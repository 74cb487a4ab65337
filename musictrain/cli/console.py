"""What reaches the terminal while lightning works: results, own warnings and short errors; everything else goes to ``train.log``."""

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

from musictrain.cli.terminal_messages import TerminalMessages
from musictrain.runs.atomic import atomic_write
from musictrain.runs.log_lines import cleaned
from musictrain.runs.secrets import hide, remember_command
from musictrain.runs.train_log import TrainLog, proud_loggers, rank_of_process

ADVERTS = ("litlogger", "litmodels", "💡")


class WithoutAdverts(logging.Filter):
    """Lets everything pass but Lightning's tips to install or use something else."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is no advert."""
        message = record.getMessage()
        return not any(word in message for word in ADVERTS)


@contextmanager
def quiet_terminal() -> Iterator[TrainLog]:
    """Within it, log records and warnings of other packages go to a TrainLog instead of the terminal; own warnings go to both.

    It imports lightning, which takes seconds, since that is what adds the terminal handlers that are set aside for the time.
    """
    remember_command(sys.argv)
    train_log, messages = TrainLog(), TerminalMessages()
    train_log.addFilter(WithoutAdverts())
    train_log.listen()
    logging.getLogger().addHandler(messages)
    importlib.import_module("lightning.pytorch")
    train_log.listen()  # to those too that have come with it
    last_words = importlib.import_module("musictrain.strategies.lost_peer").LastWords()
    logging.getLogger("lightning.fabric").addHandler(last_words)
    loud = list(loud_handlers(train_log, last_words))
    for logger, handler in loud:
        logger.removeHandler(handler)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            # It is about the size that Lightning's table of layers gives, and would stand on top of every run's page.
            warnings.filterwarnings("ignore", message=".*is not supported by the model summary")
            yield train_log
    finally:
        logging.captureWarnings(False)
        train_log.stop()
        logging.getLogger().removeHandler(messages)
        logging.getLogger("lightning.fabric").removeHandler(last_words)
        for logger, handler in loud:
            logger.addHandler(handler)


def loud_handlers(*ours: logging.Handler) -> Iterator[tuple[logging.Logger, logging.Handler]]:
    """The handlers by which lightning and torch write to the terminal themselves, each with its logger."""
    for logger in proud_loggers():
        package = logger.name.split(".")[0]
        if package == "lightning" or (package == "torch" and not os.environ.get("TORCH_LOGS")):
            yield from ((logger, handler) for handler in logger.handlers if handler not in ours)


def report_failure(error: BaseException, train_log: TrainLog, runs_dir: Path) -> None:
    """One short line for the person, the traceback for the file.

    Errors that were written for people (ValueError and the like) speak for themselves, others are introduced by their type.
    """
    rank = rank_of_process()
    if train_log.path is None:
        _log_elsewhere(error, train_log, runs_dir, rank)
    spoken = isinstance(error, ValueError | OSError) or type(error).__name__ == "MisconfigurationException"
    message = str(error) if spoken and str(error) else f"{type(error).__name__}: {error}"
    message = cleaned(hide(network_error(error) or message))
    path = train_log.path or train_log.rank_path
    where = f"\n(traceback: {path})" if path is not None else ""
    print(f"error{f' on rank {rank}' if rank else ''}: {message}{where}", file=sys.stderr)


def _log_elsewhere(error: BaseException, train_log: TrainLog, runs_dir: Path, rank: int) -> None:
    """Log an error where no run has a file for it yet; of several processes, each may know a part of what happened."""
    if train_log.rank_path is not None:
        logging.getLogger(__name__).error("It ended by an error in this process.", exc_info=error)
        return
    path = runs_dir / ("last_error.log" if rank == 0 else f"last_error_rank{rank}.log")
    logging.getLogger(__name__).error("It ended before a run had begun.", exc_info=error)
    # Where not even that can be written, the short line has to do.
    with contextlib.suppress(OSError):
        runs_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(path, "")
        train_log.open(path)
        train_log.flush()


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
