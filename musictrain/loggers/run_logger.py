"""RunLogger: a Lightning logger whose log is a run folder.

    Trainer(logger=RunLogger("runs", "chorales"))

When: always; RunRecorder brings one where there is none. Cost: some microseconds a row; a thread writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from musictrain.runs import RunFolder
from musictrain.runs.rows import ABOUT, VETOED, marker
from musictrain.runs.secrets import hide
from musictrain.runs.writer import RecordWriter


class RunLogger(Logger):
    """A Lightning logger whose log is a run folder: each row is one line of ``metrics.jsonl``.

    A row holds ``time`` (seconds since 1970), ``step``, ``epoch``, ``attempt`` and the logged values. ``step`` is the number of optimizer
    steps done (without a RunRecorder it is Lightning's, which counts the step just done from 0). Rows are only ever added, also after a
    resume: :mod:`musictrain.runs.rows` says which of them count. A value that bears the name of one of these four, or ``vetoed``, is found
    under ``logged/<name>``.

    Args:
        runs_dir: the folder in which a new run folder is made when training begins.
        name: what the new run's name is built around.
        folder: an existing run folder to go on with, instead of a new one.

    Raises:
        ValueError: if ``folder`` is a file.
    """

    def __init__(self, runs_dir: str | Path = "runs", name: str = "run", *, folder: str | Path | None = None) -> None:
        super().__init__()
        if folder is not None and Path(folder).is_file():
            raise ValueError(f"RunLogger got folder={str(folder)!r}, which is a file; it needs the folder of a run.")
        self._runs_dir, self._run_name = Path(runs_dir), name
        self._run = RunFolder(Path(folder).resolve()) if folder is not None else None
        self._made = False
        self._rows: RecordWriter | None = None
        self._trainer: Trainer | None = None
        self.attempt: int | None = None
        self._tell: Callable[[dict[str, Any]], None] | None = None

    def follow(self, trainer: Trainer, tell: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Take the number of steps done from this trainer while it fits.

        Args:
            trainer: which one.
            tell: called with each row, on the thread that logs it.
        """
        self._trainer, self._tell = trainer, tell

    @property
    def started(self) -> bool:
        """Whether there is a run folder yet."""
        return self._run is not None

    @property
    @rank_zero_only
    def experiment(self) -> Any:
        """The run folder, None before it is made and in the processes that do not write.

        Lightning asks for this before the data is there; the folder is made when somebody asks for ``save_dir``, so that data that cannot
        be read leaves no empty run.
        """
        return self._run

    @property
    def save_dir(self) -> str | None:
        """The run folder's path, made at first use by the first process alone; None in the processes that do not write."""
        run: RunFolder | None = self._made_run()
        return None if run is None else str(run.path)

    @rank_zero_only
    def _made_run(self) -> Any:
        if self._run is None:
            self._run, self._made = RunFolder.create(self._runs_dir, self._run_name), True
        return self._run

    @property
    def name(self) -> str:
        """Empty: Lightning joins ``save_dir``, ``name`` and ``version``, and the run folder is all of it."""
        return ""

    @property
    def version(self) -> str:
        """Empty, see ``name``."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add one row; returns at once. Tensors are turned into numbers by the thread that writes, and may be changed afterwards."""
        row = self.row_of(metrics, step)
        self._writer().append(row)
        if self._tell is not None:
            self._tell(row)

    def row_of(self, metrics: Mapping[str, Any], step: int | None = None) -> dict[str, Any]:
        """The row that these values become now."""
        values = dict(metrics)
        fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        steps = cast(Trainer, self._trainer).global_step if fitting else step
        row = {"time": round(time.time(), 3), "step": steps, "epoch": values.pop("epoch", None)}
        row |= {} if self.attempt is None else {"attempt": self.attempt}
        return row | {(f"logged/{key}" if key in ABOUT else key): _kept(value) for key, value in values.items()}

    @rank_zero_only
    def log_veto(self, why: str) -> None:
        """Say that the step just done is never to be called best; an empty text takes that back."""
        self._writer().append(self.veto_row(why), vital=True)

    def veto_row(self, why: str) -> dict[str, Any]:
        """The row that says so."""
        return {**self.row_of({}), VETOED: hide(why)}

    def begin_attempt(self, attempt: int, from_step: int, missing: list[dict[str, Any]]) -> None:
        """Withdraw the rows above a step, and add those that are missing up to it."""
        self.attempt = attempt
        self._writer().append(marker(attempt, from_step, round(time.time(), 3)), vital=True)
        for row in missing:
            self._writer().append(row, vital=True)

    def unsecured_rows(self) -> list[Mapping[str, Any]]:
        """The rows that a power cut, or a kill, could take now."""
        return [] if self._rows is None else [row for row in self._rows.unsynced() if "step" in row]

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until the rows so far are in the file, for so many seconds at most; gives back whether they are."""
        return self._rows is None or self._rows.flush(timeout)

    def _writer(self) -> RecordWriter:
        if self._rows is None:
            self._rows = RecordWriter(cast(RunFolder, self._made_run()).metrics)
        return self._rows

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them all."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what waits and give the file back; a new folder in which nothing was written goes again."""
        if self._rows is not None:
            self._rows.close()
        if status == "failed" and self._made and self._run is not None:
            try:
                self._run.path.rmdir()
            except OSError:
                return
            self._run, self._rows, self._made = None, None, False


def _kept(value: Any) -> Any:
    """A value that nobody changes any more, a text without secrets; a tensor stays on its device, which is not waited for."""
    if isinstance(value, str):
        return hide(value)
    return value.detach().clone() if isinstance(value, Tensor) else value
