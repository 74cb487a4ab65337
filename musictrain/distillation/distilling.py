"""What a distillation adds to a MusicModule: a teacher, its part of the loss, and what a checkpoint remembers of both."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from musictrain.checkpoints.weights import name_of, without_helpers
from musictrain.contract import network_vocab_size
from musictrain.data.accumulation import steps_of_run
from musictrain.distillation.hidden import HiddenMatching, hidden_of, layers_of, width_of
from musictrain.distillation.keeping import check_keepable, keep_opinions
from musictrain.distillation.kept_opinions import KeptOpinions
from musictrain.distillation.loading import TeacherError, check_teacher, load_teacher
from musictrain.distillation.settings import Distillation
from musictrain.distillation.soft_sums import DistilledLoss, SoftSums
from musictrain.distillation.teacher import Teacher
from musictrain.distillation_loss import DistillationLoss, Opinion, TopTokens, distillation_loss
from musictrain.losses import NextTokenLoss, next_token_loss
from musictrain.optim.schedules import no_limit
from musictrain.runs import RunFolder
from musictrain.runs.lineage import add_parent

log = logging.getLogger(__name__)

KEY = "musictrain_distillation"
"""Of its state in a checkpoint."""
KEPT = ("teacher_tokens", "teacher_log_probabilities", "teacher_rest")
"""What of the teacher's opinion travels with a batch, where it is kept on disk."""


class _Either:
    """What is the same with a teacher and without."""

    introduction = ""
    """Who teaches, for people."""

    def join(self, optimizer: Optimizer, matching: HiddenMatching | None) -> None:
        """Let the optimizer train the projections between hidden states too."""
        if matching is not None:
            matching.join(optimizer)

    def leave_out(self, checkpoint: dict[str, Any], matching: HiddenMatching | None) -> None:
        """Take projections out of a checkpoint that is read by a module without."""
        if matching is None and "state_dict" in checkpoint:
            checkpoint["state_dict"] = without_helpers(checkpoint["state_dict"])


