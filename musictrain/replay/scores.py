"""How well the rows, pieces and tokens of a step were foretold, and how the replay compares with what the run wrote down."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.protocol import Tokenizer
from musictrain.replay.chosen import LOSS, Recorded
from musictrain.replay.found import Replayed, StepTrace, WorkedBatch
from musictrain.replay.row_music import RowMusic, in_words
from musictrain.runs.folder import number

# A jump is so many times as far as the loss usually moves from a step to the next, and that takes so many to know.
USUAL_MOVES, LEAST_MOVES = 6.0, 3
COMPARED = (LOSS, "train/gradient_norm", "train/lr")


@dataclass(frozen=True, eq=False)
class RowScore:
    """A row with its likelihood.

    Args:
        music: the row.
        nll: nats of every target, (time,), nan for padding; None if nothing was run.
        counted: which targets are no padding, (time,).
        likeliest: the token found likeliest in each place, (time,).
        likeliest_nll: its nats.
        misread: how many tokens the network did not get to read.
    """

    music: RowMusic
    nll: NDArray[np.float64] | None = None
    counted: NDArray[np.bool_] | None = None
    likeliest: NDArray[np.int64] | None = None
    likeliest_nll: NDArray[np.float64] | None = None
    misread: int = 0

    @property
    def loss(self) -> float:
        """Nats per token; nan without any, or if one of them is."""
        values = self.values()
        return float(values.mean()) if len(values) else math.nan

    def values(self) -> NDArray[np.float64]:
        """Nats of what counts."""
        return np.zeros(0) if self.nll is None or self.counted is None else self.nll[self.counted]

    @property
    def badness(self) -> float:
        """What rows are sorted by: a loss that is not finite is the worst of all."""
        return self.loss if math.isfinite(self.loss) else math.inf if self.nll is not None and len(self.values()) else -math.inf


@dataclass(frozen=True)
class PieceScore:
    """A piece of the step: where it stands, its nats per token, its share of all nats of the step, and how many tokens of it count."""

    name: str
    where: str
    loss: float
    share: float
    tokens: int


@dataclass(frozen=True)
class TokenScore:
    """One of the worst tokens: which, where, its nats, and what was expected instead with which probability."""

    row: int
    batch: int
    piece: str
    bar: int
    beat: float
    token: str
    nats: float
    likeliest: str
    probability: float

    def sentence(self) -> str:
        """In words."""
        place = f"{self.piece}, bar {self.bar}, beat {self.beat:g}" if self.bar else self.piece
        return f"{place}: {self.token}, {self.nats:.2f} nats; expected {self.likeliest} ({100 * self.probability:.0f} %)"


def score_rows(musics: Sequence[RowMusic], worked: Sequence[WorkedBatch] = ()) -> list[RowScore]:
    """The rows with their likelihood, worst first; in their order where there is none."""
    found = {batch.number: batch for batch in worked if batch.nll is not None}
    scores = [RowScore(music) if music.number not in found else _score(music, found[music.number]) for music in musics]
    return sorted(scores, key=lambda score: -score.badness)


def _score(music: RowMusic, worked: WorkedBatch) -> RowScore:
    nll, counted, best, best_nll = (
        each[music.row] for each in (worked.nll, worked.counted, worked.likeliest, worked.likeliest_nll) if each is not None
    )
    # What is read in a place is the token before its target.
    misread = 0 if worked.misread is None else int((worked.misread[music.row] & counted).sum())
    return RowScore(music, nll.double().numpy(), counted.numpy(), best.numpy(), best_nll.double().numpy(), misread)


def score_pieces(rows: Sequence[RowScore]) -> list[PieceScore]:
    """Every piece of every row, worst first."""
    total = sum(float(np.nansum(row.values())) for row in rows)
    found = []
    for row in rows:
        for part in row.music.parts:
            if row.nll is None or row.counted is None:
                continue
            targets = slice(max(0, part.first - 1), part.first + part.length - 1)
            values = row.nll[targets][row.counted[targets]]
            loss = float(values.mean()) if len(values) else math.nan
            share = float(values.sum()) / total if total and len(values) else math.nan
            found.append(PieceScore(part.name, part.where, loss, share, len(values)))
    return sorted(found, key=lambda piece: -(piece.loss if math.isfinite(piece.loss) else math.inf if piece.tokens else -math.inf))


def worst_tokens(rows: Sequence[RowScore], tokenizer: Tokenizer, most: int = 10) -> list[TokenScore]:
    """The tokens that were foretold worst, over all rows; those without a finite likelihood come first."""
    places = [(row, place) for row in rows if row.nll is not None and row.counted is not None for place in np.flatnonzero(row.counted)]

    def badness(at: tuple[RowScore, Any]) -> float:
        value = float(at[0].nll[at[1]])  # type: ignore[index]
        return value if math.isfinite(value) else math.inf

    return [_token(row, int(place), tokenizer) for row, place in sorted(places, key=badness, reverse=True)[:most]]


def _token(row: RowScore, place: int, tokenizer: Tokenizer) -> TokenScore:
    assert row.nll is not None
    assert row.likeliest is not None
    assert row.likeliest_nll is not None
    music, token = row.music, place + 1
    part, at = music.part_at(token), music.bar_at(token)
    return TokenScore(
        row=music.row,
        batch=music.number,
        piece=part.name if part is not None else "",
        bar=at[0] if at else 0,
        beat=round(at[1], 3) if at else 0.0,
        token=in_words(tokenizer, int(music.tokens[token])),
        nats=float(row.nll[place]),
        likeliest=in_words(tokenizer, int(row.likeliest[place])),
        probability=math.exp(-float(row.likeliest_nll[place])),
    )


class Jump(NamedTuple):
    """A step at which the loss rose, from the step before."""

    step: int
    before: float
    after: float


def jump_of(traces: Sequence[StepTrace]) -> Jump | None:
    """The first step at which the loss rose some times as far as it usually moves, or to what is no number; None without one.

    Args:
        traces: of steps in a row.
    """
    pairs = [Jump(after.step, before.loss, after.loss) for before, after in pairwise(traces) if math.isfinite(before.loss)]
    if broken := [jump for jump in pairs if not math.isfinite(jump.after)]:
        return broken[0]
    if len(pairs) < LEAST_MOVES:
        return None
    usual = statistics.median(abs(jump.after - jump.before) for jump in pairs)
    return next((jump for jump in pairs if jump.after - jump.before > USUAL_MOVES * usual), None)


# Against the records.


@dataclass(frozen=True)
class Compared:
    """One value of the records beside the replay's."""

    key: str
    recorded: float
    replayed: float

    @property
    def equal(self) -> bool:
        """To the bit; nan is nan."""
        return self.recorded == self.replayed or (math.isnan(self.recorded) and math.isnan(self.replayed))


def compare(recorded: Recorded, result: Replayed) -> list[Compared]:
    """The line of the records that holds the step, value by value; empty if the run had not written it, or the replay did not get there."""
    again = result.logged.get(recorded.line or -1, {})
    return [Compared(key, number(recorded.values[key]), again[key]) for key in COMPARED if key in recorded.values and key in again]


def changes_since(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the circumstances of a run and those here, as far as bits may depend on it, in words."""
    found = []
    for key, word in (("world_size", "processes"), ("threads", "threads"), ("precision", "precision"), ("seed", "seed")):
        if key in then and key in now and then[key] != now[key]:
            found.append(f"{word}: {then[key]} then, {now[key]} now")
    for name in ("torch", "lightning", "numpy"):
        was, is_now = (each.get("packages", {}).get(name) for each in (then, now))
        if was and is_now and was != is_now:
            found.append(f"{name}: {was} then, {is_now} now")
    return found
