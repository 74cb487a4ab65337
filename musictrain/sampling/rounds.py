"""One round of sampling as plain data: what is asked for, and what was played."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictrain.data.mixed_corpora import pieces_measured_on, pieces_of_corpora
from musictrain.generation import SampledPiece
from musictrain.generation.length import mean_tokens_per_beat
from musictrain.notes import Notes


@dataclass(frozen=True)
class Request:
    """What to play from: pieces from nothing, one under each of ``names``, or one that continues ``prompt``, called ``source``.

    Only the first ``num_written`` become files, all of them if that is None.
    """

    names: tuple[str, ...]
    prompt: Notes | None = None
    source: str | None = None
    num_written: int | None = None


@dataclass(frozen=True)
class Round:
    """One time of sampling: at which step, for how many beats, from what weights, where to, and what is asked for."""

    step: int
    beats: float
    weights: str
    folder: Path
    requests: tuple[Request, ...]


@dataclass(frozen=True, eq=False)
class Played:
    """A piece of a round, and what was asked for."""

    name: str
    request: Request
    piece: SampledPiece


def names_from_nothing(num: int, num_at_end: int) -> tuple[str, ...]:
    """Names of ``num`` pieces from nothing. They go by how many there are at the end, so that a name is the same piece at every step.

    >>> names_from_nothing(1, 1), names_from_nothing(2, 4)
    (('from_nothing',), ('from_nothing_1', 'from_nothing_2'))
    """
    numbered = tuple(f"from_nothing_{position}" for position in range(1, num + 1))
    return ("from_nothing", *numbered[1:]) if num and num_at_end <= 1 else numbered


def continuations_of(datamodule: Any, num: int) -> Iterator[Request]:
    """Requests to go on from the first validation pieces that the tokenizer can hold; none without a ``corpus``."""
    for position, piece in enumerate(validation_pieces(datamodule, num), start=1):
        yield Request((f"continued_{position}",), piece.notes, piece.name)


def validation_pieces(datamodule: Any, num: int) -> list[Any]:
    """The first ``num`` validation pieces that stand in the token ``store``, if there is one; none without a ``corpus``.

    Of several corpora those of the data module's ``valid_corpus``, which validation is about.
    """
    corpus = getattr(datamodule, "corpus", None)
    if corpus is None or not num:
        return []
    held = getattr(getattr(datamodule, "store", None), "names", None)
    known = None if held is None else set(held)
    pieces = pieces_measured_on(corpus, measured_on(datamodule))
    return [piece for piece in pieces if known is None or piece.name in known][:num]


def tokens_per_beat_of(datamodule: Any) -> float | None:
    """How many tokens a beat takes in what validation is about; None if nobody knows."""
    store: Any = getattr(datamodule, "store", None)
    label = measured_on(datamodule)
    return mean_tokens_per_beat(store, None if label is None else pieces_of_corpora(store, [label])[label].tolist())


def measured_on(datamodule: Any) -> str | None:
    """The label of the corpus that validation is about, where there are several and it is about one of them."""
    several = getattr(getattr(datamodule, "corpus", None), "corpora", ())
    return getattr(datamodule, "valid_corpus", None) if several else None


def check_numbers(who: str, not_negative: dict[str, float], positive: dict[str, float]) -> None:
    """Refuses numbers out of their range.

    Raises:
        ValueError: naming them all, and who got them.
    """
    if min(not_negative.values()) < 0 or min(positive.values()) <= 0:
        told = ", ".join(f"{name}={value}" for name, value in {**not_negative, **positive}.items())
        raise ValueError(f"{who} got {told}: {', '.join(not_negative)} cannot be negative, {', '.join(positive)} must be positive.")