class Distilling(_Either):
    """The teacher at work. Copies of the module that holds it share it.

    Args:
        settings: what is asked for.
        options: of the hard part of the loss: ``label_smoothing`` and ``z_loss``.

    Raises:
        ValueError: if hidden states are to be matched of a network that is to be compiled.
    """

    def __init__(self, settings: Distillation, *, compiled: bool = False, **options: float) -> None:
        if settings.hidden and compiled:
            raise ValueError(
                "Hidden states are watched layer by layer, and a compiled network has no layers: leave out `compile` or `hidden`."
            )
        self.settings, self.options = settings, options
        self.teacher: Teacher | None = None
        self.opinions: KeptOpinions | None = None
        self.sums = SoftSums()
        self._schedule = settings.weight_schedule
        self._find: Callable[[str], Teacher] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Distilling:
        return self

    @property
    def what_is_remembered(self) -> dict[str, Distilling]:
        """What a checkpoint keeps, under its key."""
        return {KEY: self}

    @property
    def introduction(self) -> str:  # type: ignore[override]
        """Who teaches, for people."""
        if self.teacher is None:
            return ""
        size = sum(each.numel() for each in self.teacher.network.parameters())
        return f"{self.teacher.name} ({type(self.teacher.network).__name__}, {size:,} parameters, {self.teacher.precision})"

    def new_matching(self) -> HiddenMatching | None:
        """The part of the student's module that is trained with it, None if no layers are matched."""
        return HiddenMatching(self.settings.hidden) if self.settings.hidden else None

    # Before the first step.

    def setup(self, trainer: Trainer, network: nn.Module, matching: HiddenMatching | None, seed: int) -> None:
        """Load the teacher for a fit, and refuse what cannot work before anything is computed.

        Raises:
            ValueError: see ``Distillation``.
        """
        self.sums = SoftSums()
        datamodule = getattr(trainer, "datamodule", None)
        schedule = self.settings.weight_schedule
        if schedule.needs_total_steps and trainer.max_steps == trainer.max_epochs == -1:
            raise ValueError(no_limit(schedule))
        if self.settings.top_k is not None:
            check_keepable(datamodule)
        self._find = lambda text: load_teacher(self.settings, trainer, text)
        if self.teacher is None:
            self.teacher = self._find(self.settings.teacher)
        if self.opinions is None:
            check_teacher(self.teacher, network_vocab_size(network), datamodule)
        if matching is not None and not len(matching.projections):
            widths = self._widths(matching, network)
            for each in (matching, *copies_of(trainer)):
                each.make(widths, seed)

    def _widths(self, matching: HiddenMatching, network: nn.Module) -> list[tuple[int, int]]:
        """Channels of the student's and the teacher's layers."""
        assert self.teacher is not None
        for student_layer, teacher_layer in matching.pairs.items():
            layers_of(network, [student_layer])
            layers_of(self.teacher.network, [teacher_layer])
        with self.teacher.at_work() as taught:
            theirs = [width_of(taught, name, token=0) for name in matching.pairs.values()]
        return [(width_of(network, name, token=0), width) for name, width in zip(matching.pairs, theirs, strict=True)]

    def start(self, trainer: Trainer, device: torch.device) -> None:
        """Training begins: be on the device, have the opinions that are kept, and write down whom this run learns from."""
        assert self.teacher is not None
        self.sums.to(device)
        if self.opinions is None:
            self.teacher.to(device)
            log.info("The teacher is %s.", self.introduction)
            if self.settings.top_k is not None:
                self.opinions = keep_opinions(self.teacher, trainer, self.settings)
                self.teacher.to(torch.device("cpu"))  # it has said all it had to say
        if self.opinions is not None:
            self._attach_to_batches_of(trainer)
        self._note_descent(trainer)

    def _attach_to_batches_of(self, trainer: Trainer) -> None:
        """Let the data module hand out batches with the opinions on them, before they go to the device: nothing then waits for it."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        own = datamodule.on_before_batch_transfer
        if getattr(own, "attaches", None) is self:
            return

        def attached(batch: Any, dataloader_idx: int) -> Any:
            learns = datamodule.trainer.training and getattr(datamodule.trainer.lightning_module, "distilling", None) is self
            return self.attach(own(batch, dataloader_idx)) if learns else own(batch, dataloader_idx)

        attached.attaches = self  # type: ignore[attr-defined]
        # Not the module's own hook: Lightning remarks on that in every fit, and passes over it where the data module has one.
        datamodule.on_before_batch_transfer = attached

    def _note_descent(self, trainer: Trainer) -> None:
        folder = trainer.log_dir or ""  # a collective call: every process makes it
        own, stored = RunFolder(Path(folder)), self.teacher and self.teacher.stored
        if not trainer.is_global_zero or not folder or not own.is_run() or not stored or stored.run is None:
            return
        try:
            add_parent(own, "distilled from", stored.run, version=name_of(stored.path), step=stored.step)
        except (OSError, ValueError) as error:
            log.warning("Whom this run learns from could not be written down: %s", error)

    def lay_schedule(self, trainer: Trainer) -> None:
        """Fill in the length of the run where the weight's schedule asks for it."""
        schedule = self.settings.weight_schedule
        if schedule.needs_total_steps:
            total_steps = steps_of_run(trainer)
            if total_steps is None:
                raise ValueError(no_limit(schedule))
            schedule = schedule.over(total_steps)
        self._schedule = schedule

    def weight_at(self, step: int) -> float:
        """The soft part's share of the loss for the optimizer step that follows ``step`` steps."""
        return min(1.0, max(0.0, self.settings.weight * self._schedule(step)))

    # One step.

    def attach(self, batch: Any) -> Any:
        """The batch with the opinions that are kept on it; before it goes to the device."""
        if self.opinions is None:
            return batch
        told = self.opinions.of(batch["piece"], batch["start"], batch["transpose"], batch["tokens"].shape[1] - 1)
        return {**batch, **dict(zip(KEPT, told, strict=True))}

    def rows_of(self, batch: Any, tokens: Tensor) -> tuple[Tensor, ...]:
        """What the teacher's part of the loss needs beside what the student reads: the music as it is, or what is kept of it."""
        return tuple(batch[name] for name in KEPT) if self.opinions is not None else (tokens[:, :-1],)

    def loss(self, module: Any, pad_id: int | None, read: Tensor, targets: Tensor, *asked: Tensor) -> DistilledLoss:
        """What is minimised.

        Args:
            module: of the student, with ``network`` and ``hidden_matching``; called, and asked how many steps it has made.
            pad_id: the token that does not count.
            read: what the student reads, (rows, time).
            targets: what it is to predict, (rows, time).
            asked: what ``rows_of`` gave, the same rows.
        """
        assert self.teacher is not None
        weight, matching = self.weight_at(module.global_step), module.hidden_matching
        with _watched(module.network, matching and list(matching.pairs)) as student:
            logits = module(read)
        told, teacher = self._answer(asked, matching) if weight > 0 or matching is not None else (None, {})
        if weight > 0 and told is not None:
            options = {"temperature": self.settings.temperature, "weight": weight, **self.options}
            result = distillation_loss(logits, targets, told, pad_id=pad_id, **options)  # type: ignore[arg-type]
            soft_tokens = result.num_tokens
        else:
            plain = next_token_loss(logits, targets, pad_id=pad_id, **self.options)
            result = DistillationLoss(*plain, soft_sum=torch.zeros_like(plain.nll_sum))
            soft_tokens = torch.zeros_like(plain.num_tokens)
        loss, hidden_sum = result.loss, torch.full_like(result.nll_sum, torch.nan)
        if matching is not None:
            counted = torch.ones_like(targets, dtype=torch.bool) if pad_id is None else targets != pad_id
            distance = matching(student, teacher, counted)
            loss, hidden_sum = loss + self.settings.hidden_weight * distance, distance.detach() * result.num_tokens
        return DistilledLoss(loss, result.nll_sum, result.num_tokens, result.soft_sum, soft_tokens, hidden_sum)

    def _answer(self, asked: tuple[Tensor, ...], matching: HiddenMatching | None) -> tuple[Callable[[slice], Opinion], dict[str, Tensor]]:
        """How to ask the teacher about some rows, and its hidden states where they are matched: then it reads all rows at once."""
        assert self.teacher is not None
        if len(asked) == len(KEPT):
            return lambda rows: TopTokens(*(each[rows] for each in asked)), {}
        taught, (tokens,) = self.teacher, asked
        if matching is None:
            return lambda rows: taught.logits(tokens[rows]), {}
        with taught.at_work() as network, hidden_of(network, list(matching.pairs.values())) as states:
            logits: Tensor = network(tokens)
        return lambda rows: logits[rows], states

    # What is logged, and what a checkpoint remembers.

    def add(self, result: DistilledLoss) -> None:
        """Add a batch to what is logged."""
        self.sums.add(result)

    def values(self, reduce: Callable[[Tensor], Tensor], step: int) -> dict[str, float]:
        """What there is to log after ``step`` optimizer steps, of the time since the last call."""
        return {**self.sums.flush(reduce), "soft_weight": self.weight_at(step)}

    def state_dict(self) -> dict[str, Any]:
        """Sums and teacher, as plain values."""
        teacher = {} if self.teacher is None else {"asked": self.settings.teacher, **self.teacher.described()}
        return {**self.sums.state_dict(), "teacher": teacher}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, with the teacher it was trained with.

        Raises:
            TeacherError: if that teacher is meant, and its version is gone or has other weights now.
        """
        self.sums.load_state_dict(state)
        then = state.get("teacher") or {}
        if self.teacher is None or self._find is None or not then or then["weights"] == self.teacher.fingerprint:
            return
        was = f"{then['run'] or then['path']}, {then['version']}"
        if then["asked"] != self.settings.teacher:
            log.warning("Resumed with the teacher %s (was %s): from here on the run is not the uninterrupted one.", self.teacher.name, was)
            return
        self.teacher, self.opinions = self._as_it_was(then, was), None

    def _as_it_was(self, then: Mapping[str, Any], was: str) -> Teacher:
        """The teacher that a checkpoint was trained with, though its run has a better version by now."""
        assert self._find is not None
        here = Path(str(then["path"])).exists()
        try:
            found = self._find(str(then["path"]) if here or not then["run"] else f"{then['run']}@{then['version']}")
        except ValueError as error:
            raise TeacherError(
                f"This run learned from {was}, which cannot be had any more: {error} To go on with another teacher, name it: "
                "--model.distillation.teacher RUN@VERSION"
            ) from error
        if found.fingerprint != then["weights"]:
            raise TeacherError(
                f"This run learned from {was}, whose weights have changed since ({then['weights']} then, {found.fingerprint} now). To go "
                "on with them all the same, name them in other words: --model.distillation.teacher RUN@VERSION"
            )
        return found


class NotDistilling(_Either):
    """The same for a module that learns from the tokens alone: nothing is added.

    Args:
        options: of the loss, see ``next_token_loss``.
    """

    what_is_remembered: dict[str, Any] = {}  # noqa: RUF012  (never changed)

    def __init__(self, **options: float) -> None:
        self.options = options

    def new_matching(self) -> None:
        """No layers are matched."""

    def setup(self, *args: Any) -> None:
        """Nobody is to be loaded."""

    def start(self, *args: Any) -> None:
        """Nobody is to be asked."""

    def lay_schedule(self, trainer: Trainer) -> None:
        """There is none."""

    def rows_of(self, batch: Any, tokens: Tensor) -> tuple[Tensor, ...]:
        """Nothing more is needed."""
        return ()

    def loss(self, module: Any, pad_id: int | None, read: Tensor, targets: Tensor) -> NextTokenLoss:
        """The next-token loss."""
        return next_token_loss(module(read), targets, pad_id=pad_id, **self.options)

    def add(self, result: NextTokenLoss) -> None:
        """Nothing more is summed."""

    def values(self, reduce: Callable[[Tensor], Tensor], step: int) -> dict[str, float]:
        """Nothing more is logged."""
        return {}


def distilling(settings: Distillation | None, *, compiled: bool = False, **options: float) -> Distilling | NotDistilling:
    """What a module's loss is made by.

    Args:
        settings: of a distillation, None for the tokens alone.
        compiled: whether the student's network is.
        options: of the hard part of the loss.
    """
    return NotDistilling(**options) if settings is None else Distilling(settings, compiled=compiled, **options)


def copies_of(trainer: Trainer) -> list[HiddenMatching]:
    """Those in copies of the module that callbacks have made for averages of its weights, before any width was known."""
    copies = [getattr(getattr(each, "_average_model", None), "module", None) for each in trainer.callbacks]  # type: ignore[attr-defined]
    found = [getattr(each, "hidden_matching", None) for each in copies]
    return [each for each in found if isinstance(each, HiddenMatching)]


def _watched(network: nn.Module, names: list[str] | None) -> Any:
    return hidden_of(network, names) if names else contextlib.nullcontext({})
