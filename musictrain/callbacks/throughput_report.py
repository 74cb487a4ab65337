"""ThroughputReport: how fast training is, and where its time goes.

    Trainer(callbacks=[ThroughputReport()])

Logs ``speed/tokens_per_second``, ``notes_per_second``, ``pieces_per_second``, the share of each phase (``speed/forward_share``, ...),
``speed/data_wait``, ``speed/mfu``, ``speed/memory_peak_mib`` and, of several ranks, ``speed/straggler`` to every logger of the Trainer: the
run's records, TensorBoard, W&B. Says so when training waits for data or for one rank, and sums up at the end.

When: always; with any LightningModule (what its batches do not tell is left out). Cost: some 0.05 ms a step, and every
``every_n_steps`` a few ms in which ranks and device are waited for; once half a second for the device's peak and the network's FLOPs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn

from musictrain.runs.alerts import alert
from musictrain.speed.complaints import Complaint, about_data, about_straggler
from musictrain.speed.flops import FlopCount
from musictrain.speed.memory import peak_memory_mib
from musictrain.speed.music_read import MusicRead, mean_tokens_per_piece
from musictrain.speed.peak import dtype_of, measured_peak
from musictrain.speed.phase_clock import PhaseClock, ticker_for
from musictrain.speed.phases import ASIDE, PHASES, listen, phase, stop_listening
from musictrain.speed.speed_report import WAITING_ASIDE, RankWindow, SpeedReport, as_table

log = logging.getLogger(__name__)


class ThroughputReport(Callback):
    """Measures what training does with its time, and logs it as ``speed/...``.

    Rates are those of training: validation, sampling, saving and this report are left out of their seconds. Tokens are those that a batch
    has as targets, without padding where the padding token is known (from the module or the data module's tokenizer); see
    :class:`~musictrain.speed.music_read.MusicRead` for notes and pieces. All of them are sums over the ranks. The shares of the phases
    are of all the time and add up to 1:

    - ``data`` from asking the loader to the start of the batch: loading that workers did not hide, and the transfer to the device
    - ``forward`` (with the loss), ``backward``, ``optimizer`` (with clipping)
    - ``validation``; ``sampling`` and ``saving`` as callbacks tell by :func:`musictrain.speed.phase`, every ``trainer.save_checkpoint`` too
    - ``reporting`` is this callback's own, ``other`` what is left: the loop, loggers, other callbacks

    On CUDA the phases are taken from events on the device's time line, recorded without waiting and read at the report (not run here).
    Nothing is remembered over a resume: the summary is about this process's part of the run.

    Args:
        every_n_steps: optimizer steps between two reports; None for the Trainer's ``log_every_n_steps``.
        mfu: whether to count the network's FLOPs and hold them against the device's peak.
        peak_tflops: TFLOP/s of one device, where you know better; else Lightning's table of devices, else a short matrix product.
        most_data_wait: share of the training time from which waiting for data is complained of.
        most_straggling: share by which a rank may be busy longer than the median.
        patience: reports in a row before it is said.
        most_ranks: worlds of up to so many ranks log each rank's own values.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        mfu: bool = True,
        peak_tflops: float | None = None,
        most_data_wait: float = 0.2,
        most_straggling: float = 0.2,
        patience: int = 3,
        most_ranks: int = 8,
    ) -> None:
        if (every_n_steps is not None and every_n_steps < 1) or patience < 1 or (peak_tflops is not None and not peak_tflops > 0):
            raise ValueError(
                f"ThroughputReport got every_n_steps={every_n_steps}, patience={patience}, peak_tflops={peak_tflops}: each must be "
                "positive, or None to leave it open."
            )
        if min(most_data_wait, most_straggling) < 0:
            raise ValueError(
                f"ThroughputReport got most_data_wait={most_data_wait}, most_straggling={most_straggling}: shares are not negative."
            )
        self.every_n_steps, self.mfu, self.peak_tflops = every_n_steps, mfu, peak_tflops
        self.most_data_wait, self.most_straggling, self.patience, self.most_ranks = most_data_wait, most_straggling, patience, most_ranks
        self._forget()

    def _forget(self) -> None:
        self._clock = PhaseClock()
        self._read = MusicRead()
        self._flops: FlopCount | None = None
        self._peak: float | None = None
        self._total: SpeedReport | None = None
        self._step_read = 0
        self._data, self._straggler = Complaint(self.patience), Complaint(self.patience)
        self._undo: list[Callable[[], None]] = []

    def summary(self) -> dict[str, float]:
        """What has been logged, over the whole fit so far up to the last report; empty before the first. The same on every rank."""
        return {} if self._total is None else self._total.values(self.most_ranks)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the network for counting before a strategy takes it apart."""
        if stage != "fit":
            return
        self._let_go()
        self._forget()
        if self.mfu and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            network = getattr(pl_module, "network", pl_module)
            self._flops = FlopCount(network if isinstance(network, nn.Module) else pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        datamodule = getattr(trainer, "datamodule", None)
        self._read = MusicRead(_pad_id(pl_module, datamodule), mean_tokens_per_piece(getattr(datamodule, "store", None)))
        self._step_read = trainer.global_step
        self._clock = PhaseClock(ticker_for(pl_module.device))
        listen(self._clock)
        self._undo = [lambda: stop_listening(self._clock), *_watch(trainer, pl_module, self._clock)]
        self._clock.start("data")

    # The phases.

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What follows is a loader starting its workers."""
        self._clock.switch("data")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The data is here."""
        if self._clock.runs:
            self._clock.switch("forward")
            self._read.add(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """The loss is known."""
        self._clock.switch("backward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """So are the gradients. By hand another forward may follow."""
        self._clock.switch("other" if pl_module.automatic_optimization else "forward")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Clipping and the step follow."""
        self._clock.switch("optimizer")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Report if it is time to; all ranks do so at the same steps."""
        self._clock.switch("other")
        every = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._clock.runs and every and trainer.global_step // every > self._step_read // every:
            self._report(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The loader has nothing left."""
        self._clock.switch("other")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training rests."""
        self._clock.switch("validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training goes on."""
        self._clock.switch("other")

    # The report.

    def _report(self, trainer: Trainer, pl_module: LightningModule, *, ended: bool = False) -> None:
        self._clock.enter("reporting")
        window = self._close_window(trainer, pl_module)
        report = self._gather(trainer, pl_module, window)
        self._total = report if self._total is None else self._total + report
        if window.steps:
            # Once training has ended Lightning's step is that of the next row; its own rows of an epoch's end step back, too.
            self._log(trainer, report, trainer.fit_loop.epoch_loop._batches_that_stepped - ended)
            self._complain(trainer, report)
        self._clock.leave("reporting")

    def _log(self, trainer: Trainer, report: SpeedReport, step: int) -> None:
        values = {f"speed/{name}": value for name, value in report.values(self.most_ranks).items()}
        # Not by self.log: that costs a quarter of a millisecond a key at every step.
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=step)

    def _close_window(self, trainer: Trainer, pl_module: LightningModule) -> RankWindow:
        seconds = self._clock.read()
        flops = 0.0 if self._flops is None else self._flops.of_rows(self._read.rows_of_length)
        if flops and self._peak is None:
            self._peak = self._find_peak(trainer, pl_module.device)
        steps, self._step_read = trainer.global_step - self._step_read, trainer.global_step
        return RankWindow(
            steps=steps,
            **self._read.flush(),
            flops=flops,
            memory_mib=peak_memory_mib(pl_module.device),
            seconds=tuple(seconds.get(name, 0.0) for name in PHASES),
        )

    def _gather(self, trainer: Trainer, pl_module: LightningModule, window: RankWindow) -> SpeedReport:
        dtype = torch.float32 if pl_module.device.type == "mps" else torch.float64
        mine = torch.tensor(window.as_row(), dtype=dtype, device=pl_module.device)
        rows = trainer.strategy.all_gather(mine).view(-1, len(mine)).tolist()
        sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        return SpeedReport(
            ranks=tuple(RankWindow.from_row(row) for row in rows),
            num_shares=(trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1),
            known=self._read.known,
            peak=self._peak or 0.0,
            # Sharded ranks wait for one another in every layer.
            waits=("forward", "backward", "optimizer", *ASIDE) if sharded else WAITING_ASIDE,
        )

    def _find_peak(self, trainer: Trainer, device: torch.device) -> float:
        if self.peak_tflops is not None:
            return 1e12 * self.peak_tflops
        dtype = dtype_of(trainer.precision or "32-true")
        if device.type != "cpu" and (known := get_available_flops(device, dtype)):
            return float(known)
        return measured_peak(device, dtype)

    def _complain(self, trainer: Trainer, report: SpeedReport) -> None:
        if told_by_others(trainer):
            return
        if self._data.due(report.data_wait > self.most_data_wait) and trainer.is_global_zero:
            message, advice = about_data(report, getattr(trainer.train_dataloader, "num_workers", None))
            alert(log, message, kind="data_wait", advice=advice, step=trainer.global_step)
        if self._straggler.due(report.straggler > self.most_straggling) and trainer.is_global_zero:
            message, advice = about_straggler(report)
            alert(log, message, kind="straggler", advice=advice, step=trainer.global_step, slowest_rank=report.slowest)

    # The end.

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report what came since the last report, and sum up."""
        if not self._clock.runs:
            return
        self._report(trainer, pl_module, ended=True)
        if trainer.is_global_zero and self._total is not None:
            log.info("How fast it was:\n%s", as_table(self._total))
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop. Other ranks may not get here, so that nothing more is gathered."""
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give everything back."""
        self._let_go()

    def _let_go(self) -> None:
        self._clock.stop()
        self._flops = None
        while self._undo:
            self._undo.pop()()


def told_by_others(trainer: Trainer) -> bool:
    """Whether another callback watches for the same and says so by ``tells_of``: once is enough."""
    told = {kind for callback in trainer.callbacks for kind in getattr(callback, "tells_of", ())}  # type: ignore[attr-defined]
    return {"data_wait", "slow_rank"} <= told


def _pad_id(pl_module: LightningModule, datamodule: Any) -> int | None:
    """The padding token that the module or the data module's tokenizer names."""
    own = getattr(pl_module, "pad_id", None)
    return own if isinstance(own, int) else getattr(getattr(datamodule, "tokenizer", None), "pad_id", None)


