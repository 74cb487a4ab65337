"""The orderings of a corpus by name: checked, found beside the token store or computed, and put together."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from musictrain.data.corpus import Corpus
from musictrain.data.orderings.difficulty import Difficulty
from musictrain.data.orderings.kept import fingerprint_of, keep_ordering, kept_ordering
from musictrain.data.orderings.musical import MEASURES, measure_stretches
from musictrain.data.orderings.stretches import Ordering, Stretches
from musictrain.data.orderings.surprisal import surprisal
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import Tokenizer
from musictrain.suggestions import did_you_mean

log = logging.getLogger(__name__)

REFERENCE_LOSS = "reference_loss"
ORDERINGS = {
    "length": "beats of the whole piece",
    "note_density": "notes that start in a beat",
    "polyphony": "notes that sound at once",
    "pitch_class_entropy": "bits of the pitch classes",
    "rhythmic_variety": "bits of the note lengths",
    "voices": "tracks in which anything sounds",
    "surprisal": "nats a token under an n-gram of the training pieces",
    REFERENCE_LOSS: "nats a token under a trained network",
}
"""By name, what grows from easy to hard."""


def checked_orderings(orderings: Any) -> dict[str, float]:
    """Orderings by name, each with its weight.

    Args:
        orderings: a name, several names, or weights by name.

    Raises:
        ValueError: for a name that is none, or a weight that is not above 0.

    >>> checked_orderings(["surprisal", "polyphony"])
    {'surprisal': 1.0, 'polyphony': 1.0}
    """
    names = [orderings] if isinstance(orderings, str) else orderings
    weights = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names or (), 1.0)
    for name, weight in weights.items():
        if name not in ORDERINGS:
            known = ", ".join(ORDERINGS)
            raise ValueError(f"orderings names {name!r}, expected some of {known}. {did_you_mean(str(name), ORDERINGS)}".rstrip())
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0.0 < weight < math.inf:
            raise ValueError(f"orderings gives {name} the weight {weight!r}, expected a number above 0; leave out what shall not count.")
    return {str(name): float(weight) for name, weight in weights.items()}


def difficulty_of(
    store: TokenStore, tokenizer: Tokenizer, corpus: Corpus, weights: Mapping[str, float], taken_in: Mapping[str, tuple[str, Ordering]]
) -> Difficulty | None:
    """The difficulty of a store's windows by some orderings; None without any. What is not kept beside the store yet is computed.

    Args:
        store: of the corpus and the tokenizer.
        tokenizer: the one its tokens were made with.
        corpus: whose notes are measured.
        weights: of the orderings, by name.
        taken_in: orderings that were computed elsewhere, each with its fingerprint.

    Raises:
        ValueError: if ``reference_loss`` is asked for and was not taken in.
    """
    if not weights:
        return None
    if REFERENCE_LOSS in weights and REFERENCE_LOSS not in taken_in:
        raise ValueError(
            f"orderings names {REFERENCE_LOSS}, but no network's losses are there to order by: name the version whose losses are meant,"
            " CurriculumSchedule(reference=RUN@VERSION), or hand them to MusicDataModule.take_in."
        )
    stretches = Stretches.of(store, tokenizer.tokens_per_step)
    prints = {name: fingerprint_of(store, stretches, name, tokenizer.fingerprint, corpus.fingerprint) for name in weights}
    found = {name: kept_ordering(store, stretches, name, prints[name]) for name in weights if name not in taken_in}
    if missing := [name for name, ordering in found.items() if ordering is None]:
        began = time.perf_counter()
        made = _computed(missing, store, tokenizer, corpus, stretches)
        for name, ordering in made.items():
            keep_ordering(store, name, prints[name], ordering)
        log.info("Ordered the training pieces by %s in %.1f s", ", ".join(missing), time.perf_counter() - began)
        found |= made
    orderings = {name: taken_in[name][1] if name in taken_in else found[name] for name in weights}
    return Difficulty(stretches, {name: each for name, each in orderings.items() if each is not None}, dict(weights))


def _computed(names: list[str], store: TokenStore, tokenizer: Tokenizer, corpus: Corpus, stretches: Stretches) -> dict[str, Ordering]:
    """Orderings of the training pieces, by name; those of the notes are measured together."""
    pieces = store.pieces("train")
    made: dict[str, Ordering] = {}
    if measures := [name for name in names if name in MEASURES]:
        by_name = {piece.name: piece for piece in corpus.pieces}
        made |= measure_stretches(measures, store, pieces, stretches, tokenizer, lambda piece: by_name[piece].notes)
    if "length" in names:
        in_training = np.isin(stretches.piece, pieces).astype(np.float64)
        made["length"] = Ordering(store.num_beats[stretches.piece], in_training * stretches.tokens)
    if "surprisal" in names:
        made["surprisal"] = surprisal(store, pieces, stretches, tokenizer.tokens_per_step)
    return made
