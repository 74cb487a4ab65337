"""AnomalyAlerts: sees when a training goes wrong, says where and how far from normal, and does something about it.

    Trainer(callbacks=[AnomalyAlerts()])
    Trainer(callbacks=[AnomalyAlerts(loss_spike=LossSpike(action="roll_back"), throughput=Throughput(action="off"))])

Watches loss, gradients, weights, updates, layers, predictions, data, time, memory, validation and scores with the detectors of
``musictrain.health``; each is told what to do: log, alert, skip the update, reduce the learning rate for a while, roll back, stop.

When: always, in any Trainer and with any LightningModule. Cost: one pass over the gradients a step, and every ``every_n_steps`` a few
milliseconds; of several processes one small sum a step. It changes no bit of what is trained until something is wrong. Source: the faults
of Lightning's SpikeDetection, which cannot resume, says neither where nor how far, and knows no other answer than to raise.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from musictrain import health
from musictrain.health import DETECTORS, Detector, Settings, Vitals
from musictrain.health.lowered_rate import LoweredRate
from musictrain.health.responses import Response, Responses, leaves_out
from musictrain.health.settling import OUTSIDE, check_numbers, detectors_of, first_suspect, guards_updates
from musictrain.health.words import OF_BATCHES, advice_on, guilty_ranks, in_short, summed_up, what_was_done
from musictrain.listening.window_places import places_of
from musictrain.rolling_back import StepTrail, attempt_of, roll_back, why_not
from musictrain.runs import RunFolder
from musictrain.runs.alerts import alert
from musictrain.runs.rollbacks import FILE_NAME as ROLLBACKS
from musictrain.runs.rollbacks import read_rollbacks
from musictrain.runs.told_before import told_beyond
from musictrain.runs.writer import RecordWriter
from musictrain.speed.phases import listen, stop_listening
from musictrain.vitals import Gauge, LateGauge, Ranks, call_before, stage_of, tables_of

log = logging.getLogger(__name__)

FLATTENING = {"FSDPStrategy", "DeepSpeedStrategy"}
MOST_PLACES = 16
OF_LAYERS = {"layers", "entropy"}


class AnomalyAlerts(Callback):
    """Detects, tells, acts.

    Each key below is one detector's settings (a mapping of them will do); None is the settings it has by itself. What it looks at, when it
    speaks and what ``action`` and ``attempts`` mean, is told there. Whatever is decided is decided alike in every process.

    - ``alert`` tells people, ``log`` only ``train.log``; neither touches the training.
    - ``skip`` leaves out the update of this step and of every further one that is as unusual: weights, moments and the running statistics
      of batch norm stay as they were (other buffers that a forward changes do not), the schedule goes on. It is for what is known before
      the update: loss, gradients, layers, predictions and data.
    - ``reduce_lr`` multiplies the learning rate by ``lr_factor`` for ``lr_steps`` steps, on top of schedule and plateau, which know
      nothing of it.
    - ``roll_back`` goes back to the last good version and passes over the offending batches; where that cannot be done the run stops, and
      says why. See ``musictrain.rolling_back.fit``.
    - ``stop`` ends the fit; the command line exits with status 3.

    When ``attempts`` are used up the next stronger thing follows, said aloud. An update whose loss or gradients are not finite is never
    made under ``skip`` and what is stronger. Alerts tell step, rank, layer or parameter, how far from normal, the pieces of the batch with
    their bars where a corpus is known, what was done and what to try. What is logged, as ``health/...``, goes to the Trainer's loggers
    every ``log_every_n_steps``. The state (detectors, incidents, attempts, a reduced rate) is in checkpoints: a resumed run decides as the
    uninterrupted one, and tells nothing twice.

    Args:
        non_finite, loss_spike, gradient_spike, divergence, plateau, updates, layers, entropy, loss_scale, throughput, data_wait, memory,
            slow_rank, data, validation_drift, musical_collapse: settings, ``musictrain.health``.
        every_n_steps: optimizer steps between two looks at weights, updates, layers, predictions, time and memory.
        lr_factor, lr_steps: of ``reduce_lr``, in (0, 1), and for how many steps.

    Attributes:
        stop_reason, stop_advice, stopped_by_guard: how it has ended a fit.
        tells_of: the kinds of alerts that others need not raise.

    Raises:
        ValueError: for settings that cannot work.
    """

    _gauges: ClassVar[dict[str, type[Gauge]]] = {"cuda": LateGauge}

    def __init__(
        self,
        non_finite: health.NonFinite | None = None,
        loss_spike: health.LossSpike | None = None,
        gradient_spike: health.GradientSpike | None = None,
        divergence: health.Divergence | None = None,
        plateau: health.Plateau | None = None,
        updates: health.Updates | None = None,
        layers: health.Layers | None = None,
        entropy: health.Entropy | None = None,
        loss_scale: health.LossScale | None = None,
        throughput: health.Throughput | None = None,
        data_wait: health.DataWait | None = None,
        memory: health.Memory | None = None,
        slow_rank: health.SlowRank | None = None,
        data: health.DataAnomalies | None = None,
        validation_drift: health.ValidationDrift | None = None,
        musical_collapse: health.MusicalCollapse | None = None,
        every_n_steps: int = 10,
        lr_factor: float = 0.1,
        lr_steps: int = 100,
    ) -> None:
        arguments = locals()
        check_numbers(every_n_steps, lr_factor, lr_steps)
        self.every_n_steps, self.lr_factor, self.lr_steps = every_n_steps, lr_factor, lr_steps
        self._given: dict[str, Settings | dict[str, Any] | None] = {key: arguments[key] for key in DETECTORS}
        self._undo: list[Callable[[], None]] = []
        self._events: RecordWriter | None = None
        self._forget()

    def _forget(self) -> None:
        self.stop_reason = self.stop_advice = ""
        self.stopped_by_guard = False
        self._detectors: dict[str, Detector] = detectors_of(self._given)
        self.tells_of = frozenset(self._detectors)
        self._responses, self._rate, self._trail = Responses(), LoweredRate(), StepTrail()
        self._gauge: Gauge | None = None
        self._open_step: dict[str, Any] = {}
        self._step, self._read_at, self._tokens, self._times_back = -1, -1, 0.0, 0
        self._moved: dict[str, float] = {}
        self._latest: Vitals | None = None
        self._going_back: Response | None = None
        self._skipped, self._run_name = False, ""
        self._known: set[tuple[str, int]] = set()
        self._counted: dict[str, Any] = {}

    # Beginning and end.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Every fit begins with what its checkpoint remembers."""
        if stage == "fit":
            self._let_go()
            self._forget()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        if trainer.fast_dev_run or not trainer.optimizers:  # type: ignore[attr-defined]
            return
        run = RunFolder(Path(trainer.log_dir or trainer.default_root_dir))  # a collective call: every process makes it
        self._run_name = run.name if run.environment.is_file() else ""
        if trainer.is_global_zero and self._run_name:
            self._known = told_beyond(run, trainer.global_step)
            self._events = RecordWriter(run.events)
        # Of the run: what a going back brings back of this callback does not know of it.
        self._times_back = trainer.strategy.broadcast(len(read_rollbacks(run.path / ROLLBACKS)))
        self._gauge = gauge = self._gauge_for(trainer, pl_module)
        self._step, self._read_at, self._tokens = -1, trainer.global_step, 0.0
        listen(gauge.clock)
        loop = trainer.fit_loop.epoch_loop
        hook = trainer.optimizers[0].register_step_post_hook(lambda *_: self._after_update())
        self._undo = [
            lambda: stop_listening(gauge.clock),
            hook.remove,
            gauge.stop,
            # The one place where gradients are whole, of the step's mean, and not clipped yet.
            call_before(
                trainer.precision_plugin, "_clip_gradients", lambda _, optimizer, *__, **___: self._before_update(trainer, optimizer)
            ),
            call_before(loop, "_on_before_fetch", lambda: gauge.clock.switch("data")),
            call_before(loop, "_broadcast_sigterm_tensor", lambda: gauge.clock.switch("waiting")),
        ]
        gauge.clock.start()

    def _gauge_for(self, trainer: Trainer, pl_module: LightningModule) -> Gauge:
        flattened = bool(FLATTENING & {each.__name__ for each in type(trainer.strategy).__mro__})

        def sum_up(numbers: torch.Tensor) -> torch.Tensor:
            moved = numbers.to(trainer.strategy.root_device, torch.float32 if pl_module.device.type == "mps" else torch.float64)
            return trainer.strategy.reduce(moved, reduce_op="sum").cpu().double()

        add = functools.partial(trainer.strategy.reduce, reduce_op="sum")
        ranks = Ranks(trainer.global_rank, trainer.world_size, sum_up, sum_on_device=add, flattened=flattened)
        return self._gauges.get(pl_module.device.type, Gauge)(
            pl_module,
            trainer.optimizers[0],
            ranks,
            layers=bool(OF_LAYERS & set(self._detectors)),
            updates="updates" in self._detectors,
            tables=tables_of(getattr(trainer, "datamodule", None)),
            device=pl_module.device,
            guards=guards_updates(self._detectors),
        )

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Leave everything as it was."""
        self._let_go()

    on_exception = teardown

    def _let_go(self) -> None:
        self._rate.give_back()
        while self._undo:
            self._undo.pop()()
        self._gauge = None
        if self._events is not None:
            self._events.close()
            self._events = None

    # While a step is made.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note what is in the batch; a new step may begin with it."""
        gauge = self._gauge
        if gauge is None:
            return
        gauge.clock.switch("busy")
        self._trail.see(trainer)
        if self._step != trainer.global_step:
            self._step, self._skipped, self._moved = trainer.global_step, False, {}
            gauge.load_state_dict(self._open_step)
            self._open_step = {}
        before = gauge.facts.num_tokens
        gauge.take_batch(batch, look=(self._step + 1) % self.every_n_steps == 0)
        self._tokens += gauge.facts.num_tokens - before

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """Note the loss: in nats per token where the module sums them up, else as it is."""
        if self._gauge is None:
            return
        latest = getattr(getattr(pl_module, "_training_sums", None), "latest", None)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._gauge.take_loss(*([loss.detach() / (1.0 if scaler is None else scaler.get_scale())] if latest is None else latest))
        self._gauge.clock.switch("waiting")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gradients are exchanged in backward, where the faster ranks wait."""
        if self._gauge is not None:
            self._gauge.clock.switch("busy")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """A learning rate that is reduced is so from here to the end of the step; the module may log it."""
        self._rate.apply(optimizer.param_groups if self._gauge is not None else (), trainer.global_step + 1)

    def _before_update(self, trainer: Trainer, optimizer: Any) -> None:
        gauge, step = self._gauge, trainer.global_step + 1
        if gauge is None or optimizer is not trainer.optimizers[0]:
            return
        scale = 1.0 if (scaler := getattr(trainer.precision_plugin, "scaler", None)) is None else scaler.get_scale()
        told = gauge.before_update(
            step,
            look=step % self.every_n_steps == 0,
            learning_rate=float(optimizer.param_groups[0]["lr"]),
            unscale=1.0 / scale if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0,
            scaled=scaler is not None,
        )
        for vitals in told:
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            values = {**vitals.values, **stage_of(callbacks, vitals.step), **({} if scaler is None else {"loss_scale": scale})}
            self._latest = Vitals(vitals.step, values, vitals.where, vitals.batch)
            self._answer(trainer, self._latest, optimizer if vitals.step == step else None)

    def _after_update(self) -> None:
        self._rate.give_back()
        if self._gauge is not None and (self._step + 1) % self.every_n_steps == 0:
            self._moved = self._gauge.after_update()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The step may be done: look at what it has changed, at time and memory; and go back if that was decided."""
        self._rate.give_back()
        gauge, step = self._gauge, trainer.global_step
        if gauge is None or step == self._step:
            return
        if step % self.every_n_steps == 0:
            self._answer(trainer, after := gauge.after_step(step, self._moved, step - self._read_at, self._tokens))
            self._read_at, self._tokens = step, 0.0
            self._log(trainer, {**({} if self._latest is None else self._latest.values), **after.values}, step)
        self._go_back(trainer)
        gauge.begin_step()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training rests."""
        if self._gauge is not None:
            self._gauge.clock.enter("validation")
            self._counted = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what the validation has logged; the first process's values count for all."""
        if self._gauge is None or trainer.sanity_checking:
            return
        self._gauge.clock.leave("validation")
        new = {name: value for name, value in trainer.callback_metrics.items() if value is not self._counted.get(name)}
        mine = {name: float(value) for name, value in new.items() if name.startswith("val/")}
        self._answer(trainer, Vitals(trainer.global_step, trainer.strategy.broadcast(mine)))
        self._go_back(trainer)

    # Deciding, doing, telling.

    def _answer(self, trainer: Trainer, vitals: Vitals, optimizer: Any = None) -> None:
        """See what the detectors find and do what they are there for; with an optimizer its update is still to be made."""
        state = {"busy": self._rate.holds(vitals.step), "late": optimizer is None}
        answers = [self._responses.to(detector, detector.see(vitals), **state) for detector in self._detectors.values()]
        responses = [self._possible(trainer, response) for response in answers if response is not None]
        self._skipped = optimizer is not None and any(map(leaves_out, responses))
        for response in responses:
            self._do(trainer, response, vitals, optimizer)
        if self._skipped:
            self._leave_out(optimizer)
        for response in responses:
            if response.tells:
                self._tell(trainer, response, vitals)

    def _possible(self, trainer: Trainer, response: Response) -> Response:
        """What is done instead of going back where that can never be done."""
        if response.action != "roll_back":
            return response
        often = f"This run has gone back {self._times_back} times already, and {response.finding.kind} may {response.attempts} times."
        refusal = often if self._times_back >= response.attempts else why_not(trainer)
        return self._responses.refused(response, refusal) if refusal else response

    def _do(self, trainer: Trainer, response: Response, vitals: Vitals, optimizer: Any) -> None:
        step, finding = vitals.step, response.finding
        if response.action == "reduce_lr":
            first = step if optimizer is not None else step + 1
            self._rate.lower(self.lr_factor, first, self.lr_steps)
            self._record("lr_reduced", step, factor=self.lr_factor, until=self._rate.last, kind=finding.kind, reason=finding.sentence())
            if optimizer is not None:
                self._rate.give_back()
                self._rate.apply(optimizer.param_groups, step)
        elif response.action == "roll_back":
            self._going_back = self._going_back or response
        elif response.action == "stop":
            self._stop(trainer, response)
        if leaves_out(response) and (optimizer is not None or finding.kind == "non_finite"):
            self._record("skipped", step, kind=finding.kind, reason=finding.sentence())

    def _leave_out(self, optimizer: Any) -> None:
        """Without gradients an optimizer touches neither weights nor moments."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        if self._gauge is not None:
            self._gauge.leave_out()

    def _stop(self, trainer: Trainer, response: Response) -> None:
        trainer.should_stop = self.stopped_by_guard = True
        self.stop_reason = " ".join(filter(None, (response.finding.sentence(), response.because)))
        self.stop_advice = advice_on(response, self._run_name)

    def _go_back(self, trainer: Trainer) -> None:
        """Ask for what was decided; what cannot be done is followed by what is stronger."""
        response, self._going_back = self._going_back, None
        if response is None:
            return
        finding = response.finding
        first = first_suspect(self._detectors[finding.kind].settings, finding, self.every_n_steps)
        over = self._trail.batches(trainer, first, max(trainer.global_step, first))
        refusal = roll_back(trainer, reason=finding.sentence(), kind=finding.kind, step=first, batches=over)
        instead = self._responses.refused(response, refusal)
        self._stop(trainer, instead)
        self._tell(trainer, instead, Vitals(trainer.global_step, {}))

    def _tell(self, trainer: Trainer, response: Response, vitals: Vitals) -> None:
        """Tell people; every process comes here, the first one speaks."""
        finding, gauge = response.finding, self._gauge
        of_batch = gauge is not None and finding.kind in OF_BATCHES and not finding.over
        ranks = gauge.ranks.gathered((gauge.own_loss, gauge.facts)) if of_batch else []  # type: ignore[union-attr]
        did = "" if finding.over else what_was_done(response, lr_factor=self.lr_factor, lr_steps=self.lr_steps, left_out=self._skipped)
        message = f"{finding.sentence()} {did}".rstrip()
        if not trainer.is_global_zero:
            return
        if response.action == "log" or finding.over or (finding.kind, finding.step) in self._known:
            log.info("%s", message)
            return
        guilty = guilty_ranks([loss for loss, _ in ranks])
        rows = [row for rank in guilty for row in zip(ranks[rank][1].pieces, ranks[rank][1].starts, strict=True)]
        places = places_of(getattr(trainer, "datamodule", None), rows[:MOST_PLACES])
        told = {**finding.as_details(), "did": did, **({"pieces": places} if places else {})}
        told |= {"rank": guilty[0]} if len(guilty) == 1 and trainer.world_size > 1 else {}
        told |= {"loss": vitals.values["loss"]} if math.isfinite(vitals.values.get("loss", math.nan)) else {}
        level = logging.ERROR if response.action == "stop" else logging.WARNING
        message += f" In the batch: {in_short(places)}." if places else ""
        advice = advice_on(response, self._run_name, attempt_of(trainer) if self._going_back else None)
        alert(log, message, kind=finding.kind, advice=advice, level=level, **told)

    def _record(self, event: str, step: int, **facts: Any) -> None:
        if self._events is not None and (event, step) not in self._known:
            self._events.append({"time": round(time.time(), 3), "event": event, "step": step, **facts}, vital=True)

    def _log(self, trainer: Trainer, values: Mapping[str, float], step: int) -> None:
        """A row of what this look has measured, every so often."""
        every = trainer.log_every_n_steps or 1  # type: ignore[attr-defined]
        if step // every == (step - self.every_n_steps) // every or not trainer.is_global_zero:
            return
        row = {f"health/{name}": value for name, value in {**summed_up(values), "lr_factor": self._rate.factor_at(step)}.items()}
        for logger in trainer.loggers:
            logger.log_metrics({**row, "epoch": trainer.current_epoch}, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    # What a checkpoint holds.

    def state_dict(self) -> dict[str, Any]:
        """Detectors with their incidents, attempts, a reduced rate, and the batches of an open step, as plain values."""
        states = {key: detector.state_dict() for key, detector in self._detectors.items()}
        return {
            "detectors": {key: state for key, state in states.items() if key not in OUTSIDE},
            # What two runs of the same training never share.
            "machine": {key: state for key, state in states.items() if key in OUTSIDE},
            "responses": self._responses.state_dict(),
            "trail": self._trail.state_dict(),
            "rate": self._rate.state_dict(),
            "open_step": {} if self._gauge is None else self._gauge.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back; the settings stay the configured ones."""
        for key, state in {**state_dict.get("detectors", {}), **state_dict.get("machine", {})}.items():
            if key in self._detectors:
                self._detectors[key].load_state_dict(state)
        self._responses.load_state_dict(state_dict.get("responses", {}))
        self._rate.load_state_dict(state_dict.get("rate", {}))
        if "trail" in state_dict:
            self._trail.load_state_dict(state_dict["trail"])
        self._open_step = dict(state_dict.get("open_step", {}))
