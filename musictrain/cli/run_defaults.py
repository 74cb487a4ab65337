"""What a fit has unless the user says otherwise: its name, its loggers and its callbacks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, Checkpoint, LearningRateFinder, ModelSummary, ProgressBar
from lightning.pytorch.loggers import Logger

from musictrain.callbacks import (
    AccumulationSchedule,
    AnomalyAlerts,
    LivePage,
    ProgressLine,
    RunLogger,
    RunRecorder,
    SampleAndScore,
    ThroughputReport,
    VersionedCheckpoint,
)
from musictrain.checkpoints import CompressedCheckpointIO
from musictrain.checkpoints.weights import name_of
from musictrain.cli.recipes import config_files
from musictrain.cli.resume import step_of
from musictrain.distillation.sampled_corpus import recipe_in
from musictrain.optim.making import optimizer_in_short
from musictrain.runs import RunFolder
from musictrain.runs.lineage import add_parent
from musictrain.runs.summary import shown
from musictrain.sampling.sampling_callback import SamplingCallback

log = logging.getLogger(__name__)


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


def default_callbacks(
    given: Any,
    settings: Any,
    recorder: RunRecorder,
    announcement: Announcement | None = None,
    global_batch_tokens: int | None = None,
) -> list[Callback]:
    """The user's callbacks with the defaults added; a default gives way to a callback of its kind that is there already.

    Args:
        given: what the configuration holds as ``trainer.callbacks``, instantiated.
        settings: of the trainer.
        recorder: the one that knows the configuration.
        announcement: what is said before the first step.
        global_batch_tokens: tokens of an optimizer step, None for one batch.

    Raises:
        ValueError: if tokens of a step are asked for and a schedule of them is there already.
    """
    mine = list(given) if isinstance(given, list | tuple) else [given] if given is not None else []
    refuse_finders(mine)
    defaults: list[tuple[type[Callback], list[Callback]]] = [
        (RunRecorder, [recorder]),
        (Announcement, [announcement or Announcement()]),
        (SamplingCallback, [SampleAndScore()]),
        (ThroughputReport, [ThroughputReport()]),
        (AnomalyAlerts, [AnomalyAlerts()]),
        (LivePage, [LivePage()]),
    ]
    if global_batch_tokens is not None:
        if any(isinstance(other, AccumulationSchedule) for other in mine):
            raise ValueError("Both --global_batch_tokens and an AccumulationSchedule say how much a step gathers: leave one of them out.")
        defaults.append((AccumulationSchedule, [AccumulationSchedule(global_batch_tokens=global_batch_tokens)]))
    if settings.get("enable_model_summary") is not False:
        # Lightning's own choice would print a table; this one goes to the log.
        defaults.append((ModelSummary, [ModelSummary()]))
    if settings.get("enable_progress_bar") is not False:
        defaults.append((ProgressBar, [ProgressLine()]))
    if settings.get("enable_checkpointing") is not False:
        defaults.append((Checkpoint, [VersionedCheckpoint()]))
    added = [callback for kind, ours in defaults if not any(isinstance(other, kind) for other in mine) for callback in ours]
    for callback in (every := [*mine, *added]):
        if isinstance(callback, VersionedCheckpoint) and callback.config is None:
            callback.config = recorder.config
        if isinstance(callback, RunRecorder) and callback is not recorder:
            callback.take_over(recorder)
    return every


def refuse_finders(callbacks: Sequence[Any]) -> None:
    """Lightning's callbacks that look for a learning rate or a batch size have no place in a run.

    Raises:
        ValueError: saying why, and what does it instead.
    """
    reasons = {
        LearningRateFinder: ("the schedule's next step would undo what it finds", "--lr"),
        BatchSizeFinder: ("the run would go through the corpus in other batches than its configuration says, which no resume could know",
                          "--batch-size"),
    }  # fmt: skip
    for callback, (kind, (why, option)) in ((each, item) for each in callbacks for item in reasons.items()):
        if isinstance(callback, kind):
            raise ValueError(
                f"{type(callback).__name__} in trainer.callbacks: {why}. Leave it out; `musictrain tune --config NAME-or-FILE {option}` "
                "finds it before the run, and prints the lines for the configuration."
            )


def measuring_options(settings: Any) -> dict[str, Any]:
    """What ``validate``, ``test`` and ``predict`` change of the trainer's settings.

    No logger but the user's, no bar but on a terminal, and packed checkpoints can be read.
    """
    others = settings.get("logger")
    logger = False if others is None or isinstance(others, bool) else others
    given = settings.get("plugins")
    plugins = given if isinstance(given, list) else [given] if given is not None else []
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins = [*plugins, CompressedCheckpointIO()]
    bar = settings.get("enable_progress_bar") is not False and sys.stdout.isatty()
    return {"logger": logger, "enable_progress_bar": bar, "plugins": plugins}


class Announcement(Callback):
    """Says before the first step what is trained on what, how, and where it is written down and to be seen; not again after a going back.

    Args:
        reasons: lines of why it is trained like this.
        parent: a version of another run with which this one begins, to be written down as its parent.
        relation: in what way it does, see ``musictrain.runs.lineage``.
        version: what to call it; None for its own name.
    """

    def __init__(
        self, reasons: Sequence[str] = (), parent: Path | None = None, relation: str = "resumed from", version: str | None = None
    ) -> None:
        self.reasons, self.parent, self._has_spoken = list(reasons), parent, False
        self.relation, self.version = relation, version

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Some lines."""
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        if not trainer.is_global_zero or trainer.fast_dev_run or self._has_spoken:  # type: ignore[attr-defined]
            return
        self._has_spoken = True
        if self.parent is not None:
            note_parent(RunFolder(Path(folder)), self.parent, self.relation, self.version)
        note_teacher_of_corpus(RunFolder(Path(folder)), getattr(trainer.datamodule, "corpus_name", ""))  # type: ignore[attr-defined]
        print(f"run      {shown(Path(folder))}")
        if any(isinstance(callback, LivePage) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            print(f"page     {shown(RunFolder(Path(folder)).dashboard)}")
        store: Any = getattr(trainer.datamodule, "store", None)  # type: ignore[attr-defined]
        if hasattr(store, "summary"):
            print(f"data     {store.summary()}")
        if rejected := getattr(getattr(trainer.datamodule, "corpus", None), "rejected", ()):  # type: ignore[attr-defined]
            print(f"         {len(rejected):,} files could not be used; data_report.md names them and says why")
        size = sum(parameter.numel() for parameter in pl_module.parameters())
        # FSDP puts a class of its own in the network's place.
        network = getattr(trainer.strategy, "skeleton", None) or getattr(pl_module, "network", pl_module)
        print(f"network  {type(network).__name__}, {size:,} parameters")
        for optimizer in trainer.optimizers:
            print(f"moved by {optimizer_in_short(optimizer)}; train.log has the table")
        if teacher := getattr(getattr(pl_module, "distilling", None), "introduction", ""):
            print(f"teacher  {teacher}")
        for reason in self.reasons:
            what, _, rest = reason.partition(" ")
            print(f"{what:<8} {rest}")
        print(end="", flush=True)


def note_teacher_of_corpus(run: RunFolder, corpus: str) -> None:
    """Write down whose music a run is trained on, if the corpus was made by ``distill-corpus``."""
    made = recipe_in(corpus) if corpus else {}
    if "run" in made and run.is_run():
        try:
            add_parent(run, "distilled from", str(made["run"]), version=name_of(str(made["version"])), step=made.get("step"))
        except (OSError, ValueError, KeyError) as error:
            log.warning("Whose music this run is trained on could not be written down: %s", error)


def note_parent(run: RunFolder, version: Path, relation: str = "resumed from", name: str | None = None) -> None:
    """Write down from which other run this one took its first weights, if the version lies in a run's folder."""
    parent = RunFolder(version.resolve().parent.parent)
    if not parent.is_run() or parent.path == run.path.resolve():
        return
    try:
        add_parent(run, relation, parent, version=name or version.name, step=step_of(version))
    except OSError as error:
        log.warning("Where this run comes from could not be written down: %s", error)
