"""VersionedCheckpoint: numbered versions of a run that verify, are kept by rule, and can be resumed from to the bit.

    Trainer(callbacks=[VersionedCheckpoint(every_n_train_steps=500)])          trainer.fit(model, ckpt_path="last")

When: in any Trainer, instead of ModelCheckpoint. It saves after validations, every so many steps or minutes, when the run is stopped by
SIGTERM, Ctrl-C or an error, and before SLURM's time limit. Cost: a copy of the state in memory each time; the rest happens in a thread.
Source: the fault list in which each way to lose a checkpoint has its test, tests/checkpoints.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from musictrain.batch_seed import number_of_batch, seed_torch
from musictrain.checkpoints.checkpoint_io import CompressedCheckpointIO, SaveRequest
from musictrain.checkpoints.circumstances import circumstances_of, fingerprints_of
from musictrain.checkpoints.consolidating import OPTIMIZERS, TIED, tied_names
from musictrain.checkpoints.folder_checkpoint import FolderCheckpoint
from musictrain.checkpoints.health import LossWatch
from musictrain.checkpoints.logged_anew import LoggedAnew
from musictrain.checkpoints.logged_values import LOGGED, LoggedBefore, logged_values
from musictrain.checkpoints.lookout import Lookout
from musictrain.checkpoints.open_window import dealt_gradients, gathered_gradients, give_back_gradients
from musictrain.checkpoints.resume_check import check_fits, check_optimizers, fresh_ones, optimizer_facts, stored_optimizers
from musictrain.checkpoints.resume_report import CIRCUMSTANCES, GRADIENTS, Found, ResumeReport, report_of
from musictrain.checkpoints.retention import Retention
from musictrain.checkpoints.sharded import writes_directories
from musictrain.checkpoints.sharded_saving import forget, save_shares, settle_optimizers, untouched_optimizers
from musictrain.checkpoints.snapshot import plain_size
from musictrain.checkpoints.step_watch import StepWatch
from musictrain.checkpoints.trainer_state import (
    back_to_last_step,
    begin_between_epochs,
    events_beside,
    facts_of,
    inside_window,
    loss_of,
    metrics_of,
    plugin_of,
    position_in,
    run_ends,
    validation_due,
)
from musictrain.checkpoints.triggers import SaveTriggers
from musictrain.checkpoints.version_folder import VersionFolder, saving_summary
from musictrain.runs.rollbacks import RolledBack
from musictrain.runs.writer import RecordWriter

log = logging.getLogger(__name__)

# Of several reasons at one step, the first of these is told.
REASONS = ("end", "pause", "signal", "validation", "epoch", "step", "time")


class VersionedCheckpoint(FolderCheckpoint):
    """Saves versions of the whole training state and keeps those that its rules name.

    Args:
        dirpath: folder of the versions; None is ``checkpoints`` in the run folder.
        monitor: metric that ``best`` is about; None for none.
        mode: ``min`` or ``max``.
        metrics: further metrics whose best versions are kept, with ``min`` or ``max`` each.
        newest: how many of the newest good versions are kept.
        best: how many of the best of each metric.
        keep_every_n_steps: one version of every so many steps is kept for good; 0 is off.
        keep_every_n_minutes: one of every so many minutes; 0 is off.
        thin_after: a version that is kept only for its metric or its time is reduced to weights in bfloat16 once so many newer ones
            are there; 0 is never.
        every_n_train_steps: saves at multiples of so many optimizer steps; 0 is off.
        every_n_minutes: saves when the last save is so long ago; 0 is off.
        after_validation: saves after each validation.
        on_epoch_end: saves after each epoch.
        at_start: saves before the first step, which shows that saving works before an hour is spent.
        signals: SIGTERM and Ctrl-C save and stop (exit status 143, 130), SIGUSR1 saves and goes on.
        time_limit_margin_minutes: under SLURM, saves and stops so long before the job's time is up.
        reseed: torch's random numbers are seeded before each batch from (seed, number of the batch, rank), so that a resumed run draws
            what the uninterrupted one would have drawn. MusicModule does the same by itself.
        packing: see CompressedCheckpointIO; None for what the trainer's own plugin does, or ``optimizer``.
        mirror: a folder on another disk, or any fsspec URL, that verified versions are copied to.
        config: the run's configuration as YAML, for the resume report.

    Raises:
        ValueError: for a number out of its range, or a plugin that it cannot write through.
        FolderInUseError: when a fit starts in a folder that another trainer is writing to.
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        monitor: str | None = "val/loss",
        mode: str = "min",
        metrics: Mapping[str, str] | None = None,
        newest: int = 3,
        best: int = 1,
        keep_every_n_steps: int = 0,
        keep_every_n_minutes: float = 0.0,
        thin_after: int = 0,
        every_n_train_steps: int = 0,
        every_n_minutes: float = 10.0,
        after_validation: bool = True,
        on_epoch_end: bool = False,
        at_start: bool = True,
        signals: bool = True,
        time_limit_margin_minutes: float = 3.0,
        reseed: bool = True,
        packing: str | None = None,
        mirror: str | None = None,
        config: str | None = None,
    ) -> None:
        super().__init__(dirpath=dirpath, monitor=monitor, mode=mode, save_top_k=0, enable_version_counter=False)
        watched = {**({monitor: mode} if monitor else {}), **(metrics or {})}
        self.retention = Retention(
            newest=newest, best=best, metrics=cast(Any, watched), every_n_steps=keep_every_n_steps, every_n_minutes=keep_every_n_minutes,
            thin_after=thin_after,
        )  # fmt: skip
        self.triggers = SaveTriggers(every_n_train_steps, every_n_minutes)
        self.after_validation, self.on_epoch_end, self.at_start = after_validation, on_epoch_end, at_start
        self.listens = signals
        self.reseed = reseed
        self.packing = packing
        self.mirror = mirror
        self.config = config
        self.report: ResumeReport | None = None
        self.stalls: list[float] = []
        self._folder: VersionFolder | None = None
        self._io: CompressedCheckpointIO | None = None
        self._lookout = Lookout(self.triggers, time_limit_margin_minutes)
        self._losses = LossWatch()
        self._pending: dict[str, None] = {}
        self._step_seen = self._saved_step = self._validated_step = -1
        self._steps = StepWatch()
        self._logged, self._anew = LoggedBefore(), LoggedAnew()
        self._found: Found | None = None
        self._optimizers: list[dict[str, Any]] | None = None
        self._gradients: dict[str, Tensor] = {}
        self._fresh: list[bool] = []
        self._events: RecordWriter | None = None
        self._circumstances: dict[str, Any] = {}

    # Before the first step.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder and the plugin; for a fit take the folder, and refuse to go on from what does not fit."""
        super().setup(trainer, pl_module, stage)
        self._io = plugin_of(trainer, self.packing)
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # Lightning asks its plugin for the checkpoint before it touches a weight, and tells nobody its path earlier.
        self._io.before_use = lambda path, tree: check_fits(path, tree, trainer, fingerprints_of(trainer))
        self._optimizers = None
        self._circumstances = circumstances_of(trainer, self.config)
        self._io.begin()
        if trainer.is_global_zero:
            self._folder = VersionFolder(Path(str(self.dirpath)), self.retention, self.mirror, self._record)
            self._folder.open()
            self._events = events_beside(Path(str(self.dirpath)))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse optimizers that the version's states do not fit: they exist now for the first time, and have not been touched."""
        check_optimizers(Path(str(trainer.ckpt_path)).name, self._optimizers, trainer.optimizers)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Turn to what was resumed and report it, or save the beginning; from here on signals are obeyed between steps."""
        if self._io is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._step_seen = self._saved_step = trainer.global_step
        self._validated_step = -1
        self._pending = {}
        self._steps.start(pl_module)
        self._lookout.begin()
        self.stalls = []
        give_back_gradients(pl_module, self._gradients)
        forget([optimizer for optimizer, new in zip(trainer.optimizers, self._fresh, strict=False) if new])
        self._gradients, self._fresh = {}, []
        self._logged.give_back(trainer)
        begin_between_epochs(trainer)
        if self._folder is not None:
            self._place_in_folder(trainer)
        if trainer.ckpt_path is not None:
            self._report(trainer)
        elif self.at_start and trainer.global_step == 0:
            self._save(trainer, "start", wait=True)
            if self._folder is not None:
                self._folder.check_stored(trainer.global_step)
        if self.listens:
            self._lookout.listen(trainer)

    def _place_in_folder(self, trainer: Trainer) -> None:
        assert self._folder is not None
        # Weights, two moments of an optimizer, and an average at most.
        self._folder.check_room(4 * plain_size(trainer.lightning_module.state_dict()))
        highest = self._folder.highest_step()
        if trainer.ckpt_path is not None or highest == trainer.global_step:
            self._folder.go_on_from(Path(trainer.ckpt_path) if trainer.ckpt_path else None, trainer.global_step)
        elif highest is not None and highest > trainer.global_step:
            raise ValueError(
                f"{self._folder.folder} holds versions up to step {highest:,}, and this fit would start at step {trainer.global_step:,}. "
                "Go on from them with ckpt_path='last', or start anew in another folder."
            )

    def _report(self, trainer: Trainer) -> None:
        name = Path(str(trainer.ckpt_path)).name
        self.report = report_of(name, trainer.global_step, self._found or Found(), self._circumstances)
        if trainer.is_global_zero:
            print("\n".join(self.report.lines()), flush=True)
            log.info("Resume report: %s", self.report.as_record())
            self._record("resume_report", **self.report.as_record())

    # Between the steps.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed this batch's random numbers; until its end a state may be half a step ahead."""
        self._steps.batch_starts()
        self._logged.batch_starts(trainer)
        self._anew.begins(trainer)
        if self.reseed:
            share = (trainer.distributed_sampler_kwargs or {}).get("rank", 0)
            seed_torch(pl_module.device, int(os.environ.get("PL_GLOBAL_SEED", 0)), number_of_batch(trainer), share)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """The weights are about to change."""
        self._steps.weights_change()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if a step was done and something is due, unless a validation or the epoch's end comes first: they save then."""
        if self._io is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._steps.batch_starts()
        self._logged.add_sums(trainer)
        self._losses.add(loss_of(outputs))
        step = trainer.global_step
        if step == self._step_seen:
            return  # inside an accumulation window
        before, self._step_seen = self._step_seen, step
        self._pending |= dict.fromkeys(self._lookout.look(trainer, step))
        if self.triggers.by_steps(step, before):
            self._pending["step"] = None
        if run_ends(trainer):
            self._pending["end"] = None
        if (self._pending or self._lookout.stop) and not validation_due(trainer) and not trainer.is_last_batch:
            self._save_pending(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, with the metrics of this validation."""
        if self._io is None or trainer.sanity_checking or trainer.state.fn != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._anew.validated()
        if trainer.global_step > 0:
            self._validated_step = trainer.global_step
            if self.after_validation:
                self._pending["validation"] = None
            if trainer.should_stop:
                self._pending["end"] = None
        if trainer.world_size > 1 and inside_window(trainer):
            return  # every process holds gradients of its own: the end of the window is waited for
        self._lookout.look_alone(trainer)
        if self._pending or self._lookout.stop:
            self._save_pending(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what is due."""
        if self._io is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._logged.add_sums(trainer)
        if self.on_epoch_end and trainer.is_last_batch:
            self._pending["epoch"] = None
        self._lookout.look_alone(trainer)
        if self._pending or self._lookout.stop:
            self._save_pending(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end, if nothing has."""
        if self._io is not None and trainer.global_step > self._saved_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._save(trainer, "end")

    def pause(self) -> None:
        """Save after the step just done and its validation, and leave as after a signal; all processes call this at that step."""
        self._lookout.pausing = True

    def _save_pending(self, trainer: Trainer) -> None:
        reasons = [*self._pending, *self._lookout.reasons_to_leave(trainer.should_stop)]
        self._pending = {}
        # A run that is stopped leaves from here, and must find the very place again: the epoch's end is not the validation before it.
        if reasons and (self._saved_step != trainer.global_step or "validation" in reasons or self._lookout.stop):
            self._save(trainer, min(reasons, key=REASONS.index), wait=bool(self._lookout.stop))
        if self._lookout.stop:
            trainer.strategy.barrier("interrupted")
            # Lightning then leaves by itself, once the loggers have written this step's line and before the next batch is fetched.
            cast(Any, trainer)._signal_connector.received_sigterm = True

    # A save.

    def _save(self, trainer: Trainer, reason: str, wait: bool = False) -> None:
        assert self._io is not None
        began = time.perf_counter()
        # Asked for by every process: some are means over all of them.
        metrics = metrics_of(trainer, self._validated_step == trainer.global_step, self._anew.of(trainer))
        path = Path(str(self.dirpath)) / "version.ckpt"
        request = None
        if self._folder is not None:
            folder, spike = Path(str(self.dirpath)), self._losses.spike()
            path, request = self._folder.request(facts_of(trainer, folder, reason, metrics, spike, self._circumstances))
        with untouched_optimizers(trainer.optimizers) as self._fresh:
            if writes_directories(trainer.strategy):
                path = save_shares(trainer, path, request, self._seal_later)
            else:
                if request is not None:
                    self._io.expect(path, request)
                trainer.save_checkpoint(path, weights_only=False)
        self._fresh = []
        self._saved_step = trainer.global_step
        self.triggers.last_save = time.monotonic()
        self.stalls.append(time.perf_counter() - began)
        log.info("Saved %s (%s); training was held up for %.0f ms.", path.name, reason, 1000 * self.stalls[-1])
        if wait and trainer.is_global_zero and not self._io.wait():
            log.error("The disk has not taken %s in %g seconds.", path.name, self._io.wait_seconds)
        for logger in trainer.loggers:
            logger.after_save_checkpoint(self)

    def _seal_later(self, hidden: Path, path: Path, request: SaveRequest) -> None:
        assert self._io is not None
        assert self._folder is not None
        self._io.do_later(partial(self._folder.store_shards, hidden, path, request))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the circumstances, which optimizers there are, and the gradients of a half-filled accumulation window."""
        checkpoint[OPTIMIZERS] = optimizer_facts(trainer.optimizers, self._fresh)
        settle_optimizers(trainer, checkpoint, self._fresh)
        if ties := tied_names(pl_module):
            checkpoint[TIED] = ties
        checkpoint[LOGGED] = logged_values(trainer)
        if self._circumstances:
            checkpoint[CIRCUMSTANCES] = self._circumstances
        if trainer.world_size == 1 and inside_window(trainer):
            checkpoint[GRADIENTS] = gathered_gradients(pl_module)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what it holds, for the report and the first step."""
        states = checkpoint.get("callbacks") or {}
        mine = [callback.state_key for callback in trainer.callbacks if callback.state_dict()]  # type: ignore[attr-defined]
        position = position_in(checkpoint, trainer)
        # A sharded version keeps weights and optimizer in files of their own.
        kept = [*checkpoint, *(() if "state_dict" in checkpoint else ("optimizer_states",))]
        kept += ["current_model_state"] if "averaging_state" in checkpoint else []
        self._found = Found(tuple(kept), tuple(states), tuple(mine), checkpoint.get(CIRCUMSTANCES) or {}, position)
        self._gradients = dealt_gradients(trainer, pl_module, checkpoint)
        self._logged.load(checkpoint)
        self._optimizers = stored_optimizers(checkpoint)
        self._fresh = fresh_ones(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """The losses by which a spike is known; everything else is in the folder."""
        return {"losses": self._losses.losses()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back; the settings stay those of the constructor."""
        self._losses.restore(state_dict.get("losses", ()))

    # The end.

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what came since the last version, if the state is that of a whole step; then give everything back."""
        if self._lookout.stop and isinstance(exception, SIGTERMException):
            exception.code = 128 + self._lookout.stop
        try:
            # Of several processes one may be alone with its error: it must not wait for the others. What is gone back from is spoiled.
            alone = trainer.world_size == 1 and not isinstance(exception, SIGTERMException | RolledBack)
            if alone and 0 <= self._saved_step < trainer.global_step:
                back_to_last_step(trainer)
                self._logged.take_back(trainer)
                if self._steps.between_steps(trainer):
                    self._save(trainer, "exception", wait=True)
        except Exception:
            log.exception("Nothing could be saved after the error.")
        finally:
            if self._io is not None:
                self._io.wait()
            self._close()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what saving has cost, and fail if the end of the run could not be stored."""
        if self._io is not None:
            self._io.wait()
        trainer.strategy.barrier("stored")
        folder = self._folder
        self._close()
        if folder is not None and folder.stored:
            log.info("%s", saving_summary(folder, self.stalls))
        if folder is not None:
            folder.check_stored(trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give everything back."""
        self._close()

    def _close(self) -> None:
        self._lookout.end()
        if self._io is not None:
            self._io.before_use = None
        if self._folder is not None and self._io is not None:
            self._folder.close(self._io.wait_seconds)
        self._folder = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def _record(self, event: str, **details: Any) -> None:
        if self._events is not None:
            self._events.append({"time": round(time.time(), 3), "event": event, **details})