def _watch(trainer: Trainer, pl_module: LightningModule, clock: PhaseClock) -> list[Callable[[], None]]:
    """Tell the clock what no hook tells: asking for data, saving, and the end of an optimizer's step. Gives back how to undo each."""
    after_step = "other" if pl_module.automatic_optimization else "forward"
    hooks = [
        optimizer.register_step_post_hook(lambda *_: clock.switch(after_step))
        for optimizer in trainer.optimizers
        if hasattr(optimizer, "register_step_post_hook")
    ]
    return [
        *(hook.remove for hook in hooks),
        _shadow(trainer.fit_loop.epoch_loop, "_on_before_fetch", lambda fetch: _switching(clock, fetch)),
        _shadow(trainer, "save_checkpoint", phase("saving")),
    ]


def _switching(clock: PhaseClock, fetch: Callable[[], None]) -> Callable[[], None]:
    def before_fetch() -> None:
        clock.switch("data")
        fetch()

    return before_fetch


def _shadow(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Callable[[], None]:
    """Put a wrapped method in front of the class's own, on this one object; gives back how to undo it."""
    before = vars(owner).get(name)
    setattr(owner, name, wrap(getattr(owner, name)))

    def undo() -> None:
        if before is None:
            vars(owner).pop(name, None)
        else:
            setattr(owner, name, before)

    return undo
