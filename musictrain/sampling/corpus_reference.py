"""What samples are held against: the validation pieces of a corpus measured once, and an index of its training pieces.

Conventions: validation pieces are measured as samples are: as the tokenizer holds them, and their first ``beats`` beats alone, since
repetition, range and copied passages grow with length. What it says lies in a folder of the cache under a name that changes with the token
store, the settings and ``VERSION``, so that the next run only opens it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from musictrain.data.corpus_store import cache_root
from musictrain.data.mixed_corpora import pieces_measured_on
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers import Tokenizer
from musictrain.generation.continuation import first_beats
from musictrain.metrics.barred_notes import Floats
from musictrain.metrics.chorale_rules import RULES, chorale_counts, is_four_part
from musictrain.metrics.copying import corpus_copy_rate, longest_match
from musictrain.metrics.copying_index import CopyIndex, as_tokens_hold
from musictrain.metrics.frechet_features import feature_matrix
from musictrain.metrics.intervals import RESAMPLES, bands
from musictrain.notes import Notes
from musictrain.sampling.rounds import measured_on

log = logging.getLogger(__name__)

VERSION = 3
USUAL_SET = 16  # samples of a round, of which the means are compared
FAR_OUT = 3.0
LEAST_SPREAD_BARS = 1 / 3


@dataclass(frozen=True, eq=False)
class CorpusReference:
    """A corpus as samples are judged by it.

    Args:
        beats: how much of each validation piece was measured.
        copy_bars: length of the windows that ``copy_rate`` is of.
        num_pieces: validation pieces.
        bands: 10 and 90 % of each measure of a piece over them.
        copy_rate: their own against the training set; nan if no window fits in.
        longest_bars: the longest passage that one of them has in common with the training set, those left out that are copies themselves.
        rule_counts: faults and chances of each chorale rule, (pieces, rules, 2); no piece unless most are four-part.
        features: of each piece, (pieces, features).
        index: of the training pieces.
    """

    beats: float
    copy_bars: int
    num_pieces: int
    bands: dict[str, tuple[float, float]]
    copy_rate: float
    longest_bars: float
    rule_counts: NDArray[np.int64]
    features: Floats
    index: CopyIndex

    @classmethod
    def build(
        cls,
        corpus: Any,
        tokenizer: Tokenizer,
        *,
        beats: float,
        copy_bars: int,
        store: TokenStore | None = None,
        only: str | None = None,
    ) -> CorpusReference:
        """Measure the validation pieces of a corpus, and index its training pieces. Those that the tokenizer cannot hold are left out.

        Args:
            corpus: with ``split(name)``, which gives pieces with ``name`` and ``notes``.
            tokenizer: of the model that samples.
            beats: how much of each validation piece is measured.
            copy_bars: length of the windows of the copy rate.
            store: the corpus as that tokenizer's ``TokenStore``, if there is one: saves encoding it again.
            only: of several corpora the one whose validation pieces are meant; None for all. What is copied may stand in any.

        Raises:
            ValueError: if no training or no validation piece is left, or two training pieces have one name.
        """
        index = CopyIndex.build(_held(corpus.split("train"), tokenizer, store))
        openings = [first_beats(notes, beats) for _, notes in _held(pieces_measured_on(corpus, only), tokenizer, store)]
        for what, number in (("training", len(index)), ("validation", len(openings))):
            if not number:
                raise ValueError(f"The corpus has no {what} piece that {tokenizer.name} can hold: samples have nothing to be held against.")
        matches = [longest_match(notes, index) for notes in openings]
        voiced = [notes for notes in openings if is_four_part(notes)]
        counts = [[chorale_counts(notes)[rule] for rule in RULES] for notes in voiced] if 2 * len(voiced) > len(openings) else []
        return cls(
            beats=beats,
            copy_bars=copy_bars,
            num_pieces=len(openings),
            bands=bands(openings, means_of=USUAL_SET),
            copy_rate=corpus_copy_rate(openings, index, bars=copy_bars),
            longest_bars=usual_longest([0.0 if match is None else match.bars for match in matches]),
            rule_counts=np.array(counts, np.int64).reshape(-1, len(RULES), 2),
            features=feature_matrix(openings),
            index=index,
        )

    @property
    def is_four_part(self) -> bool:
        """Whether the corpus is, so that chorale rules can be asked."""
        return len(self.rule_counts) > 0

    def rule_bands(self, num: int) -> dict[str, tuple[float, float]]:
        """Where the rate of each chorale rule lies in nine of ten sets of ``num`` validation pieces: the fewer, the wider."""
        random = np.random.default_rng(0)
        drawn = random.integers(len(self.rule_counts), size=(RESAMPLES, max(1, num)))
        faults, chances = np.moveaxis(self.rule_counts[drawn].sum(axis=1), 2, 0)
        rates = 100.0 * faults / np.maximum(chances, 1)
        return {rule: (float(low), float(high)) for rule, low, high in zip(RULES, *np.quantile(rates, (0.05, 0.95), axis=0), strict=True)}

    def shown_bands(self, num: int) -> dict[str, tuple[float, float]]:
        """Where the corpus lies in each score that is logged, for the page: pieces in the measures, sets of ``num`` in the rules.

        What is not known is left out.
        """
        known = {**self.bands, "copy_rate": (0.0, self.copy_rate), "longest_match": (0.0, self.longest_bars)}
        known |= self.rule_bands(num) if self.is_four_part else {}
        return {name: pair for name, pair in known.items() if all(math.isfinite(edge) for edge in pair)}

    def save(self, folder: Path) -> None:
        """Write all of it as a folder; who comes second with the same keeps the first one's.

        Raises:
            OSError: if it cannot be written.
        """
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            self.index.save(temporary / "index")
            np.save(temporary / "features.npy", self.features)
            np.save(temporary / "rule_counts.npy", self.rule_counts)
            about = {name: getattr(self, name) for name in ("beats", "copy_bars", "num_pieces", "bands", "copy_rate", "longest_bars")}
            (temporary / "reference.json").write_text(json.dumps({"version": VERSION, **about}), encoding="utf-8")
            if not folder.exists():
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> CorpusReference:
        """Open what ``save`` wrote; the index stays on disk until it is asked.

        Raises:
            OSError: if something is missing.
            ValueError: if it is damaged, or of another version.
        """
        about = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
        if about.pop("version", None) != VERSION:
            raise ValueError(f"{folder} holds a reference of another version; here it is {VERSION}.")
        about["bands"] = {name: (low, high) for name, (low, high) in about["bands"].items()}
        arrays = {name: np.load(folder / f"{name}.npy") for name in ("features", "rule_counts")}
        return cls(**about, **arrays, index=CopyIndex.load(folder / "index"))


def reference_of(datamodule: Any, tokenizer: Tokenizer, *, beats: float, copy_bars: int) -> CorpusReference:
    """The reference of a data module's ``corpus``, of its ``valid_corpus`` if it is of several, out of the cache if it was measured before.

    Without a token ``store``, whose fingerprint names it, it is measured anew each time.

    Raises:
        ValueError: as in ``CorpusReference.build``.
    """
    folder = _folder_of(datamodule, beats, copy_bars)
    if folder is not None and folder.exists():
        try:
            return CorpusReference.load(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.info("The reference of samples is made anew: %s", error)
            shutil.rmtree(folder, ignore_errors=True)
    log.info(
        "The corpus is measured, for samples to be held against; %s.", "kept for the next run" if folder else "kept for this run alone"
    )
    store = getattr(datamodule, "store", None)
    tokens = store if isinstance(store, TokenStore) else None
    made = CorpusReference.build(datamodule.corpus, tokenizer, beats=beats, copy_bars=copy_bars, store=tokens, only=measured_on(datamodule))
    if folder is not None:
        try:
            made.save(folder)
        except OSError as error:
            log.info("The reference of samples could not be kept for the next run: %s", error)
    return made


def usual_longest(bars: ArrayLike) -> float:
    """The longest match that pieces have which are no copies, of the longest matches (pieces,) of all.

    A piece that stands in the training set too, under another name, lies far beyond the others (three times the middle half's width above
    it): it says nothing of what is usual.

    >>> usual_longest([0.5, 1.0, 1.0, 1.5, 24.0])
    1.5
    """
    each = np.asarray(bars, np.float64)
    low, high = np.quantile(each, (0.25, 0.75))
    return float(each[each <= high + FAR_OUT * max(high - low, LEAST_SPREAD_BARS)].max())


def _held(pieces: Iterable[Any], tokenizer: Tokenizer, store: TokenStore | None) -> Iterator[tuple[str, Notes]]:
    """Each piece as the tokenizer holds it, with its name."""
    numbers = {} if store is None else {name: number for number, name in enumerate(store.names)}
    for piece in pieces:
        if store is None:
            try:
                notes = as_tokens_hold(piece.notes, tokenizer)
            except ValueError:
                continue  # nor can the model have seen it
        elif piece.name in numbers:
            tokens = store.piece(numbers[piece.name])
            content = tokens[len(tokenizer.begin) : len(tokens) - len(tokenizer.end)]
            notes = replace(tokenizer.decode(content), time_signatures=piece.notes.time_signatures)
        else:
            continue
        if len(notes):
            yield piece.name, notes


def _folder_of(datamodule: Any, beats: float, copy_bars: int) -> Path | None:
    fingerprint = getattr(getattr(datamodule, "store", None), "fingerprint", None)
    if not isinstance(fingerprint, str):
        return None
    label = measured_on(datamodule)
    told = json.dumps([VERSION, fingerprint, beats, copy_bars, *([] if label is None else [label])])
    return cache_root(getattr(datamodule, "cache_dir", None)) / "references" / hashlib.sha256(told.encode()).hexdigest()[:16]
