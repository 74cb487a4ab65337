"""MusicalEarlyStopping: ends a run that has stopped getting better, loops or copies, and keeps its bad versions from being called best.

    Trainer(callbacks=[MusicalEarlyStopping("val/loss", patience=5)])

After each validation it looks at the values that were logged: metrics that should get better, each with a direction or a reference band,
and guards, which stop or veto at once. The rules are plain Python in ``musictrain.stopping``.

When: in any Trainer, instead of Lightning's EarlyStopping, which is the same for one metric; its ``stopping_threshold`` is the ``goal`` of
a watch here, its ``divergence_threshold`` a guard. Cost: nothing; of several processes the first one's values count for all. Source: Yin
et al. 2022, and the faults of EarlyStopping: it overwrites the configured patience at a resume, and once it has said stop inside
``min_steps`` nothing takes it back.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from musictrain.checkpoints.logged_anew import LoggedAnew
from musictrain.runs import RunFolder
from musictrain.runs.alerts import alert
from musictrain.runs.records import read_records
from musictrain.stopping import GUARDS, Guard, StoppingRule, Verdict, Watch
from musictrain.stopping.guards import guard_named
from musictrain.stopping.watches import made_of
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)
Made = TypeVar("Made", Watch, Guard)

COST = "val/musical_cost"
BANDS = "corpus_bands.json"
Named = str | dict[str, Any]  # a dict holds the settings by name; what is wrong with them is said here


class MusicalEarlyStopping(Callback):
    """Stops on several metrics, and says why.

    A version that was vetoed (a guard was crossed, or a watched value is not finite) is kept and can be gone on from, but is never called
    best: ``VersionedCheckpoint`` reads ``veto`` and passes over it. For Lightning's own ModelCheckpoint the weighted sum of the watched
    metrics, lower is better, infinite under a veto and nan where not all were logged, stands among the logged values as
    ``val/musical_cost``: monitor that.

    ``stop_reason``, ``stop_advice`` and ``stopped_by_guard`` tell how the fit ended. What is known of a value beyond its number, such as
    which piece is copied, is taken from the attribute ``score_notes`` (by name) of any callback; names that a callback logs, but not after
    every validation and with nan where there is nothing to measure, from its attribute ``score_names``.

    Args:
        watch: the metrics, by name (lower is better) or as ``musictrain.stopping.Watch``, or its settings, with direction or band,
            min_delta, patience, warm-up, goal and weight. None is val/loss where it is logged.
        combine: ``all`` of them must have waited long enough, ``any`` of them, their ``weighted`` sum, or their ``pareto`` front.
        patience: validations in a row without an improvement; of watches that have none of their own, and of what is combined.
        min_delta: of the weighted sum.
        relative: ``min_delta`` is a share of the lowest sum.
        warm_up: values up to so many optimizer steps are passed over.
        min_steps: patience ends no run before so many optimizer steps; guards do.
        guards: as ``musictrain.stopping.Guard``, or by name: ``collapse``, ``standstill``, ``copying``, ``tokens``. None is these four, as
            far as their values are logged; an empty list none.

    Raises:
        ValueError: for settings that cannot work, and after the first validation for a named metric that nobody logs.
    """

    def __init__(
        self,
        watch: Named | Watch | Sequence[Named | Watch] | None = None,
        combine: str = "all",
        patience: int = 3,
        min_delta: float = 0.0,
        relative: bool = False,
        warm_up: int = 0,
        min_steps: int = 0,
        guards: Sequence[Named | Guard] | None = None,
    ) -> None:
        several = [watch] if isinstance(watch, str | Watch | Mapping) else watch
        watches = [Watch("val/loss")] if several is None else [settled(Watch, each, Watch) for each in several]
        guarding = list(GUARDS.values()) if guards is None else [settled(Guard, each, guard_named) for each in guards]
        self.rule = StoppingRule(
            watches,
            combine=combine,
            patience=patience,
            min_delta=min_delta,
            relative=relative,
            warm_up=warm_up,
            min_steps=min_steps,
            guards=guarding,
        )
        self._watched = [each.metric for each in watches if watch is not None]
        self._guarded = [name for each in guarding if guards is not None for name in each.names]
        self._decided: dict[str, Any] = {}
        self._forget()

    def _forget(self) -> None:
        self.stop_reason = self.stop_advice = ""
        self.stopped_by_guard = False
        self.veto, self.vetoed_step = "", -1
        self.verdict: Verdict | None = None
        self._anew = LoggedAnew()
        self._is_first = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What stopped an earlier fit does not stop this one; what was counted stays."""
        self._forget()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where a run was killed between its last validation, which had ended it, and its end; one that has ended goes on."""
        decided, self._decided = self._decided, {}
        if not decided or decided["step"] != trainer.global_step or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        stands = decided["by_guard"] or self.rule.has_waited_long_enough(trainer.global_step)
        if stands and trainer.strategy.broadcast(was_killed(RunFolder(Path(folder)), trainer.global_step)) and may_stop(trainer):
            self._stop(trainer, Verdict(stop=True, by_guard=decided["by_guard"], reason=decided["reason"], advice=decided["advice"]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Once after each validation and each resume: what stands among the logged values now has been counted."""
        self._anew.begins(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge, and stop if it is time to."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        values, notes, unknown, bands = trainer.strategy.broadcast(self._heard(trainer))
        self._anew.validated()
        self._is_first = False
        if unknown:
            raise ValueError(unknown)
        if self.rule.awaits_bands:
            self.rule.settle_bands(bands)
        step = trainer.global_step
        self.verdict = verdict = self.rule.judge(step, values, notes)
        self.veto, self.vetoed_step = verdict.veto, step
        # Writers come last and find it here; the one of an earlier validation must not stand in for it.
        trainer.callback_metrics[COST] = torch.tensor(math.nan if verdict.cost is None else verdict.cost)
        if trainer.is_global_zero:
            report(verdict, step)
        if verdict.stop and may_stop(trainer):
            self._stop(trainer, verdict)

    def _heard(self, trainer: Trainer) -> tuple[dict[str, float], dict[str, str], str, dict[str, tuple[float, float]]]:
        """What this process knows: values logged since the last validation, notes on them, what is wrong with the names, and bands."""
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        logged, new = dict(trainer.callback_metrics), self._anew.of(trainer)
        to_come = {name for callback in callbacks_of(trainer) for name in getattr(callback, "score_names", ())}
        values = {name: float(new[name]) for name in self.rule.names if name in new}
        # Of a score nan says that there was nothing to measure, of any other value that training has gone wrong.
        values = {name: value for name, value in values.items() if not (math.isnan(value) and name in to_come)}
        notes = {name: str(note) for callback in callbacks_of(trainer) for name, note in getattr(callback, "score_notes", {}).items()}
        fault = self._names_at_fault({*logged, *to_come} - {COST}, trainer.is_global_zero) if self._is_first else ""
        return values, notes, fault, corpus_bands(Path(folder) / BANDS) if self.rule.awaits_bands else {}

    def _names_at_fault(self, there: set[str], tells: bool) -> str:
        """What is wrong with the names that were given; of those that nobody has named it is only told."""
        fault = unknown_names(self._watched, self._guarded, there)
        if fault or not tells:
            return fault
        if idle := [name for name in self.rule.names if name not in there]:
            log.info("MusicalEarlyStopping does not look at %s: nobody logs it. SampleAndScore logs scores of music.", ", ".join(idle))
        if not there.intersection(self.rule.names):
            log.warning("MusicalEarlyStopping has nothing to look at: name a logged value in `watch`. There are %s.", sorted(there))
        return ""

    def _stop(self, trainer: Trainer, verdict: Verdict) -> None:
        trainer.should_stop = True
        self.stop_reason, self.stop_advice, self.stopped_by_guard = verdict.reason, verdict.advice, verdict.by_guard
        rank_zero_info(f"Stopping after {trainer.global_step:,} steps. {verdict.reason} {verdict.advice}".rstrip())

    def state_dict(self) -> dict[str, Any]:
        """What was counted, and a stop that was decided, as plain values. The settings are not among them: the configured ones hold."""
        counted = self.rule.state_dict()
        if not self.stop_reason:
            return counted
        told = {"reason": self.stop_reason, "advice": self.stop_advice, "by_guard": self.stopped_by_guard}
        return {**counted, "decided": {"step": self.vetoed_step, **told}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.rule.load_state_dict(state_dict)
        self._decided = dict(state_dict.get("decided", {}))


def settled(kind: type[Made], given: str | Mapping[str, Any] | Made, by_name: Callable[[str], Made]) -> Made:
    """A watch or a guard, from whatever it was given as."""
    if isinstance(given, str):
        return by_name(given)
    return made_of(kind, given) if isinstance(given, Mapping) else given


def corpus_bands(path: Path) -> dict[str, tuple[float, float]]:
    """Where the corpus lies, by the name of the score; empty if nobody has measured it."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {name: (float(low), float(high)) for name, (low, high) in told.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def was_killed(run: RunFolder, step: int) -> bool:
    """Whether a run was recorded and its events tell of no end at this step."""
    events = read_records(run.events) if run.events.is_file() else []
    ends = [event for event in events if event.get("event") in ("stopped", "finished") and event.get("step") == step]
    return not ends and any(event.get("event") == "started" for event in events)


def may_stop(trainer: Trainer) -> bool:
    """Whether the Trainer's own least steps and epochs are done: what it is told before that, it would remember for ever."""
    epochs = trainer.current_epoch + bool(trainer.is_last_batch)
    return trainer.global_step >= (trainer.min_steps or 0) and epochs >= (trainer.min_epochs or 0)


def report(verdict: Verdict, step: int) -> None:
    """Say which guards are crossed, once for each row of validations."""
    for crossing in verdict.crossings:
        if crossing.times == 1:
            alert(
                log,
                f"{crossing.words}: the version of step {step:,} is not called best.",
                kind="music_guard",
                advice=crossing.advice,
                step=step,
                metric=crossing.metric,
            )


def unknown_names(watched: Sequence[str], guarded: Sequence[str], there: set[str]) -> str:
    """What to say of names that nobody logs; empty if there are none."""
    for what, key, names in (("watches", "watch", watched), ("guards", "guards", guarded)):
        if missing := [name for name in names if name not in there]:
            hints = " ".join(filter(None, (did_you_mean(name, sorted(there)) for name in missing)))
            return (
                f"MusicalEarlyStopping {what} {missing}, but this run logged {sorted(there)}. {hints} ".replace("  ", " ")
                + f"Log the score in validation, or name one of the logged ones in `{key}`."
            )
    return ""


def callbacks_of(trainer: Trainer) -> list[Any]:
    """The Trainer's callbacks."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]
