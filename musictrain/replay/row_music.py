"""The rows of a batch as music: from which pieces and bars they come, by how much they were moved, and where each token sounds.

Conventions: token ``i`` of a row is target ``i - 1``; the first token of a row is read and not predicted. Beats are those of the piece
until they are laid out: then every part of a row begins with a whole bar, one part after the other, so that bar lines stay bar lines.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.curriculum.dial import WHOLE
from musictrain.data.batches import BatchPlan
from musictrain.data.data_report import pitch_name
from musictrain.data.packed_windows import PackedWindows
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.data.windows import Windows
from musictrain.listening.bars import bar_lines
from musictrain.notes import COLUMNS, Notes, Tempo, TimeSignature

PITCHES = ("Pitch", "PitchDrum")
AFTER_A_PITCH = ("Velocity", "Duration")


@dataclass(frozen=True, eq=False)
class Part:
    """What a row holds of one piece.

    Args:
        piece: the store's number of it.
        name: the corpus' name of it.
        start: how many tokens into the piece it begins.
        first: at which token of the row.
        length: tokens.
        bars: number of its first and last bar in the piece, from 1; (0, 0) where nothing sounds.
        beats: where it begins and ends in the piece.
        at: beat of the laid-out row at which the first of these bars begins.
        bar_lines: of these bars, in beats of the piece, the end of the last one included.
        notes: as the network was given them, moved to its key, in beats of the piece.
    """

    piece: int
    name: str
    start: int
    first: int
    length: int
    bars: tuple[int, int]
    beats: tuple[float, float]
    at: float
    bar_lines: NDArray[np.float64]
    notes: Notes

    @property
    def where(self) -> str:
        """Such as ``bwv253, bars 3 to 14``."""
        first, last = self.bars
        return self.name if not last else f"{self.name}, bar {first}" if first == last else f"{self.name}, bars {first} to {last}"


@dataclass(frozen=True, eq=False)
class RowMusic:
    """A row of a batch as music.

    Args:
        number: of its batch.
        row: in its batch, from 0.
        transpose: semitones it was moved by.
        tokens: (time + 1,), as the network was given them.
        parts: of its pieces, in order; none in a row of padding.
        beats: when each token sounds in the laid-out row, (time + 1,); nan for padding.
        spans: how long, in beats; 0 for what has no length of its own.
        pitches: MIDI number of the note a token belongs to, -1 without one.
        notes: of all parts, laid out.
    """

    number: int
    row: int
    transpose: int
    tokens: TokenIds
    parts: tuple[Part, ...]
    beats: NDArray[np.float64]
    spans: NDArray[np.float64]
    pitches: NDArray[np.int64]
    notes: Notes

    @property
    def where(self) -> str:
        """Its pieces and bars, and its transposition."""
        by = "a semitone" if abs(self.transpose) == 1 else f"{abs(self.transpose)} semitones"
        moved = f", {by} {'up' if self.transpose > 0 else 'down'}" if self.transpose else ""
        return ("; ".join(part.where for part in self.parts) or "nothing but padding") + moved

    def part_at(self, token: int) -> Part | None:
        """The part that a token of the row belongs to."""
        return next((part for part in self.parts if part.first <= token < part.first + part.length), None)

    def bar_at(self, token: int) -> tuple[int, float] | None:
        """Bar of its piece, from 1, and beat within the bar, from 1, at which a token sounds; None for padding."""
        part = self.part_at(token)
        if part is None or not part.bars[1]:
            return None
        beat = float(self.beats[token]) - part.at + float(part.bar_lines[0])
        bar = int(np.clip(np.searchsorted(part.bar_lines, beat + 1e-6, "right") - 1, 0, len(part.bar_lines) - 2))
        return part.bars[0] + bar, beat - float(part.bar_lines[bar]) + 1.0


def music_of_rows(datamodule: Any, batch: Mapping[str, Any]) -> list[RowMusic]:
    """The rows of a training batch that holds all rows of its number.

    Args:
        datamodule: a ``MusicDataModule``, or what offers its ``train_plan()``, ``store``, ``corpus`` and ``tokenizer``; and ``dial_at``, if
            it follows a curriculum.
        batch: as ``NumberedBatches`` describes.
    """
    plan: BatchPlan = datamodule.train_plan()
    pieces = {piece.name: piece for piece in datamodule.corpus.pieces}
    tokens, number = batch["tokens"].cpu().numpy(), int(batch["number"])
    dial = datamodule.dial_at(number) if hasattr(datamodule, "dial_at") else WHOLE
    rows = []
    for row, (piece, start) in enumerate(zip(batch["piece"].tolist(), batch["start"].tolist(), strict=True)):
        dealt = plan.dealt(number * plan.batch_size + row, dial)
        spans = spans_of_pieces(plan, dealt.deck.windows, dealt.epoch, piece, start, tokens[row])
        reader = _PieceReader(datamodule.store, datamodule.tokenizer, pieces)
        rows.append(_row(reader, number, row, int(batch["transpose"][row]), tokens[row], spans))
    return rows


def spans_of_pieces(
    plan: BatchPlan, windows: Windows, epoch: int, piece: int, start: int, tokens: TokenIds
) -> list[tuple[int, int, int, int]]:
    """The pieces of a row: (piece, tokens into it, token of the row, number of tokens) each, in order."""
    if piece < 0:
        return []
    store = windows.store  # type: ignore[attr-defined]
    left = len(tokens)
    if not isinstance(windows, PackedWindows):
        return [(piece, start, 0, min(left, int(store.length[piece]) - start, _unpadded(tokens, plan.pad_id)))]
    order = windows.order(epoch).pieces
    following = itertools.cycle(np.roll(order, -int(np.flatnonzero(order == piece)[0])).tolist())
    spans, first = [], 0
    while left:
        piece = next(following)
        length = min(left, int(store.length[piece]) - start)
        spans.append((piece, start, first, length))
        first, left, start = first + length, left - length, 0
    return spans


def _unpadded(tokens: TokenIds, pad_id: int) -> int:
    filled = np.flatnonzero(tokens != pad_id)
    return int(filled[-1]) + 1 if len(filled) else 0


@dataclass(frozen=True, eq=False)
class _PieceReader:
    """Reads parts of pieces as notes."""

    store: TokenStore
    tokenizer: Tokenizer
    pieces: dict[str, Any]

    def read(self, span: tuple[int, int, int, int], tokens: TokenIds, at: float) -> tuple[Part, Sounding]:
        """A part of a row, and where its tokens sound."""
        piece, start, first, length = span
        name = self.store.names[piece]
        sounding, notes = soundings(self.tokenizer, self.store.piece(piece), start, tokens[first : first + length])
        known = self.pieces[name].notes.time_signatures if name in self.pieces else notes.time_signatures
        end = float(np.max(sounding.beats + sounding.spans, initial=0.0))
        lines = bar_lines(replace(notes, time_signatures=known), max(end, notes.end))
        begin = float(sounding.beats[0]) if length else 0.0
        low = int(np.clip(np.searchsorted(lines, begin + 1e-6, "right") - 1, 0, len(lines) - 2))
        high = max(low + 1, int(np.searchsorted(lines, end - 1e-6, "left")))
        bars = (low + 1, high) if length else (0, 0)
        notes = replace(notes, time_signatures=known)
        return Part(piece, name, start, first, length, bars, (begin, end), at, lines[low : high + 1], notes), sounding


def _row(reader: _PieceReader, number: int, row: int, transpose: int, tokens: TokenIds, spans: list[tuple[int, int, int, int]]) -> RowMusic:
    beats, lengths = np.full(len(tokens), np.nan), np.zeros(len(tokens))
    pitches = np.full(len(tokens), -1, np.int64)
    parts: list[Part] = []
    at = 0.0
    for span in spans:
        part, sounding = reader.read(span, tokens, at)
        own = slice(part.first, part.first + part.length)
        beats[own] = sounding.beats - part.bar_lines[0] + at
        lengths[own], pitches[own] = sounding.spans, sounding.pitches
        parts.append(part)
        at += float(part.bar_lines[-1] - part.bar_lines[0])
    return RowMusic(number, row, transpose, tokens, tuple(parts), beats, lengths, pitches, laid_out(parts))


def laid_out(parts: Sequence[Part]) -> Notes:
    """The notes of some parts one after the other, each from the beginning of its first bar, with its time signatures."""
    columns = {
        name: np.concatenate([getattr(part.notes, name) + (part.at - part.bar_lines[0] if name == "onset" else 0) for part in parts])
        for name in COLUMNS
        if parts
    }
    if not parts:
        return Notes.empty()
    columns["drum"] = columns["drum"].astype(bool)
    signatures = [TimeSignature(at, *rest) for part in parts for at, *rest in _from_first_bar(part, part.notes.time_signatures)]
    tempos = [Tempo(at, *rest) for part in parts for at, *rest in _from_first_bar(part, part.notes.tempos)]
    return Notes(**columns, time_signatures=tuple(signatures), tempos=tuple(tempos))


def _from_first_bar(part: Part, changes: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """What holds from a part's first bar line on, and what changes before its last one, in beats of the laid-out row."""
    begin, end = float(part.bar_lines[0]), float(part.bar_lines[-1])
    before = [change for change in changes if change[0] <= begin + 1e-6]
    now = [(begin, *before[-1][1:])] if before else []
    later = [tuple(change) for change in changes if begin + 1e-6 < change[0] < end - 1e-6]
    return [(each[0] - begin + part.at, *each[1:]) for each in (*now, *later)]


