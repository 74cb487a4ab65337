"""SamplingCallback: rounds of sampling within a budget of time, as files to hear and to see. Its subclasses say when, and what follows.

Conventions: prompts and seeds stay the same, so that the sounds of two steps can be compared. The training's random numbers are not
touched. A fault of sampling is an alert and never ends a training. With several processes the first one plays; the others wait for it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from musictrain.checkpoints.whole_network import agreed, whole_network
from musictrain.data.tokenizers import Tokenizer
from musictrain.generation import SampledPiece, sample_pieces
from musictrain.generation.continuation import first_beats
from musictrain.generation.length import least_tokens_for_beats, tokens_for_beats
from musictrain.generation.window import trained_context
from musictrain.listening.sample_files import write_sample
from musictrain.listening.time_budget import TimeBudget
from musictrain.runs import RunFolder
from musictrain.runs.alerts import alert
from musictrain.runs.eta import Plan
from musictrain.sampling.rounds import Played, Request, Round, check_numbers, continuations_of, names_from_nothing, tokens_per_beat_of
from musictrain.sampling.weights import best_network
from musictrain.speed import phase

log = logging.getLogger(__name__)

PROBE_STEPS = 8


class SamplingCallback(Callback):
    """Generates pieces after validations, as often as their time allows, and at the end of the fit.

    What is played after a validation is the beginning of what would be played at the end: pieces are shorter and fewer, to have more of
    them, but prompts, seeds and names are the same. A moving average of the weights is played from, if there is one. With several
    processes the first one decides.

    Args:
        every: validations between two times; 0 only at the end.
        most_share: of the fit's time so far, resumed ones counted, that sampling after validations may take; where one more round, which
            is expected to take as long as the last one, would take more, it is left out. 1 is no limit. The first round may take up to ten
            seconds in any case; how long it will take is tried out on a few tokens.
        num: pieces from nothing.
        num_between: how many of them after a validation.
        continuations: pieces that go on from the beginning of a validation piece (only if the data module has a ``corpus``), of its
            ``valid_corpus`` if there are several.
        beats: length of the new music in quarter notes, after the prompt; a piece may end earlier by itself.
        beats_between: the same after a validation, at most ``beats``.
        min_beats: before so many new ones a piece does not end, even where its prompt sounds finished.
        prompt_beats: how much of a validation piece is given.
        temperature: of the sampling; see ``musictrain.generation.SamplingRule``, also for ``top_k``, ``top_p`` and ``min_p``.
        top_k: 0 is off.
        top_p: 1.0 is off.
        min_p: 0.0 is off.
        seed: of the sampling.
        weights: ``best`` samples from the best checkpoint at the end, if there is one; ``current`` from the weights as they are.

    Raises:
        ValueError: for a number out of its range.
    """

    lacking = "no samples are written"

    def __init__(
        self,
        every: int = 1,
        most_share: float = 0.05,
        num: int = 4,
        num_between: int = 1,
        continuations: int = 2,
        beats: float = 64.0,
        beats_between: float = 32.0,
        min_beats: float = 16.0,
        prompt_beats: float = 16.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        weights: str = "best",
    ) -> None:
        who = type(self).__name__
        check_numbers(
            who,
            {"every": every, "num": num, "num_between": num_between, "continuations": continuations, "min_beats": min_beats},
            {"beats": beats, "beats_between": beats_between, "prompt_beats": prompt_beats},
        )
        if not 0.0 <= most_share <= 1.0:
            raise ValueError(f"{who} got most_share={most_share}: a share of the time lies between 0 (never) and 1 (no limit).")
        if weights not in ("best", "current"):
            raise ValueError(f"{who} got weights={weights!r}; it knows 'best' and 'current'.")
        self.every, self.num, self.num_between, self.continuations = every, num, min(num, num_between), continuations
        self.beats, self.beats_between, self.min_beats, self.prompt_beats = beats, min(beats, beats_between), min_beats, prompt_beats
        self.rule: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
        self.weights = weights
        self._budget = TimeBudget(most_share)
        self._validations = 0
        self._warned = False
        self._told_faults: set[str] = set()

    def rest(self) -> None:
        """Play nothing from now on: for whoever rehearses a run and wants the training alone."""
        self.every = self.num = self.num_between = self.continuations = 0

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were and how much time went where, so that a resumed run goes on sampling as it did."""
        return {"validations": self._validations, "budget": self._budget.state_at(time.monotonic())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back; the settings stay those of the constructor."""
        self._validations = int(state_dict["validations"])
        if "budget" in state_dict:
            self._budget.load(state_dict["budget"])

    def pauses(self, validation_every: float | None) -> Plan:
        """For the time left of a run: the samples of its end, which take so many times as long as those between."""
        between = (self._num_played(at_end=False) + self.continuations) * self.beats_between
        at_end = (self._num_played(at_end=True) + self.continuations) * self.beats
        return Plan(at_end={"sampling": at_end / between if between else 1.0})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The time of the fit begins."""
        if self.every and self._plays_anything():
            self._budget.begin(time.monotonic())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample from the best weights, or those of the end."""
        self._budget.pause(time.monotonic())
        self._sample(trainer, pl_module, at_end=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The time of the fit is over."""
        self._budget.pause(time.monotonic())

    def _plays_anything(self) -> bool:
        return bool(self.num or self.continuations)

    def _num_played(self, *, at_end: bool) -> int:
        """Pieces from nothing that a round plays."""
        return self.num if at_end else self.num_between

    def _validated(self, trainer: Trainer) -> bool:
        """One more validation is done: whether it is one of those that are followed by a round, if there is time."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return False
        self._validations += 1
        return bool(self.every) and self._validations % self.every == 0

    def _has_time(self) -> bool:
        """The same on every process: a collective call."""
        wanted = self._num_played(at_end=False) or self.continuations
        fits = bool(wanted) and (self._budget.last_seconds is None or self._budget.allows(time.monotonic()))
        return bool(agreed("yes" if fits else ""))

    @phase("sampling")
    def _sample(self, trainer: Trainer, pl_module: LightningModule, at_end: bool = False) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        tokenizer = tokenizer_of(trainer)
        if tokenizer is None or not isinstance(getattr(pl_module, "network", None), nn.Module):
            self._warn_once(pl_module)
            return
        best = at_end and self.weights == "best"
        network = best_network(trainer, pl_module) if best else None
        is_best = bool(agreed("found" if network is not None else ""))
        if not is_best:
            network = whole_network(trainer, pl_module)
        if trainer.is_global_zero and network is not None:
            self._play_round(trainer, network, tokenizer, RunFolder(Path(folder)), at_end=at_end, is_best=is_best)
        trainer.strategy.barrier("samples")

    def _play_round(
        self, trainer: Trainer, network: nn.Module, tokenizer: Tokenizer, run: RunFolder, *, at_end: bool, is_best: bool
    ) -> None:
        begun = time.monotonic()
        try:
            asked = Round(
                step=trainer.global_step,
                beats=self.beats if at_end else self.beats_between,
                weights="best" if is_best else "current",
                folder=run.samples_at(trainer.global_step),
                requests=tuple(self._requests(trainer, at_end=at_end)),
            )
            if not at_end and not self._is_affordable(asked, network, tokenizer, datamodule_of(trainer)):
                return
            self._write_all(asked, network, tokenizer, trainer)
        except Exception as error:
            # Hours of training are worth more than a sample.
            self._report(error, trainer.global_step)
        if not at_end:
            self._budget.spend(time.monotonic() - begun)

    def _is_affordable(self, asked: Round, network: nn.Module, tokenizer: Tokenizer, datamodule: Any) -> bool:
        """Whether the first round of all fits: a few tokens are made, to see how long it would take."""
        if self._budget.last_seconds is not None or not asked.requests:
            return True
        few = PROBE_STEPS * tokenizer.tokens_per_step
        num, context = max(len(request.names) for request in asked.requests), _context(network, datamodule)
        begun = time.monotonic()
        sample_pieces(network, tokenizer, num=num, max_new_tokens=few, min_new_tokens=few, context=context, **self.rule)
        a_piece = (time.monotonic() - begun) / few * self._most_tokens(tokenizer, asked.beats, datamodule)
        expected = len(asked.requests) * a_piece
        if self._budget.allows(time.monotonic(), expected):
            return True
        self._budget.put_off(expected)
        return False

    def _report(self, error: Exception, step: int) -> None:
        fault = f"{type(error).__name__}: {error}"
        log.info("Sampling at step %d failed.", step, exc_info=error)
        if fault not in self._told_faults:
            alert(
                log,
                f"Sampling at step {step} failed; training is not affected. {fault}",
                kind="sampling_failed",
                advice="The traceback is in train.log. If the logits are not finite, look at the loss; if the disk is full, make room.",
                step=step,
            )
        self._told_faults.add(fault)

    def _write_all(self, asked: Round, network: nn.Module, tokenizer: Tokenizer, trainer: Trainer) -> None:
        played: list[Played] = []
        for request in asked.requests:
            pieces = self._play(request, asked, network, tokenizer, datamodule_of(trainer))
            played += [Played(name, request, piece) for name, piece in zip(request.names, pieces, strict=True)]
            for one in played[len(played) - len(pieces) :][: request.num_written]:
                self._write(asked, one, trainer)
            if request.prompt is not None and request.num_written != 0:
                try:
                    self._write_reference(asked, request, pieces[0].prompt_beats, tokenizer, trainer)
                except Exception as error:  # the other prompts can be played all the same
                    self._report(error, asked.step)
        self._judge(asked, played, network, tokenizer, trainer)

    def _judge(self, asked: Round, played: Sequence[Played], network: nn.Module, tokenizer: Tokenizer, trainer: Trainer) -> None:
        """What follows when all is played; nothing here."""

    def _requests(self, trainer: Trainer, *, at_end: bool) -> Iterator[Request]:
        if num := self._num_played(at_end=at_end):
            yield Request(names_from_nothing(num, self.num))
        yield from continuations_of(datamodule_of(trainer), self.continuations)

    def _play(self, request: Request, asked: Round, network: nn.Module, tokenizer: Tokenizer, datamodule: Any) -> list[SampledPiece]:
        rate = tokens_per_beat_of(datamodule)
        return sample_pieces(
            network,
            tokenizer,
            num=len(request.names),
            max_new_tokens=self._most_tokens(tokenizer, asked.beats, datamodule),
            min_new_tokens=least_tokens_for_beats(tokenizer, min(self.min_beats, asked.beats), rate),
            prompt=request.prompt,
            prompt_beats=None if request.prompt is None else self.prompt_beats,
            context=_context(network, datamodule),
            **self.rule,
        )

    def _most_tokens(self, tokenizer: Tokenizer, beats: float, datamodule: Any) -> int:
        return tokens_for_beats(tokenizer, beats, tokens_per_beat_of(datamodule))

    def _write(self, asked: Round, played: Played, trainer: Trainer) -> None:
        piece, stem = played.piece, asked.folder / played.name
        info = {
            "step": asked.step,
            "prompt": played.request.source,
            "ended": piece.ended,
            "log_prob_per_token": piece.log_prob_per_token,
            "weights": asked.weights,
            **self.rule,
        }
        write_sample(first_beats(piece.notes, piece.prompt_beats + asked.beats), stem, info=info, prompt_beats=piece.prompt_beats)
        hand_to_loggers(trainer, stem, asked.step, {**info, "prompt_beats": piece.prompt_beats})

    def _write_reference(self, asked: Round, request: Request, prompt_beats: float, tokenizer: Tokenizer, trainer: Trainer) -> None:
        """How the corpus goes on from the same beats, for as long as the model is asked to at the end; written once."""
        assert request.prompt is not None
        stem = asked.folder.parent / "reference" / request.names[0]
        info = {"reference": True, "prompt": request.source, "asked_beats": prompt_beats + self.beats, "step": None}
        if is_written(stem, {**info, "prompt_beats": prompt_beats}):
            return
        # Through the tokenizer and back: what the model's own pieces have gone through too.
        notes = tokenizer.decode(tokenizer.encode(first_beats(request.prompt, prompt_beats + self.beats)))
        ended = request.prompt.end <= prompt_beats + self.beats
        title = f"{stem.name}: how the corpus goes on"
        write_sample(notes, stem, info={**info, "ended": ended}, prompt_beats=prompt_beats, title=title)
        hand_to_loggers(trainer, stem, asked.step, {**info, "prompt_beats": prompt_beats})

    def _warn_once(self, pl_module: LightningModule) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "%s needs a LightningModule with a `network` and a data module with a `tokenizer`; "
                "%s in this Trainer does not offer both, so %s.",
                *(type(self).__name__, type(pl_module).__name__, self.lacking),
            )


def datamodule_of(trainer: Trainer) -> Any:
    """Who knows tokenizer and corpus: the fit's data module; without one, the module itself."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    return trainer.lightning_module if datamodule is None else datamodule


def tokenizer_of(trainer: Trainer) -> Tokenizer | None:
    """The tokenizer of the fit; None without one."""
    tokenizer = getattr(datamodule_of(trainer), "tokenizer", None)
    return tokenizer if isinstance(tokenizer, Tokenizer) else None


def is_written(stem: Path, info: dict[str, Any]) -> bool:
    """Whether a sample stands there that says all of ``info`` of itself."""
    try:
        told = json.loads(stem.with_name(f"{stem.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(told.get(key) == value for key, value in info.items())


def hand_to_loggers(trainer: Trainer, stem: Path, step: int, info: dict[str, Any]) -> None:
    """Tell every logger that takes samples of the files ``stem``.mid, .wav and .png."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_sample"):
            logger.log_sample(stem, step, info)


def _context(network: nn.Module, datamodule: Any) -> int | None:
    return trained_context(network, getattr(datamodule, "window", None))
