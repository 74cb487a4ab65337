"""What a fit has unless the user says otherwise: its name, its loggers and its callbacks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from musictrain.callbacks import PlainProgress, RunLogger, RunRecorder, WriteSamples
from musictrain.cli.recipes import config_files
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.summary import shown


def run_name(settings: Any, arguments: Sequence[str]) -> str:
    """``--name``; else the folder or file that is trained on; else the configuration's file; else the corpus; else ``run``."""
    if settings.get("name"):
        return str(settings.name)
    corpus = str(settings.get("data.init_args.corpus") or "")
    if "/" in corpus or Path(corpus).suffix:
        return Path(corpus).stem
    own = [file.stem for file in config_files(arguments) if file.stem != "config"]
    return own[-1] if own else corpus or "run"


def loggers_of(run_logger: RunLogger, others: Any) -> list[Logger]:
    """The run's own logger first, since Lightning's ``log_dir`` is the first one's, then the user's."""
    if others is None or isinstance(others, bool):
        return [run_logger]
    return [run_logger, *(others if isinstance(others, list | tuple) else [others])]


def default_callbacks(given: Any, settings: Any, recorder: RunRecorder) -> list[Callback]:
    """The user's callbacks with the defaults added; a default gives way to a callback of its kind that is there already.

    Args:
        given: what the configuration holds as ``trainer.callbacks``, instantiated.
        settings: of the trainer.
        recorder: the one that knows the configuration.
    """
    mine = list(given) if isinstance(given, list | tuple) else [given] if given is not None else []
    defaults: list[tuple[type[Callback], list[Callback]]] = [
        (RunRecorder, [recorder]),
        (Announcement, [Announcement()]),
        (WriteSamples, [WriteSamples()]),
    ]
    if settings.get("enable_model_summary") is not False:
        # Lightning's own choice would print a table; this one goes to the log.
        defaults.append((ModelSummary, [ModelSummary()]))
    if settings.get("enable_progress_bar") is not False:
        defaults.append((ProgressBar, [PlainProgress()]))
    if settings.get("enable_checkpointing") is not False:
        defaults.append((ModelCheckpoint, [best_checkpoint(), LastCheckpoint()]))
    added = [callback for kind, ours in defaults if not any(isinstance(other, kind) for other in mine) for callback in ours]
    return [*mine, *added]


def measuring_options(settings: Any) -> dict[str, Any]:
    """What ``validate``, ``test`` and ``predict`` change of the trainer's settings: no logger but the user's, no bar but on a terminal."""
    others = settings.get("logger")
    logger = False if others is None or isinstance(others, bool) else others
    return {"logger": logger, "enable_progress_bar": settings.get("enable_progress_bar") is not False and sys.stdout.isatty()}


class Announcement(Callback):
    """Says before the first step what is trained on what, and where it is written down."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Three lines."""
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        print(f"run      {shown(Path(folder))}")
        store: Any = getattr(trainer.datamodule, "store", None)  # type: ignore[attr-defined]
        if hasattr(store, "summary"):
            print(f"data     {store.summary()}")
        if rejected := getattr(getattr(trainer.datamodule, "corpus", None), "rejected", ()):  # type: ignore[attr-defined]
            print(f"         {len(rejected):,} files could not be used; data_report.md names them and says why")
        size = sum(parameter.numel() for parameter in pl_module.parameters())
        print(f"network  {type(getattr(pl_module, 'network', pl_module)).__name__}, {size:,} parameters", flush=True)


def best_checkpoint() -> ModelCheckpoint:
    """Keeps ``best.ckpt``, the weights of the lowest val/loss."""
    return ModelCheckpoint(filename="best", monitor=BEST_METRIC, enable_version_counter=False)


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, where ``resume`` goes on: after every validation, at the end, and when the run is interrupted.

    Not ``ModelCheckpoint(save_last=True)``: with a monitor that makes ``last`` a copy of the best.
    """

    def __init__(self) -> None:
        super().__init__(filename="last", monitor=None, enable_version_counter=False, save_on_train_epoch_end=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what came after the last validation."""
        self._save_now(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save if somebody stopped the run; after an error in the training the state is not to be trusted."""
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._save_now(trainer)

    def _save_now(self, trainer: Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer) and trainer.global_step > 0:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
