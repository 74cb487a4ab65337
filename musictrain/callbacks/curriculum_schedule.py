"""CurriculumSchedule: from easy to hard, from short to long, from one corpus to another, while the network learns.

    Trainer(callbacks=[CurriculumSchedule(difficulty={"until": 1000, "shape": "root"}, orderings={"surprisal": 1.0})])

It turns a dial: the share of the windows, easiest first, that are drawn from, the share of a window that rows keep, and the shares of the
corpora; by optimizer steps, by tokens, or by how far a monitored value has come. The batches are the data module's: it follows by the
method ``follow(course)``, which is called before the loaders are made, and asks ``course.at(number)`` for the dial of each batch. So a
batch is a function of its number still, and resuming, going back and replaying stay exact.

When: little music and many steps, long windows, or a small corpus beside a large one that it is to end on; measure whether it helps, since
it need not. In any Trainer with a data module that follows. Cost: none. Source: Bengio et al. 2009, "Curriculum learning"; Platanios et al.
2019, "Competence-based curriculum learning": there competence is a function of time alone, here ``by="value"`` measures it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from torch.optim import Optimizer

from musictrain.batch_seed import number_of_batch
from musictrain.checkpoints.logged_anew import LoggedAnew
from musictrain.checkpoints.reference_loss import Reference, find_reference, loss_by_stretch
from musictrain.curriculum import Course, Decision, Dial, Pacing, Shift
from musictrain.curriculum.course import check_unit
from musictrain.curriculum.pacing import is_number, made_of
from musictrain.data.accumulation import AccumulationRule, rule_of
from musictrain.data.orderings import REFERENCE_LOSS
from musictrain.runs import RunFolder, read_records
from musictrain.runs.writer import RecordWriter
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)

Settings = dict[str, Any]

ORDER_BY_IT = f"orderings={{'{REFERENCE_LOSS}': 1.0}}"

PROTOCOL = """\
    def follow(self, course):              # called before the loaders are made
        self.course = course

    # and where batch `number` is drawn, counted from 0 over the whole training, in the process that trains:
    #     dial = self.course.at(number)    # dial.difficulty, dial.length, dial.mixture
    #     course.orderings                 # weights by name: by what windows are easy or hard"""


