"""MusicDataModule: a corpus, a tokenizer and numbered batches for a Lightning Trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule

from musictrain.curriculum.course import Course
from musictrain.curriculum.dial import WHOLE, Dial
from musictrain.data.accumulation import rule_of
from musictrain.data.batches import BatchPlan, rows_of_rank
from musictrain.data.corpora import Corpus, cache_root, load_corpus
from musictrain.data.evaluation_batches import EvaluationPlan
from musictrain.data.first_process import build_first, is_spread
from musictrain.data.loading import BatchLoader, batch_loader
from musictrain.data.mixed_corpora import check_one_of, pieces_of_corpora
from musictrain.data.orderings import NOTHING_ASKED, AskedOrderings, Ordering, Stretches
from musictrain.data.passed_over import PassedOver
from musictrain.data.settings import ResumeError as ResumeError
from musictrain.data.settings import check_same, check_settings
from musictrain.data.token_store import TokenStore
from musictrain.data.token_store_building import open_or_build
from musictrain.data.tokenizers import Tokenizer, VoiceGrid

log = logging.getLogger(__name__)

OFF = {"velocity_jitter": 0, "tempo_jitter": 0, "mask_notes": 0.0, "mask_bars": 0.0}
"""What a checkpoint that knows nothing of these was trained with."""


class MusicDataModule(LightningDataModule):
    """A named corpus or a folder of scores as batches of token windows.

    Batch k is a pure function of (seed, k): neither the number of workers nor the number of ranks changes which music it holds. Every row
    is a function of (seed, number of the row) alone: with accumulation A, the batches of a step hold the very rows, in the same order and
    key, of one batch of A times ``batch_size``. So that no step is cut short, an epoch is a whole number of steps: as many as cover the
    corpus once. Training goes through the batches in order and never repeats one; the checkpoint keeps how many were trained on, and a
    resumed run goes on with the next, in mid-epoch too, with another ``batch_size`` too. See ``NumberedBatches`` for what a batch holds.
    Batches that have spoiled a training can be left out of all that follows: see ``pass_over``. A curriculum changes what a batch holds by
    a dial that is a function of the batch's number too: see ``follow``.

    Args:
        corpus: ``chorales``, ``ryans``, ``oneills``, ``airds``, a folder of scores, or a JSON file of four-part frames; several are joined
            by a plus, as ``ryans+chorales``, each with its own splits. Tunes that one of them is measured on are trained on in none.
        tokenizer: notes to token ids; None means ``VoiceGrid()``, four voices on a 16th grid.
        window: targets of a training row, a multiple of the tokenizer's ``tokens_per_step``.
        valid_window: targets of a row at most where likelihood is measured; None means ``window``.
        batch_size: rows of a training batch, over all ranks together.
        valid_batch_size: rows of a batch where likelihood is measured; None means ``batch_size``.
        packing: training rows without padding that may hold several pieces; or rows of one piece each, padded.
        transpose: lowest and highest shift in semitones; each training row is moved by one that keeps its pitches in range.
        transpose_within: that range: the tokenizer's ``vocabulary``, or what occurs in the ``corpus`` (its training pieces).
        splits: shares of training, validation and test pieces, where the corpus does not bring its own.
        align: without packing, rows start at multiples of this many tokens of their piece, for networks that count from there; None
            means the tokenizer's ``tokens_per_step``.
        seed: of the order and the transposition of the batches. The splits do not depend on it.
        num_workers: processes that prepare training batches ahead; 0 is enough unless a step takes less than a few milliseconds.
        cache_dir: where corpora and tokens are kept; None means ``$MUSICTRAIN_CACHE``, else ``~/.cache/musictrain``.
        wait_minutes: with several processes, how long the others wait for the first of each machine to make the tokens.
        velocity_jitter: each training row is played louder or softer by up to so many of the tokenizer's velocities: the same phrase is
            met at many loudnesses. 0 is off, as are the next ones.
        tempo_jitter: faster or slower by up to so many of the tokenizer's tempos.
        mask_notes: probability that a note is hidden from the network while training; see ``Masker``.
        mask_bars: probability that a bar is hidden, against networks that copy the bar before.
        valid_corpus: of several corpora the one that validation and test pieces are of; None measures on all.

    Raises:
        ValueError: at construction, if an argument cannot work; in ``setup``, if corpus, tokenizer and window do not fit together.
    """

    def __init__(
        self,
        corpus: str = "chorales",
        tokenizer: Tokenizer | None = None,
        window: int = 1024,
        valid_window: int | None = None,
        batch_size: int = 16,
        valid_batch_size: int | None = None,
        packing: bool = True,
        transpose: tuple[int, int] = (-5, 6),
        transpose_within: Literal["vocabulary", "corpus"] = "vocabulary",
        align: int | None = None,
        splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        num_workers: int = 0,
        cache_dir: str | None = None,
        wait_minutes: float = 60.0,
        velocity_jitter: int = 0,
        tempo_jitter: int = 0,
        mask_notes: float = 0.0,
        mask_bars: float = 0.0,
        valid_corpus: str | None = None,
    ) -> None:
        super().__init__()
        self.corpus_name = str(Path(corpus).expanduser()) if str(corpus).startswith("~") else str(corpus)
        self.tokenizer: Tokenizer = VoiceGrid() if tokenizer is None else tokenizer
        self.window = window
        self.valid_window = window if valid_window is None else valid_window
        self.batch_size = batch_size
        self.valid_batch_size = valid_batch_size
        self.packing = packing
        self.transpose = transpose
        self.transpose_within = transpose_within
        self.align = align
        self.splits = splits
        self.seed = seed
        self.num_workers = num_workers
        self.cache_dir = cache_dir
        self.wait_minutes = wait_minutes
        self.velocity_jitter = velocity_jitter
        self.tempo_jitter = tempo_jitter
        self.mask_notes = mask_notes
        self.mask_bars = mask_bars
        self.valid_corpus = valid_corpus
        check_settings(self)
        self._corpus: Corpus | None = None
        self._store: TokenStore | None = None
        self._offset = 0
        self._resume_at = 0
        self._batch_size_before: int | None = None
        self._passed_over = PassedOver()
        self.course: Course | None = None
        self._orderings = AskedOrderings()

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.tokenizer.vocab_size

    @property
    def tokens_per_batch(self) -> int:
        """Targets of a training batch over all ranks, padding included."""
        return self.window * self.batch_size

    @property
    def corpus(self) -> Corpus:
        """The corpus with its notes; read when first asked for."""
        if self._corpus is None:
            self._corpus = load_corpus(self.corpus_name, cache_dir=self.cache_dir, splits=self.splits)
        return self._corpus

    @property
    def store(self) -> TokenStore:
        """The corpus as token ids; made when first asked for."""
        if self._store is None:
            folder = cache_root(self.cache_dir) / "tokens"
            # Once on each machine, before it is trained on: what looks whole may hold other tokens than were written.
            trains = self.trainer is not None and self.trainer.local_rank == 0
            check_one_of(self.valid_corpus, self.corpus)
            self._store = open_or_build(self.corpus, self.tokenizer, folder, verify=trains)
            self._log_store(self._store)
        return self._store

    def _log_store(self, store: TokenStore) -> None:
        if self.trainer is not None and not self.trainer.is_global_zero:
            return
        log.info("%s as %s: %s, kept in %s", self.corpus.name, self.tokenizer.name, store.summary(), store.folder)
        for source, reason in store.rejected[:3]:
            log.warning("%s refuses %s: %s", self.tokenizer.name, source, reason)

    # What Lightning calls.

    def prepare_data(self) -> None:
        """Read the corpus and make its tokens; with several processes ``setup`` does, where the others hear of an error."""
        if not is_spread():
            _ = self.store

    def setup(self, stage: str) -> None:
        """Make the tokens on one process of each machine, open them, and refuse what cannot be trained on before anything is computed.

        Raises:
            ValueError: also in every other process, if one could not make them, with its reason; or if that took too long.
        """
        self._make_first("read the corpus and make its tokens", lambda: self.store)
        if stage == "fit":
            self._offset, self._resume_at, self._batch_size_before = 0, 0, None
            _, world_size = self._rank_and_world()
            rows_of_rank(self.batch_size, 0, world_size)
            self.train_plan()

    def _make_first(self, what: str, make: Callable[[], Any]) -> None:
        local_rank = 0 if self.trainer is None else self.trainer.local_rank
        build_first(make, is_builder=local_rank == 0, what=what, wait_minutes=self.wait_minutes, says=local_rank <= 1)

    def train_dataloader(self) -> BatchLoader:
        """Training batches, from where training stands; an epoch of them covers the corpus once."""
        rank, world_size = self._rank_and_world()
        if self._orderings.weights:
            self._make_first("order the windows by difficulty", self.train_plan)
        plan = self.train_plan()
        self._count_in_own_batches()
        if self.course is not None:
            plan.check_course(self.course, self.position)
        return batch_loader(
            plan,
            first=lambda: self.position,
            numbers=lambda start, count: self._passed_over.numbers(start, count, self.batch_size),
            dial=None if self.course is None else lambda number: plan.checked(self.dial_at(number)),
            rank=rank,
            world_size=world_size,
            num_workers=self.num_workers,
            multiple=rule_of(self.trainer).multiple_within(plan.windows.num_windows / self.batch_size) if self.trainer is not None else 1,
        )

    def val_dataloader(self) -> BatchLoader:
        """Every validation piece whole, in its own key."""
        return self._evaluation_loader("valid")

    def test_dataloader(self) -> BatchLoader:
        """Every test piece whole, in its own key."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """The test pieces."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> BatchLoader:
        rank, world_size = self._rank_and_world()
        if not (plan := self.evaluation_plan(split)).num_batches:
            log.warning("%s has no %s piece: nothing is measured on that split.", self.corpus.name, split)
        return batch_loader(plan, rank=rank, world_size=world_size)

    # The batches, for whoever wants them without a Trainer.

    def train_plan(self) -> BatchPlan:
        """The training batches by number."""
        return BatchPlan.of(
            self.store,
            self.tokenizer,
            window=self.window,
            batch_size=self.batch_size,
            seed=self.seed,
            packing=self.packing,
            transpose=self.transpose,
            transpose_within=self.transpose_within,
            align=self.align,
            **{name: getattr(self, name) for name in OFF},
            difficulty=self._orderings.difficulty(self.store, self.tokenizer, self.corpus),
            corpora=pieces_of_corpora(self.store, self.corpus.corpora),
        )

    def evaluation_plan(self, split: str) -> EvaluationPlan:
        """The batches of ``train``, ``valid`` or ``test`` to measure on."""
        pieces = self.store.pieces(split)
        if self.valid_corpus is not None and self.corpus.corpora and split != "train":
            pieces = np.intersect1d(pieces, pieces_of_corpora(self.store, [self.valid_corpus])[self.valid_corpus])
        batch_size = self.valid_batch_size or self.batch_size
        own = self.tokenizer
        return EvaluationPlan(self.store, pieces, self.valid_window, batch_size, own.tokens_per_step, own.pad_id, own.vocab_size)

    # The curriculum: what it asks for at each number.

    def follow(self, course: Course) -> None:
        """Let a curriculum steer the batches of the next fit: batch ``number`` is made of what ``course.at(number)`` says.

        Called before the loaders are made, as ``CurriculumSchedule`` does. ``course.orderings`` says by what windows are easy or hard; what
        is not known yet is computed once, and kept beside the tokens.

        Raises:
            ValueError: if there is no such ordering.
        """
        self._orderings.ask(course.orderings)
        self.course = course

    def dial_at(self, number: int) -> Dial:
        """What the curriculum says of batch ``number``; everything, whole, without one."""
        return WHOLE if self.course is None else self.course.at(number)

    def take_in(self, name: str, fingerprint: str, make: Callable[[Stretches], Ordering]) -> None:
        """Give an ordering that is computed elsewhere, such as ``reference_loss``; found beside the tokens if it was made before.

        Args:
            name: of the ordering.
            fingerprint: of what it is computed with, such as a network's weights; what is kept is found by it.
            make: computes it for the training pieces; asked at most once on each machine.

        Raises:
            ValueError: if there is no such ordering, or in all processes, if one could not compute it.
        """

        def take() -> None:
            self._orderings.take_in(self.store, self.tokenizer, name, fingerprint, make)

        self._orderings.taken_in.pop(name, None)
        self._make_first(f"order the windows by {name}", take)
        if name not in self._orderings.taken_in:
            take()  # what the first process has put beside the tokens

    def teardown(self, stage: str) -> None:
        """Follow nobody any more: the next fit may have another curriculum, or none."""
        if stage == "fit":
            self.course = None
            self._orderings.ask(())

    def _rank_and_world(self) -> tuple[int, int]:
        # Among the ranks that see different data: fewer than all where several share a batch, as in tensor parallelism.
        deal = (self.trainer and self.trainer.distributed_sampler_kwargs) or {}
        return deal.get("rank", 0), deal.get("num_replicas", 1)

    # The position: how many batches were trained on, by the Trainer's own count, whatever workers have fetched ahead.

    @property
    def position(self) -> int:
        """The number of the next batch to train on."""
        # Whoever asks for the run's length in configure_optimizers has loaders made before the trainer knows what it has counted.
        count = max(self._passed_over.count(self._resume_at, self.batch_size), self._offset + self._trained())
        return self._passed_over.number(count, self.batch_size)

    def pass_over(self, first: int, last: int) -> None:
        """Leave the batches from number ``first`` to ``last`` out of every fit that begins from now on; checkpoints keep it.

        The next batch takes their place: an epoch has as many batches as before. A batch that was passed over never comes again. Another
        ``batch_size`` leaves out every batch that holds one of their rows.

        Raises:
            ValueError: if there are no such batches.
            RuntimeError: while a fit goes on, whose batches are on their way already.
        """
        wanted = PassedOver(self._passed_over.rows)
        wanted.add(first, last, self.batch_size)
        is_new = wanted.rows != self._passed_over.rows
        if is_new and self.trainer is not None and self.trainer.state.status == "running" and self.trainer.train_dataloader is not None:
            raise RuntimeError(f"Batches {first} to {last} cannot be passed over while a fit goes on: leave it first, and fit again.")
        self._passed_over = wanted

    @property
    def passed_over(self) -> list[tuple[int, int]]:
        """First and last number of the batches that are left out, in order."""
        return self._passed_over.ranges(self.batch_size)

    def number_of_batch(self, index: int) -> int:
        """The number of the training batch that the Trainer counts as ``index``, from 0."""
        count = self._offset + index
        return index + self._passed_over.number(count, self.batch_size) - count

    def _trained(self) -> int:
        # Not `completed`: a checkpoint saved in on_train_batch_end comes before that count goes up, but after the batch was trained on.
        if self.trainer is None:
            return 0
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)

    def _count_in_own_batches(self) -> None:
        # Lightning ends windows and epochs by its own count, which a checkpoint of other batches has set to theirs.
        before, self._batch_size_before = self._batch_size_before, None
        if before is None or before == self.batch_size or self.trainer is None or not self._trained():
            return
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        for counts in (progress.total, progress.current):
            more = counts.processed * before // self.batch_size - counts.processed
            for name in ("ready", "started", "processed", "completed"):
                setattr(counts, name, getattr(counts, name) + more)
        self._offset = self._passed_over.count(self._resume_at, self.batch_size) - self._trained()

    def state_dict(self) -> dict[str, Any]:
        """Position, what was trained on, and what the batches depend on, as plain values."""
        return {
            "position": self.position,
            "corpus": {"name": self.corpus.name, "fingerprint": self.corpus.fingerprint},
            "tokenizer": {"name": self.tokenizer.name, "fingerprint": self.tokenizer.fingerprint},
            "batches": self._batch_settings(),
            # In rows, whatever a batch's size; not there as long as there is nothing to say.
            **({"passed_over": [list(rows) for rows in self._passed_over.rows]} if self._passed_over else {}),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stood; when only measuring, check the tokenizer alone.

        Raises:
            ResumeError: if the checkpoint was trained with another tokenizer or on another corpus.
        """
        check_same("tokenizer", state_dict["tokenizer"], self.tokenizer.name, self.tokenizer.fingerprint)
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        check_same("corpus", state_dict["corpus"], self.corpus.name, self.corpus.fingerprint)
        now, then = self._batch_settings(), {**OFF, **NOTHING_ASKED, **state_dict["batches"]}
        own = now.pop("batch_size")
        self._passed_over.add_rows(state_dict.get("passed_over", ()))
        self._go_on_after(int(state_dict["position"]), then.get("batch_size", own))
        if changed := [f"{name}={now[name]} (was {then.get(name)})" for name in now if then.get(name) != now[name]]:
            log.warning("Resumed with %s: the batches from here on are not those of the uninterrupted run.", ", ".join(changed))

    def _go_on_after(self, position: int, batch_size: int) -> None:
        """Go on with the row that follows ``position`` batches of ``batch_size`` rows."""
        rows, self._batch_size_before = position * batch_size, batch_size
        self._resume_at, again = divmod(rows, self.batch_size)
        self._offset = self._passed_over.count(self._resume_at, self.batch_size) - _trained_in_checkpoint(self.trainer)
        changed = f"Resumed with batch_size={self.batch_size} (was {batch_size})"
        if again:
            log.warning(
                "%s: %d rows were trained on, no whole number of these batches, and the last %d of them come again. "
                "A batch_size that divides %d goes on without repeating any.", changed, rows, again, rows,
            )  # fmt: skip
        elif batch_size != self.batch_size:
            log.info("%s: the rows go on without a gap, and steps see what they saw if accumulation changed inversely.", changed)

    def _batch_settings(self) -> dict[str, Any]:
        names = ("seed", "window", "batch_size", "packing", "transpose_within", "align", *OFF)
        return {**{name: getattr(self, name) for name in names}, "transpose": list(self.transpose), **self._orderings.settings()}


def _trained_in_checkpoint(trainer: Any) -> int:
    """Batches that Lightning will have counted when it has read the checkpoint whose data module's state it hands over."""
    checkpoint = trainer._checkpoint_connector._loaded_checkpoint if trainer is not None else {}
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    return int(progress.get("total", {}).get("processed", 0))
