"""``train.log``: what people read when something went wrong at night."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

FORMAT = "%(asctime)s %(levelname)-8s %(message)s"
# Some of their records never reach the root logger when they were imported before anybody listened there.
PROUD_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")


class ForgivingFile(logging.FileHandler):
    """A log file on a disk that may be full: what it cannot take is lost, and nobody's training ends for it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Say nothing; logging's own answer is a traceback on the terminal for every record."""

    def close(self) -> None:
        """Close the file, whether or not its last lines fit."""
        with contextlib.suppress(OSError):
            super().close()


class TrainLog(logging.Handler):
    """Keeps log records until there is a file for them, then writes those and all that follow.

    A run's folder is made when training begins, but the reasons why it never began are logged before: whoever holds the
    log can still write it elsewhere.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter(FORMAT))
        self.path: Path | None = None
        self._held: list[logging.LogRecord] = []
        self._file: ForgivingFile | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write or keep one record."""
        if self._file is None:
            self._held.append(record)
        else:
            self._file.emit(record)

    def open(self, path: str | Path) -> None:
        """Append to this file from now on, beginning with what was kept.

        Raises:
            OSError: if it cannot be written.
        """
        self._close_file()
        self.path = Path(path)
        self._file = ForgivingFile(self.path, encoding="utf-8")
        self._file.setFormatter(self.formatter)
        held, self._held = self._held, []
        for record in held:
            self._file.emit(record)

    def listen(self) -> None:
        """Hear everything: this package's messages, lightning's, and all warnings and errors."""
        logging.getLogger("musictrain").setLevel(logging.INFO)
        for name in ("", *PROUD_LOGGERS):
            logger = logging.getLogger(name)
            if (not name or not logger.propagate) and self not in logger.handlers:
                logger.addHandler(self)

    def stop(self) -> None:
        """Hear no more and give the file back."""
        for name in ("", *PROUD_LOGGERS):
            logging.getLogger(name).removeHandler(self)
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
