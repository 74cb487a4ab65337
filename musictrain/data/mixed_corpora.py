"""Several corpora as one: ``ryans+chorales``. Each keeps its own splits, and no tune of one is trained on that another is measured on.

A piece is called ``ryans/Ryan's Favorite``. Of pieces that belong together by ``tune_groups``, in whatever corpora they stand, those that
would be trained on are left out where another corpus has one of them in its validation or test split.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.data import tune_groups as tune_groups_file
from musictrain.data.corpus import Corpus, CorpusError, Piece
from musictrain.data.sources import NAMED
from musictrain.data.token_store import TokenStore
from musictrain.data.tune_groups import tune_groups, tune_windows, twin_key
from musictrain.notes import Notes
from musictrain.runs.atomic import atomic_write
from musictrain.suggestions import did_you_mean

JOINT = "+"


def corpora_named(name: str | Path) -> list[str]:
    """The corpora that a name joins by ``+``; a name or path that is there as it stands is one corpus.

    Raises:
        CorpusError: if one is empty or stands there twice.

    >>> corpora_named("ryans+chorales"), corpora_named("chorales")
    (['ryans', 'chorales'], ['chorales'])
    """
    whole = str(name)
    if JOINT not in whole or whole in NAMED or Path(whole).expanduser().exists():
        return [whole]
    names = [each.strip() for each in whole.split(JOINT)]
    if not all(names) or len(set(names)) < len(names):
        raise CorpusError(f"The corpus {whole!r} has an empty or a repeated part, expected different ones joined by +, as ryans+chorales.")
    return names


@dataclass(frozen=True)
class _NotesOf:
    """Where a piece's notes are: picklable, unlike a closure."""

    piece: Piece

    def __call__(self) -> Notes:
        return self.piece.notes


def mixed(corpora: Sequence[Corpus], cache: Path) -> Corpus:
    """Corpora as one, in their order.

    Args:
        corpora: at least one.
        cache: folder in which is kept which tunes they share.
    """
    labels = _labels([corpus.name for corpus in corpora])
    labelled = list(zip(labels, corpora, strict=True))
    pieces = [(label, piece) for label, corpus in labelled for piece in corpus.pieces]
    first = _first_of_tune(corpora, [piece for _, piece in pieces], cache)
    left_out = _measured_elsewhere(pieces, first)
    names = [f"{label}/{piece.name}" for label, piece in pieces]
    kept = [
        Piece(names[number], piece.source, _NotesOf(piece), names[first[number]], piece.split)
        for number, (_, piece) in enumerate(pieces)
        if number not in left_out
    ]
    rejected = [(f"{label}: {source}", why) for label, corpus in labelled for source, why in corpus.rejected]
    rejected += [
        (names[one], f"is a setting of {names[other]}, which is kept for {pieces[other][1].split}") for one, other in left_out.items()
    ]
    twins = [tuple(f"{label}/{name}" for name in each) for label, corpus in labelled for each in corpus.twins]
    warnings = [f"{label}: {warning}" for label, corpus in labelled for warning in corpus.warnings]
    digest = hashlib.sha256(json.dumps([labels, [corpus.fingerprint for corpus in corpora], list(left_out)]).encode())
    return Corpus(JOINT.join(labels), kept, rejected, digest.hexdigest()[:16], twins, warnings, labels)


def _measured_elsewhere(pieces: Sequence[tuple[str, Piece]], first: Sequence[int]) -> dict[int, int]:
    """The training pieces whose tune another corpus has in its validation or test split, each with a piece there."""
    measured: dict[int, list[int]] = defaultdict(list)
    for number, (_, piece) in enumerate(pieces):
        if piece.split != "train":
            measured[first[number]].append(number)
    left_out: dict[int, int] = {}
    for number, (label, piece) in enumerate(pieces):
        others = [other for other in measured.get(first[number], ()) if pieces[other][0] != label]
        if piece.split == "train" and others:
            left_out[number] = others[0]
    return left_out


def check_one_of(name: str | None, corpus: Corpus) -> None:
    """Refuse to measure on what is none of the corpora that are mixed.

    Raises:
        ValueError: naming those there are.
    """
    if name is not None and name not in (known := list(corpus.corpora) or [corpus.name]):
        raise ValueError(f"valid_corpus={name!r}, expected one of {', '.join(known)}. {did_you_mean(name, known)}".rstrip())


def pieces_of_corpora(store: TokenStore, labels: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Numbers of the pieces of each corpus in the store of a mixed one, by its label."""
    of = np.array([name.partition("/")[0] for name in store.names])
    return {label: np.flatnonzero(of == label) for label in labels}


def pieces_measured_on(corpus: Any, label: str | None, split: str = "valid") -> list[Any]:
    """The pieces of a split that are measured on: of several corpora those of the one with this label; all for None, or of one corpus.

    Args:
        corpus: with ``split(name)``, which gives pieces with a ``name``.
        label: as ``valid_corpus`` has it.
        split: name of the split.
    """
    of_all = label is None or not getattr(corpus, "corpora", ())
    return [piece for piece in corpus.split(split) if of_all or piece.name.partition("/")[0] == label]


def _labels(names: Sequence[str]) -> list[str]:
    """The names, with (2), (3) and so on behind those that came before."""
    names = [name.replace("/", "-") for name in names]
    counts = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} ({count + 1})" if count else name for name, count in zip(names, counts, strict=True)]


def _first_of_tune(corpora: Sequence[Corpus], pieces: Sequence[Piece], cache: Path) -> list[int]:
    """For every piece of all corpora the number of the first one of its tune; found once, then kept."""
    key = hashlib.sha256(json.dumps([corpus.fingerprint for corpus in corpora]).encode() + Path(tune_groups_file.__file__).read_bytes())
    path = cache / f"tunes-{key.hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        first = [int(number) for number in json.loads(path.read_text(encoding="utf-8"))]
        if len(first) == len(pieces) and all(0 <= number < len(pieces) for number in first):
            return first
    notes = [piece.notes for piece in pieces]
    first = tune_groups([tune_windows(each) for each in notes], [twin_key(each) for each in notes])
    # Where nothing can be kept, it is found again each time.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(first), durable=False)
    return first
