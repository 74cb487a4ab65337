"""SampleAndScore: what the model plays at this point, as files to hear, and as numbers beside the corpus.

Writes the samples that ``WriteSamples`` writes, at the same times, and logs as ``val/...`` what ``musictrain.metrics`` says of them: all
measures of a piece, how much is copied from the training set, repetition, the distance to the corpus in all features at once, the rules of
four-part writing where the corpus is four-part, and how well the grammar is known. Of several corpora the corpus is the ``valid_corpus``;
what is copied may stand in any. ``samples/step_000500/scores.json`` has them with bootstrap intervals and the copied passages;
``corpus_bands.json`` is where the validation pieces lie, which the live page draws. A passage in common with a training piece that is
longer than any validation piece has one is an alert that names piece and bars.

When: for any LightningModule with a ``network`` (tokens -> logits) and a data module with a ``tokenizer`` and a ``corpus`` (in a Trainer
without a data module the module may have them itself); in another Trainer it says once what is missing. It logs in
``on_validation_epoch_end``, so that whatever stops, keeps or prunes by a score sees it. Cost: at most ``most_share`` of the fit's time
after validations (a validation that there is no time for has no scores: ``val/scored_step`` among the callback metrics says of which step
the last ones are), one round at the end, and once for each corpus and tokenizer some seconds a thousand pieces, kept in the cache. The
training's random numbers are not touched.

They are guards beside the likelihood, no judges: metrics and human judgement correlate poorly (survey arXiv 2509.00051). Source of the
idea that they must be watched: Yin et al. (2022), where the usual early stopping gave loops, and later epochs copies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from musictrain.checkpoints.whole_network import agreed
from musictrain.data.first_process import build_first
from musictrain.data.tokenizers import Tokenizer
from musictrain.generation.continuation import first_beats
from musictrain.generation.window import trained_context
from musictrain.metrics.intervals import Interval, bootstrap_interval
from musictrain.metrics.validity import how_judged
from musictrain.runs import RunFolder, atomic_write
from musictrain.runs.alerts import alert
from musictrain.sampling.corpus_reference import CorpusReference, reference_of
from musictrain.sampling.legality import legal_probabilities
from musictrain.sampling.rounds import Played, Request, Round, check_numbers, validation_pieces
from musictrain.sampling.sampling_callback import SamplingCallback, datamodule_of, tokenizer_of
from musictrain.sampling.scores import COPYING, Copied, Sample, Scores, record_of, score_names, score_samples
from musictrain.sampling.weights import averaged_weights

log = logging.getLogger(__name__)

BANDS = "corpus_bands.json"
SCORES, SCORES_AT_END = "scores.json", "scores_at_end.json"
SCORED_STEP = "val/scored_step"
PIECES_FOR_VALIDITY = 4
LONGER_TO_TELL_AGAIN = 1.0


class SampleAndScore(SamplingCallback):
    """Samples after validations and at the end of the fit, scores what was played, logs the scores, and tells of copying.

    ``num_scored`` pieces from nothing and the continuations are judged, ``beats_between`` beats of each; ``num_between`` and the
    continuations are written as files, and a piece that copies is written too. The scores of the fit's end, which may be played from other
    weights, are written and not logged; where its last validation was scored, in a file of their own.

    ``score_names`` are the names under which it logs, known from the start of the fit; ``score_notes`` has, by name, what is known of the
    last scores beyond their numbers: which passage is copied. Both are the first process' alone.

    Args:
        num_scored: pieces from nothing that are judged, played side by side. Means settle from some 15 on, the distance to the corpus
            from 30.
        copy_bars: length of the windows that ``val/copy_rate`` is the share of.
        copy_margin_bars: by how many bars a copied passage must be longer than any that a validation piece has, to be an alert.
        level: of the bootstrap intervals in ``scores.json``.
        sampling: all settings of ``WriteSamples``.

    Raises:
        ValueError: for a number out of its range.
    """

    lacking = "nothing is played or scored"

    def __init__(
        self, num_scored: int = 16, copy_bars: int = 2, copy_margin_bars: float = 1.0, level: float = 0.9, **sampling: Any
    ) -> None:
        super().__init__(**sampling)
        check_numbers(type(self).__name__, {"num_scored": num_scored, "copy_margin_bars": copy_margin_bars}, {"copy_bars": copy_bars})
        if not 0.0 < level < 1.0:
            raise ValueError(f"SampleAndScore got level={level}: expected a share between 0 and 1, such as 0.9.")
        self.num_scored, self.copy_bars, self.copy_margin_bars, self.level = num_scored, copy_bars, copy_margin_bars, level
        self._reference: CorpusReference | None = None
        self._fresh: dict[str, float] = {}
        self._has_scored = self._said_left_out = False
        self._told_copies: dict[str, float] = {}
        self._named: list[str] = []
        self.score_names: tuple[str, ...] = ()
        self.score_notes: dict[str, str] = {}

    def rest(self) -> None:
        """Play nothing from now on."""
        super().rest()
        self.num_scored = 0

    def state_dict(self) -> dict[str, Any]:
        """As of ``WriteSamples``, and which copied pieces were told of."""
        return {**super().state_dict(), "told_copies": dict(self._told_copies), "named": list(self._named), "has_scored": self._has_scored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back; the settings stay those of the constructor."""
        super().load_state_dict(state_dict)
        self._told_copies = dict(state_dict.get("told_copies", {}))
        self._named = list(state_dict.get("named", ()))
        self._has_scored = bool(state_dict.get("has_scored", False))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first process measures the corpus, or opens what was measured before, and writes where it lies; the others wait."""
        super().on_fit_start(trainer, pl_module)
        self._fresh, self._reference, self.score_names, self.score_notes = {}, None, (), {}
        folder = trainer.log_dir or trainer.default_root_dir  # a collective call: every process makes it
        tokenizer = tokenizer_of(trainer)
        if trainer.fast_dev_run or tokenizer is None or not self._plays_anything():  # type: ignore[attr-defined]
            return
        build_first(
            lambda: self._prepare(trainer, tokenizer, RunFolder(Path(folder))),
            is_builder=trainer.is_global_zero,
            what="measure the corpus that samples are held against",
            says=trainer.global_rank == 1,
        )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample and score if it is time to, and there is time to; the last validation of a fit is scored too."""
        if not self._validated(trainer):
            return
        if not self._has_time():
            self._say_left_out(trainer)
            return
        with averaged_weights(trainer, pl_module, asks=self):
            self._sample(trainer, pl_module)
        self._log_scores(trainer, pl_module)

    def _plays_anything(self) -> bool:
        return bool(self.num_scored) or super()._plays_anything()

    def _num_played(self, *, at_end: bool) -> int:
        return max(self.num_scored, super()._num_played(at_end=at_end))

    def _prepare(self, trainer: Trainer, tokenizer: Tokenizer, run: RunFolder) -> None:
        datamodule = datamodule_of(trainer)
        if getattr(datamodule, "corpus", None) is None:
            log.warning(
                "SampleAndScore holds samples against the `corpus` of the data module; %s has none, so samples are written without scores.",
                type(datamodule).__name__,
            )
            return
        try:
            self._reference = reference_of(datamodule, tokenizer, beats=self.beats_between, copy_bars=self.copy_bars)
        except Exception as error:
            # Hours of training are worth more than a score.
            log.info("Measuring the corpus failed.", exc_info=error)
            alert(
                log,
                f"Samples cannot be held against the corpus and are written without scores. {error}",
                kind="scoring_unavailable",
                advice="Give the corpus training and validation pieces that its tokenizer can hold; a traceback is in train.log.",
            )
            return
        if self.every and self._num_judged():
            validity = ("token_validity",) if how_judged(tokenizer) == "grammar" else ()
            self.score_names = tuple(f"val/{name}" for name in (*score_names(self._reference), *validity))
        self._write_bands(self._reference, run)

    def _write_bands(self, reference: CorpusReference, run: RunFolder) -> None:
        bands = {f"val/{name}": pair for name, pair in reference.shown_bands(self._num_judged()).items()}
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            atomic_write(run.path / BANDS, json.dumps(bands, indent=1))
        except OSError as error:
            log.warning("Where the corpus lies in each score could not be written down for the page: %s", error)

    def _num_judged(self) -> int:
        return self._num_played(at_end=False) + self.continuations

    def _requests(self, trainer: Trainer, *, at_end: bool) -> Iterator[Request]:
        # What the end of the fit writes would take the place of the last validation's files.
        is_last = not at_end and 0 <= trainer.max_steps <= trainer.global_step
        for request in super()._requests(trainer, at_end=at_end):
            written = 0 if is_last else None if request.prompt is not None else self.num if at_end else self.num_between
            yield replace(request, num_written=written)

    def _judge(self, asked: Round, played: Sequence[Played], network: nn.Module, tokenizer: Tokenizer, trainer: Trainer) -> None:
        if self._reference is None or not played:
            return
        samples = [
            Sample(one.name, first_beats(one.piece.notes, one.piece.prompt_beats + self.beats_between), one.piece.prompt_beats)
            for one in played
        ]
        scores = score_samples(samples, self._reference, level=self.level)
        if how_judged(tokenizer) == "grammar":
            scores.values["token_validity"] = self._validity(network, tokenizer, trainer)
        self._fresh = {name: interval.mean for name, interval in scores.values.items()}
        note = {f"val/{name}": f"{scores.copied[0].sample}: {scores.copied[0].match}" for name in COPYING} if scores.copied else {}
        self.score_notes = note
        for copied in self._beyond(scores)[:1]:
            self._tell(copied, asked, played, trainer)
        self._write_scores(asked, scores, played)

    def _validity(self, network: nn.Module, tokenizer: Tokenizer, trainer: Trainer) -> Interval:
        datamodule = datamodule_of(trainer)
        pieces = [piece.notes for piece in validation_pieces(datamodule, PIECES_FOR_VALIDITY)]
        context = trained_context(network, getattr(datamodule, "window", None))
        return bootstrap_interval(legal_probabilities(network, tokenizer, pieces, context), level=self.level)

    def _write_scores(self, asked: Round, scores: Scores, played: Sequence[Played]) -> None:
        assert self._reference is not None
        told = {
            "step": asked.step,
            "weights": asked.weights,
            "samples": [one.name for one in played],
            **record_of(scores, self._reference, level=self.level, num=self._num_judged()),
        }
        asked.folder.mkdir(parents=True, exist_ok=True)
        # What a rule has stopped the run for must still be there to be read.
        is_other = asked.weights == "best" and (asked.folder / SCORES).exists()
        atomic_write(asked.folder / (SCORES_AT_END if is_other else SCORES), json.dumps(told, indent=1), durable=False)

    def _write(self, asked: Round, played: Played, trainer: Trainer) -> None:
        """A sample that an alert has named stays what it was, whatever the end of the fit plays under its name."""
        if f"{asked.folder.name}/{played.name}" not in self._named:
            super()._write(asked, played, trainer)

    def _beyond(self, scores: Scores) -> list[Copied]:
        """The copies that are longer than what is usual."""
        assert self._reference is not None
        return [one for one in scores.copied if one.match.bars > self._reference.longest_bars + self.copy_margin_bars]

    def _tell(self, copied: Copied, asked: Round, played: Sequence[Played], trainer: Trainer) -> None:
        """Tell of a copy, once for each source unless it grows; the sample is written where it would not have been."""
        assert self._reference is not None
        match = copied.match
        if match.bars < self._told_copies.get(match.source, 0.0) + LONGER_TO_TELL_AGAIN:
            return
        self._told_copies[match.source] = match.bars
        file = asked.folder / f"{copied.sample}.mid"
        if not file.exists():
            self._write(asked, next(one for one in played if one.name == copied.sample), trainer)
        self._named.append(f"{asked.folder.name}/{copied.sample}")
        alert(
            log,
            f"The sample {copied.sample} of step {asked.step} copies {match.bars:.1f} bars from the training set: {match}. "
            f"Pieces of the validation set have at most {self._reference.longest_bars:.1f} bars in common with it.",
            kind="copied_passage",
            advice=f"Listen to {'/'.join(file.parts[-3:])}. The model is learning pieces by heart: stop earlier, transpose more, raise "
            "dropout or weight decay, or take a smaller network.",
            step=asked.step,
            sample=copied.sample,
            source=match.source,
            source_bars=list(match.source_bars),
            own_bars=list(match.own_bars),
            bars=round(match.bars, 3),
            usual_bars=round(self._reference.longest_bars, 3),
        )

    def _log_scores(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first process' scores, on all: those of this validation, or none."""
        scores: dict[str, float] = json.loads(agreed(json.dumps(self._fresh)))
        self._fresh = {}
        if not scores:
            if not self._budget.spent_seconds:  # tried out, and put off
                self._say_left_out(trainer)
            return
        self._has_scored = True
        together: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": trainer.world_size > 1}
        pl_module.log_dict({f"val/{name}": value for name, value in scores.items()}, **together)
        # For whoever decides: a score that is older than this validation is not to be counted twice.
        pl_module.log(SCORED_STEP, float(trainer.global_step), logger=False, **together)

    def _say_left_out(self, trainer: Trainer) -> None:
        if self._has_scored or self._said_left_out or self._reference is None or not trainer.is_global_zero:
            return
        self._said_left_out = True
        log.warning(
            "No scores at step %d: a round of sampling would take about %.0f s, and only %g of the time is for it (most_share). Scores "
            "come when there is time; for those of every validation raise most_share, or lower num_scored or beats_between.",
            *(trainer.global_step, self._budget.last_seconds or 0.0, self._budget.most_share),
        )