# Where tokens sound.


@dataclass(frozen=True, eq=False)
class Sounding:
    """When tokens sound, in beats of their piece, how long, and at which pitch; one entry a token. Pitch -1: no note of its own."""

    beats: NDArray[np.float64]
    spans: NDArray[np.float64]
    pitches: NDArray[np.int64]


def soundings(tokenizer: Tokenizer, piece: TokenIds, start: int, moved: TokenIds) -> tuple[Sounding, Notes]:
    """Where some tokens of a piece sound, and the notes among them, both in beats of the piece.

    On a grid every token has its step. In a stream of events a token belongs to the note it describes, or to the next one.

    Args:
        tokenizer: that the piece was made with.
        piece: all its tokens, as they are stored.
        start: how many tokens into it they begin.
        moved: the tokens as the network was given them, in another key, louder or softer.
    """
    if tokenizer.tokens_per_step > 1 and hasattr(tokenizer, "steps_per_beat"):
        return _on_grid(tokenizer, start, moved)
    return _in_events(tokenizer, piece, start, moved)


def _on_grid(tokenizer: Any, start: int, moved: TokenIds) -> tuple[Sounding, Notes]:
    per_step, per_beat = tokenizer.tokens_per_step, tokenizer.steps_per_beat
    lead = len(tokenizer.begin) // per_step
    steps = np.maximum(np.arange(start, start + len(moved)) // per_step - lead, 0)
    names = [tokenizer.token_name(int(token)).rpartition("_")[2] for token in moved]
    pitches = np.array([int(name) if name.isdigit() else -1 for name in names], np.int64)
    special = np.isin(moved, (tokenizer.pad_id, *tokenizer.begin, *tokenizer.end))
    spans = np.where(special, 0.0, 1.0 / per_beat)
    # What an incomplete first step holds is not decoded.
    notes = tokenizer.decode(moved)
    notes = replace(notes, onset=notes.onset + max(0, -(-start // per_step) - lead) / per_beat)
    return Sounding(steps / per_beat, spans, pitches), notes


def _in_events(tokenizer: Tokenizer, piece: TokenIds, start: int, moved: TokenIds) -> tuple[Sounding, Notes]:
    # Times are those of the whole piece as it is stored: in the middle of a stream nothing says where it is.
    kinds = np.array([tokenizer.token_name(int(token)).partition("_")[0] for token in piece])
    places = np.flatnonzero(np.isin(kinds, PITCHES))
    decoded = tokenizer.decode(piece)
    if len(places) != len(decoded) or not len(places):
        return _evenly(piece, start, moved, decoded)
    order = np.lexsort((decoded.pitch, np.where(decoded.drum, 128, decoded.program), decoded.onset))
    own = np.arange(start, start + len(moved))
    # The note that each token belongs to: Velocity and Duration to the one before, whatever else to the one after.
    after = np.searchsorted(places, own, "left")
    belongs = np.where(np.isin(kinds[own], AFTER_A_PITCH), after - 1, after)
    at_all = (belongs >= 0) & (belongs < len(order))
    note = order[np.clip(belongs, 0, len(order) - 1)]
    beats = np.where(belongs >= len(order), decoded.end, decoded.onset[note])
    told = at_all & np.isin(kinds[own], (*PITCHES, *AFTER_A_PITCH, "Program"))
    moved_pitch = _moved(tokenizer, places - start, moved, decoded.pitch[order], 0)
    pitches = np.where(told, moved_pitch[np.clip(belongs, 0, len(order) - 1)], -1)
    spans = np.where(told, decoded.duration[note], 0.0)
    heard = np.flatnonzero((places >= start) & (places < start + len(moved)))
    loud = _moved(tokenizer, places - start, moved, decoded.velocity[order], 1)
    columns = {name: getattr(decoded, name)[order[heard]] for name in COLUMNS}
    columns |= {"pitch": moved_pitch[heard], "velocity": loud[heard]}
    notes = Notes(**columns, time_signatures=decoded.time_signatures, tempos=decoded.tempos)
    return Sounding(np.asarray(beats, np.float64), np.asarray(spans, np.float64), np.asarray(pitches, np.int64)), notes


def _moved(tokenizer: Tokenizer, places: NDArray[np.int64], moved: TokenIds, stored: NDArray[np.int64], after: int) -> NDArray[np.int64]:
    """What the tokens ``after`` each of some places say now, where they are there and say a number; else what was stored."""
    found = np.array(stored, np.int64)
    kinds = (PITCHES, ("Velocity",))[after]
    for number, place in enumerate((places + after).tolist()):
        if 0 <= place < len(moved):
            kind, _, value = tokenizer.token_name(int(moved[place])).partition("_")
            if kind in kinds and value.isdigit():
                found[number] = int(value)
    return found


def _evenly(piece: TokenIds, start: int, moved: TokenIds, decoded: Notes) -> tuple[Sounding, Notes]:
    """As good as can be for a language whose notes cannot be counted: tokens are taken to pass evenly, in the key they are stored in."""
    beats = np.arange(start, start + len(moved)) * (decoded.end / max(1, len(piece)))
    lowest, highest = (float(beats[0]), float(beats[-1])) if len(beats) else (0.0, 0.0)
    sounding = Sounding(np.asarray(beats, np.float64), np.zeros(len(beats)), np.full(len(moved), -1, np.int64))
    return sounding, decoded.between(lowest, highest)


def in_words(tokenizer: Tokenizer, token: int) -> str:
    """A token as a musician says it.

    >>> from musictrain.data.tokenizers import VoiceGrid
    >>> in_words(VoiceGrid(), 43)
    'Soprano C4'
    """
    name = tokenizer.token_name(int(token))
    kind, _, value = name.partition("_")
    pitched = value.isdigit() and (kind == "Pitch" or tokenizer.tokens_per_step > 1)
    return f"{kind} {pitch_name(int(value))}" if pitched else name.replace("_", " ")