class CurriculumSchedule(Callback):
    """Turns the dial of a data module that follows; with none of ``difficulty``, ``length`` and ``mixture`` it does nothing.

    Each of the three has settings of its own: ``until`` (in steps or tokens; by value the part of the way to the goal), ``shape``
    (``linear``, ``root``, ``step``, ``geometric``), ``start``, ``begin``, ``power`` and ``stages``, see ``musictrain.curriculum.Pacing``;
    for the mixture ``start`` and ``end`` are shares by corpus, see ``Shift``. Logs ``curriculum/difficulty``, ``curriculum/length``,
    ``curriculum/share_<corpus>`` and, by value, ``curriculum/competence``.

    Steps and tokens are counted by the batch's number: a batch that was passed over counts as one that was trained on, and a row that is
    cut short counts the tokens it has.

    Args:
        by: what the settings count: optimizer ``steps``, ``tokens`` over all processes, padding included, or the way of a monitored
            ``value`` from its first one to the goal.
        difficulty: share of the windows that are drawn from, easiest first.
        orderings: by what they are easy or hard, and how much each counts: ``{"surprisal": 1.0, "length": 0.5}``. MusicDataModule knows
            length, note_density, polyphony, pitch_class_entropy, rhythmic_variety, voices, surprisal and reference_loss.
        length: share of a window's tokens that rows keep.
        mixture: shares of the corpora of ``data.corpus: ryans+chorales``, from ``start`` to ``end``.
        monitor: by value: a name that is logged in validation.
        goal: by value: where everything is drawn from. Whether that is up or down follows from the first value.
        first_value: by value: where the way begins; None for what the first validation measures.
        delay: by value: what a validation decides holds from so many batches later on, since loaders have fetched ahead; more than
            num_workers times prefetch_factor.
        reference: for the ordering ``reference_loss``: the version whose losses are meant, as ``RUN@VERSION`` or the path of a checkpoint.
            A resumed run keeps the one it began with. Computed once, kept beside the tokens.
        runs: the folder in which that run is looked for; None for this run's own, else ``$MUSICTRAIN_RUNS``.

    Raises:
        ValueError: for settings that cannot work; when a fit starts, if the data module cannot follow or loaders fetch too far ahead; after
            the first validation, for a name that nobody logs.
    """

    def __init__(
        self,
        by: str = "steps",
        difficulty: Settings | Pacing | None = None,
        orderings: dict[str, float] | None = None,
        length: Settings | Pacing | None = None,
        mixture: Settings | Shift | None = None,
        monitor: str = "val/loss",
        goal: float | None = None,
        first_value: float | None = None,
        delay: int = 64,
        reference: str | None = None,
        runs: str | None = None,
    ) -> None:
        self.difficulty = None if difficulty is None else made_of(Pacing, "CurriculumSchedule.difficulty", difficulty)
        self.length = None if length is None else made_of(Pacing, "CurriculumSchedule.length", length)
        self.mixture = None if mixture is None else made_of(Shift, "CurriculumSchedule.mixture", mixture)
        self.by, self.orderings = by, checked_orderings(orderings, turns=self.difficulty is not None)
        self.monitor, self.goal, self.first_value, self.delay = monitor, goal, first_value, delay
        self.reference, self.runs = reference, runs
        check_unit(by, {"difficulty": self.difficulty, "length": self.length, "mixture": self.mixture})
        self._check_value()
        self.course: Course | None = None
        self._foretold: list[Decision] = []
        self._taken_in: Reference | None = None
        self._fault = ""
        self._trainer: Trainer | None = None
        self._events: RecordWriter | None = None
        self._anew, self._is_first, self._turns = LoggedAnew(), True, False

    def _check_value(self) -> None:
        if self.by == "value" and not is_number(self.goal):
            raise ValueError(
                f"CurriculumSchedule by value got goal={self.goal!r}; it needs a number: the {self.monitor} at which everything is drawn "
                "from."
            )
        if self.by != "value" and self.goal is not None:
            raise ValueError(f"CurriculumSchedule got goal={self.goal!r} and by={self.by!r}: a goal is for by='value'.")
        if not (isinstance(self.delay, int) and self.delay >= 1):
            raise ValueError(f"CurriculumSchedule got delay={self.delay!r}; it needs a whole number of batches from 1 on.")
        if self.reference is not None and REFERENCE_LOSS not in self.orderings:
            raise ValueError(f"CurriculumSchedule got reference={self.reference!r}, by which nothing is ordered: name it, {ORDER_BY_IT}.")

    # Before the first batch.

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew, and let the data module follow."""
        if stage != "fit":
            return
        self.teardown(trainer, pl_module, stage)  # of a fit that an error has ended
        self._trainer, self._anew, self._is_first = trainer, LoggedAnew(), True
        self.course = self.lead(trainer, trainer.datamodule)  # type: ignore[attr-defined]

    def lead(self, trainer: Trainer, datamodule: Any) -> Course | None:
        """A new course, which the data module follows from now on; None if nothing is to be turned.

        Raises:
            ValueError: if it cannot follow, or nobody can say what a batch counts.
        """
        if self.difficulty is None and self.length is None and self.mixture is None:
            return None
        if not callable(getattr(datamodule, "follow", None)):
            who = "a Trainer without a data module" if datamodule is None else f"{type(datamodule).__name__}, which cannot follow"
            raise ValueError(
                f"CurriculumSchedule turns the dial of a data module, but this is {who}. Take MusicDataModule, or give the data module "
                f"this method:\n\n{PROTOCOL}"
            )
        course = Course(
            self.by,
            difficulty=self.difficulty,
            length=self.length,
            mixture=self.mixture,
            orderings=self.orderings,
            batches_per_step=batches_per_step(trainer, datamodule) if self.by == "steps" else None,
            tokens_per_batch=tokens_per_batch(datamodule) if self.by == "tokens" else None,
        )
        course.value_at_start = self.first_value
        course.foretell(self._foretold)
        datamodule.follow(course)
        if self.reference is not None:
            self._take_in(trainer, datamodule, self.reference)
        return course

    def _take_in(self, trainer: Trainer, datamodule: Any, text: str) -> None:
        """Give the data module the losses of a version; one that is gone may be known to the checkpoint that is gone on from."""
        found = trainer.strategy.broadcast(self._found(trainer, text))
        self._fault = f"CurriculumSchedule.reference: {found}" if isinstance(found, str) else ""
        if isinstance(found, Reference):
            self._use(trainer, datamodule, found)

    def _use(self, trainer: Trainer, datamodule: Any, found: Reference) -> None:
        tokenizer = getattr(datamodule, "tokenizer", None)
        if not callable(getattr(datamodule, "take_in", None)) or tokenizer is None:
            raise ValueError(f"CurriculumSchedule.reference needs MusicDataModule; {type(datamodule).__name__} has no take_in.")
        if found.tokenizer and found.tokenizer != tokenizer.fingerprint:
            raise ValueError(
                f"CurriculumSchedule.reference: {found.name} was trained with another tokenizer ({found.tokenizer}) than this run's, "
                f"{tokenizer.name} ({tokenizer.fingerprint}). Name a version that reads the same tokens, or order by surprisal."
            )
        device = trainer.strategy.root_device
        fingerprint = f"{found.fingerprint},{datamodule.window}"
        datamodule.take_in(REFERENCE_LOSS, fingerprint, lambda stretches: loss_by_stretch(found, datamodule, stretches, device))
        self._taken_in = found
        log.info("Windows are ordered by the loss of %s.", found.name)

    def _found(self, trainer: Trainer, text: str) -> Reference | str:
        """The version, or why there is none: what the first process says."""
        own = trainer.log_dir  # a collective call: every process makes it
        is_run = own is not None and RunFolder(Path(own)).is_run()
        try:
            return find_reference(text, self.runs or (Path(str(own)).parent if is_run else None)) if trainer.is_global_zero else ""
        except (ValueError, OSError) as error:
            return str(error)

    def foretell(self, decisions: Iterable[Decision]) -> None:
        """By value: let the next fits, which do steps again, go by the decisions that were taken then instead of taking them."""
        self._foretold = list(decisions)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a reference that is nowhere, now that a checkpoint has had its word; sharded ones have it later."""
        if self._fault and not trainer.strategy.restore_checkpoint_after_setup:
            raise ValueError(self._fault)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse loaders that fetch further ahead than decisions are delayed."""
        if self.course is None:
            return
        self._turns = not self.course.is_over(next_number(trainer))
        ahead = max((fetched_ahead(loader) for loader in loaders_of(trainer)), default=0)
        if self.by == "value" and ahead >= self.delay:
            raise ValueError(
                f"CurriculumSchedule got delay={self.delay}, but the loaders fetch {ahead} batches ahead (num_workers times "
                f"prefetch_factor): what a validation decides would come too late. Set delay to {ahead + 1} or more, or num_workers "
                "lower."
            )
        run = RunFolder(Path(trainer.log_dir or trainer.default_root_dir))  # a collective call: every process makes it
        if trainer.is_global_zero and run.environment.is_file() and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._events = RecordWriter(run.events)
            self._record_lost(run, trainer.global_step)

    def _record_lost(self, run: RunFolder, step: int) -> None:
        """Tell of decisions that the version knows and a kill has kept from the events: who does a step again reads them there."""
        assert self.course is not None
        told = {(event.get("count"), event.get("competence")) for event in read_records(run.events) if event.get("event") == "curriculum"}
        for decision in self.course.table:
            if (decision.count, decision.competence) not in told:
                self._record("curriculum", step=step, batch=decision.first, count=decision.count, competence=decision.competence)

    # While it trains.

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Once after each validation and each resume: what stands among the logged values now has been judged."""
        self._anew.begins(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the dial of the step's last batch when other values are logged, and say once that everything is drawn from."""
        if self.course is None:
            return
        every, number = trainer.log_every_n_steps, number_of_batch(trainer)  # type: ignore[attr-defined]
        if every and (trainer.global_step + 1) % every == 0:
            for name, value in self.values_of(self.course.at(number), number).items():
                pl_module.log(f"curriculum/{name}", value)
        if self._turns and self.course.is_over(number):
            self._turns = False
            log.info("The curriculum is over: from batch %d on everything is drawn from.", number)
            self._record("curriculum", step=trainer.global_step + 1, batch=number, over=True)

    def values_of(self, dial: Dial, number: int) -> dict[str, float]:
        """What is logged of a dial: the parts that turn."""
        assert self.course is not None
        parts = {name: float(getattr(dial, name)) for name in self.course.turns if name != "mixture"}
        parts |= {f"share_{corpus}": share for corpus, share in dial.mixture}
        return {**parts, **({"competence": self.course.amount(number)} if self.by == "value" else {})}

    def training_stage(self, step: int) -> float:
        """For ``AnomalyAlerts``: another number after each jump of the dial; 0 for one that is turned evenly."""
        if self.course is None or self._trainer is None:
            return 0.0
        jumps = {name for name in self.course.turns if self.by == "value" or getattr(getattr(self, name), "shape", "") == "step"}
        dial = self.course.at(number_of_batch(self._trainer))
        shares = [share * place for place, (_, share) in enumerate(dial.mixture, 1) if "mixture" in jumps]
        return math.fsum([*(getattr(dial, name) for name in jumps - {"mixture"}), *shares])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """By value: judge what was measured, the first process for all."""
        if self.course is None or self.by != "value" or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value, fault = trainer.strategy.broadcast(self._heard(trainer))
        self._anew.validated()
        self._is_first = False
        if fault:
            raise ValueError(fault)
        assert self.goal is not None
        count = batches_done(trainer) + self.delay
        decision = None if value is None else self.course.judge(value, self.goal, number_of_batch(trainer, count), count)
        if decision is not None:
            log.info("%s is %.4g: from batch %d on competence is %.3f.", self.monitor, value, decision.first, decision.competence)
            facts = {"batch": decision.first, "count": count, "competence": decision.competence, "metric": self.monitor, "value": value}
            self._record("curriculum", step=trainer.global_step, **facts)

    def _heard(self, trainer: Trainer) -> tuple[float | None, str]:
        """The value if it was logged anew, and what is wrong with its name."""
        new, logged = self._anew.of(trainer), sorted(trainer.callback_metrics)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        to_come = {name for callback in callbacks for name in getattr(callback, "score_names", ())}
        if self._is_first and self.monitor not in {*logged, *to_come}:
            hint = did_you_mean(self.monitor, logged)
            return None, (
                f"CurriculumSchedule watches {self.monitor!r}, but this run logged {logged}. {hint} ".replace("  ", " ")
                + "Log the score in validation, or name one of the logged ones in `monitor`."
            )
        return (float(new[self.monitor]) if self.monitor in new else None), ""

    def _record(self, event: str, **facts: Any) -> None:
        if self._events is not None:
            self._events.append({"time": round(time.time(), 3), "event": event, **facts}, vital=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the events."""
        events, self._events = self._events, None
        if events is not None:
            events.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the events."""
        self.teardown(trainer, pl_module, "fit")

    # What a checkpoint holds.

    def state_dict(self) -> dict[str, Any]:
        """Decisions, and how much is behind before the next batch, as plain values. The settings are not among them."""
        if self.course is None or self._trainer is None:
            return {}
        reference = {} if self._taken_in is None else {"reference": {"asked": self.reference, **asdict(self._taken_in)}}
        return {"course": self.course.state_dict(next_number(self._trainer)), "batch_size": rows_of(self._trainer), **reference}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, also with another accumulation or size of batch: from the amount that was behind."""
        if self.course is None or "course" not in state_dict or self._trainer is None:
            return
        trainer, then, now = self._trainer, state_dict.get("batch_size"), rows_of(self._trainer)
        rows = (then, now) if then and now else (1, 1)
        self.course.load_state_dict(state_dict["course"], rows, lambda count: number_of_batch(trainer, count))
        self.course.value_at_start = self.course.value_at_start if self.first_value is None else self.first_value
        self._take_in_again(trainer, state_dict.get("reference"))

    def _take_in_again(self, trainer: Trainer, before: Mapping[str, str] | None) -> None:
        """Order by what the run began with, though the name means a better version by now, or none."""
        then = {} if before is None else {name: before[name] for name in ("path", "run", "fingerprint", "tokenizer")}
        if before is not None and before["asked"] == self.reference and then != (self._taken_in and asdict(self._taken_in)):
            self._use(trainer, trainer.datamodule, Reference(**then))  # type: ignore[attr-defined]
            self._fault = ""
        elif self._fault:
            raise ValueError(self._fault)


def checked_orderings(orderings: Mapping[str, float] | None, *, turns: bool) -> dict[str, float]:
    """Weights by the name of an ordering.

    Raises:
        ValueError: if these are none, or nothing is ordered by them.
    """
    given = {} if orderings is None else orderings
    if not isinstance(given, Mapping) or not all(is_number(weight) and weight > 0 for weight in given.values()):
        raise ValueError(f"CurriculumSchedule got orderings={given!r}; it needs weights above 0 by name, such as {{'surprisal': 1.0}}.")
    if given and not turns:
        raise ValueError("CurriculumSchedule got orderings without difficulty, which says how much is drawn from: set difficulty too.")
    return {str(name): float(weight) for name, weight in given.items()}


def batches_done(trainer: Trainer) -> int:
    """How many batches were trained on, by the Trainer's count."""
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(total.processed)


def next_number(trainer: Trainer) -> int:
    """The number of the batch that comes after those that were trained on."""
    return number_of_batch(trainer, batches_done(trainer))


def rows_of(trainer: Trainer) -> int | None:
    """Rows of a batch as the data module tells them, in which its numbers count."""
    size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    return size if isinstance(size, int) else None


def batches_per_step(trainer: Trainer, datamodule: Any) -> dict[int, int]:
    """By the optimizer step from which it holds, how many batches a step gathers.

    Raises:
        ValueError: if that is not known before the first batch.
    """
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(each, GradientAccumulationScheduler) for each in callbacks):
        raise ValueError(
            "CurriculumSchedule by steps cannot tell steps from batches under GradientAccumulationScheduler, which changes by epochs. Take "
            "musictrain.callbacks.AccumulationSchedule, or turn the dial by tokens."
        )
    for callback in callbacks:
        # One that stands behind in the list has not made its rule out of tokens yet.
        if isinstance(tokens := getattr(callback, "tokens", None), Mapping) and getattr(callback, "rule", None) is None:
            return dict(AccumulationRule.of_tokens(tokens, tokens_per_batch(datamodule)).batches)
    return dict(rule_of(trainer).batches)


def tokens_per_batch(datamodule: Any) -> int:
    """Tokens of a batch with whole rows, over all processes.

    Raises:
        ValueError: if the data module does not tell.
    """
    tokens = getattr(datamodule, "tokens_per_batch", None)
    if not isinstance(tokens, int) or tokens < 1:
        raise ValueError(
            f"CurriculumSchedule cannot count the tokens of {type(datamodule).__name__}: give it an attribute tokens_per_batch (of a batch "
            "with whole rows, over all processes), or turn the dial by steps."
        )
    return tokens


def loaders_of(trainer: Trainer) -> list[Any]:
    """The training loaders, as far as they are there."""
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else list(combined.flattened)


def fetched_ahead(loader: Any) -> int:
    """How many batches a loader asks for before they are trained on."""
    return int(getattr(loader, "num_workers", 0) or 0) * int(getattr(loader, "prefetch_factor", None) or 1)
