"""RunRecorder and RunLogger: what a run writes down about itself while it trains.

Files in the run folder, which is Lightning's ``trainer.log_dir``: ``metrics.jsonl`` (every logged value), ``events.jsonl`` (started,
resumed, finished, failed), ``train.log`` (messages, warnings, tracebacks), ``env.json``, and, where they are known,
``config.yaml``, ``tokenizer.json`` and the data report.

When: always. Cost: one line of JSON per logged step. Only the first process writes.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from musictrain.generation.length import mean_tokens_per_beat
from musictrain.runs import Records, RunFolder, atomic_write, describe_environment
from musictrain.runs.records import plain
from musictrain.runs.train_log import TrainLog

log = logging.getLogger(__name__)


class RunLogger(Logger):
    """A Lightning logger whose log is a run folder: each row is one line of ``metrics.jsonl``.

    A row holds ``time`` (seconds since 1970), ``step``, ``epoch`` and the logged values. ``step`` is the number of optimizer steps done
    (without a RunRecorder it is Lightning's, which counts the step just done from 0). Rows are only ever added, also after a resume.

    Args:
        runs_dir: the folder in which a new run folder is made when training begins.
        name: what the new run's name is built around.
        folder: an existing run folder to go on with, instead of a new one.
    """

    def __init__(self, runs_dir: str | Path = "runs", name: str = "run", *, folder: str | Path | None = None) -> None:
        super().__init__()
        self._runs_dir, self._run_name = Path(runs_dir), name
        self._run = RunFolder(Path(folder).resolve()) if folder is not None else None
        self._rows: Records | None = None
        self._trainer: Trainer | None = None

    def follow(self, trainer: Trainer) -> None:
        """Take the number of steps done from this trainer while it fits."""
        self._trainer = trainer

    @property
    def started(self) -> bool:
        """Whether there is a run folder yet."""
        return self._run is not None

    @property
    @rank_zero_only
    def experiment(self) -> Any:
        """The run folder, made at first use, by the first process alone."""
        if self._run is None:
            self._run = RunFolder.create(self._runs_dir, self._run_name)
        return self._run

    @property
    def save_dir(self) -> str | None:
        """The run folder's path, None in the processes that do not write."""
        run: RunFolder | None = self.experiment
        return None if run is None else str(run.path)

    @property
    def name(self) -> str:
        """Empty: Lightning joins ``save_dir``, ``name`` and ``version``, and the run folder is all of it."""
        return ""

    @property
    def version(self) -> str:
        """Empty, see ``name``."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add one row."""
        if self._rows is None:
            self._rows = Records(cast(RunFolder, self.experiment).metrics)
        values = dict(metrics)
        fitting = self._trainer is not None and self._trainer.state.fn == "fit"
        steps = cast(Trainer, self._trainer).global_step if fitting else step
        row = {"time": round(time.time(), 3), "step": steps, "epoch": values.pop("epoch", None)}
        self._rows.append({**row, **values})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them all."""

    def finalize(self, status: str) -> None:
        """Give the file back."""
        if self._rows is not None:
            self._rows.close()


class RunRecorder(Callback):
    """Writes down what ran, on what, and how it ended. In a Trainer without a RunLogger it brings one.

    Args:
        config: the fully resolved configuration as YAML, written to ``config.yaml``.
        train_log: a log that has been listening since before the run had a folder; by default one that starts with the fit.

    Raises:
        ValueError: at the start of a fit in an existing run folder, if the tokenizer or the corpus is not the one of that run.
    """

    def __init__(self, config: str | None = None, train_log: TrainLog | None = None) -> None:
        self.config = config
        self._own_log = train_log is None
        self._train_log = train_log or TrainLog()
        self._events: Records | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write everything that is known before the first step."""
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        if not trainer.is_global_zero:
            return
        run = RunFolder(Path(folder))
        run.path.mkdir(parents=True, exist_ok=True)
        if not any(isinstance(logger, RunLogger) for logger in trainer.loggers):
            trainer.loggers = [*trainer.loggers, RunLogger(folder=run.path)]
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.follow(trainer)
        self._open_log(run)
        self._events = Records(run.events)
        self._describe(run, trainer)

    def _open_log(self, run: RunFolder) -> None:
        self._train_log.open(run.log)
        if self._own_log:
            self._train_log.listen()

    def _describe(self, run: RunFolder, trainer: Trainer) -> None:
        environment = environment_of(trainer)
        if run.environment.is_file():
            check_same_data(run, environment["fingerprints"])
            self._event("resumed", environment=environment)
        else:
            atomic_write(run.environment, json.dumps(plain(environment), indent=2) + "\n")
            save_data_description(run, trainer.datamodule)  # type: ignore[attr-defined]
            self._event("started")
        if self.config is not None:
            atomic_write(run.config, self.config)
        log.info("Run %s", run.path)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that it is finished."""
        self._event("finished", step=trainer.global_step, epoch=trainer.current_epoch)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the files back, after every other callback has had its last word."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note what went wrong; the traceback goes to the log."""
        stopped = isinstance(exception, KeyboardInterrupt | SystemExit)
        self._event("interrupted" if stopped else "failed", step=trainer.global_step, reason=f"{type(exception).__name__}: {exception}")
        if self._events is not None:
            log.error("The run was %s.", "interrupted" if stopped else "ended by an error", exc_info=None if stopped else exception)
        self._close()

    def _event(self, event: str, **details: Any) -> None:
        if self._events is not None:
            self._events.append({"time": round(time.time(), 3), "event": event, **details})

    def _close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._own_log:
            self._train_log.stop()


def check_same_data(run: RunFolder, fingerprints: Mapping[str, str]) -> None:
    """Refuse to go on with other data than a run began with.

    Raises:
        ValueError: if a recorded fingerprint of tokenizer or corpus has another value now.
    """
    recorded = json.loads(run.environment.read_text(encoding="utf-8")).get("fingerprints", {})
    for what, was in recorded.items():
        now = fingerprints.get(what, was)
        if now != was:
            raise ValueError(
                f"Run {run.name} began with the {what} of fingerprint {was}, but the {what} here has {now}. "
                f"Start a new run instead: musictrain fit --config {run.config}"
            )


def environment_of(trainer: Trainer) -> dict[str, Any]:
    """What goes into ``env.json``: the machine and the versions, and what the trainer and its data module say of themselves."""
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    everything = os.environ.get("PL_GLOBAL_SEED")
    prints = {what: getattr(getattr(datamodule, what, None), "fingerprint", None) for what in ("tokenizer", "corpus")}
    record = describe_environment(
        seeds={"everything": int(everything) if everything else None, "data": getattr(datamodule, "seed", None)},
        fingerprints={what: value for what, value in prints.items() if isinstance(value, str)},
    )
    devices = {
        "accelerator": type(trainer.accelerator).__name__,
        "strategy": type(trainer.strategy).__name__,
        "world_size": trainer.world_size,
        "num_nodes": trainer.num_nodes,
        "precision": trainer.precision,
    }
    return {**record, "devices": devices, "tokens_per_beat": mean_tokens_per_beat(getattr(datamodule, "store", None))}


def save_data_description(run: RunFolder, datamodule: Any) -> None:
    """``tokenizer.json`` and the data report, from a data module that offers ``tokenizer`` and ``corpus``; nothing from others."""
    if datamodule is None:
        return
    from musictrain.data import Corpus, write_data_report
    from musictrain.data.tokenizers import Tokenizer, save_tokenizer

    if isinstance(tokenizer := getattr(datamodule, "tokenizer", None), Tokenizer):
        try:
            save_tokenizer(tokenizer, run.tokenizer)
        except ValueError as error:
            log.warning("No tokenizer.json: %s", error)
    if isinstance(corpus := getattr(datamodule, "corpus", None), Corpus):
        write_data_report(corpus, run.path)
