"""What the music of each stretch is like: how dense, how many voices, how varied.

Conventions are those of ``musictrain.metrics``: beats are quarter notes, entropies are in bits, polyphony is weighed by time, drums count
for density and voices alone. A stretch is given the beats that its tokens stand for: on a grid in proportion, for event tokenizers from the
onset of its first note to that of the first note of the next stretch. What sounds on from the stretch before sounds in this one too.

The notes of many pieces are taken together, so that every measure is a few operations on arrays, whatever the number of pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from musictrain.data.masking import kinds_of
from musictrain.data.orderings.stretches import Floats, Ordering, Stretches
from musictrain.data.token_store import TokenStore
from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer
from musictrain.notes import Notes

LENGTHS_A_BEAT = 24  # note lengths are told apart to a 24th of a beat: 32nds, and triplets of 16ths
AT_ONCE = 4096  # pieces whose notes are in memory together
NOTHING = 1e-6  # beats: a note that ends so little after a cut does not reach over it


@dataclass(frozen=True, eq=False)
class Spans:
    """Times in beats of their piece, and the stretches from the first to the last that each lies in."""

    begin: Floats
    end: Floats
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def within(cls, edges: Floats, begin: Floats, end: Floats) -> Spans:
        """Spans in a piece that is cut at ``edges``; of several cuts at one beat the last one counts."""
        first = np.maximum(np.searchsorted(edges[:-1], begin, "right") - 1, 0)
        return cls(begin, end, first, np.maximum(np.searchsorted(edges[:-1], end - NOTHING, "right") - 1, first))

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """For every pair of a span and a stretch it lies in: which span, (pairs,)."""
        return np.repeat(np.arange(len(self.first)), self.last - self.first + 1)

    @cached_property
    def stretch(self) -> NDArray[np.int64]:
        """Which stretch, (pairs,)."""
        held = self.last - self.first + 1
        return np.arange(len(self.owner)) - np.repeat(np.cumsum(held) - held, held) + self.first[self.owner]

    def time_within(self, begins: Floats, ends: Floats) -> Floats:
        """Summed time spent in each stretch, (stretches,), from where each begins and ends."""
        begin, end = np.maximum(self.begin[self.owner], begins[self.stretch]), np.minimum(self.end[self.owner], ends[self.stretch])
        return np.bincount(self.stretch, np.maximum(end - begin, 0.0), len(begins)).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Music:
    """The notes of some pieces, cut into stretches.

    Args:
        begins, ends: beat of its piece at which each stretch begins and ends, (stretches,).
        notes: onset and end of each note.
        pitch, track, drum: of each note, (notes,); tracks of two pieces are never equal.
        pitched: onset and end of each note that is no drum's.
        anything: from where to where anything but drums sounds.
    """

    begins: Floats
    ends: Floats
    notes: Spans
    pitch: NDArray[np.int64]
    track: NDArray[np.int64]
    drum: NDArray[np.bool_]
    pitched: Spans
    anything: Spans

    @property
    def beats(self) -> Floats:
        """Length of each stretch, (stretches,)."""
        return self.ends - self.begins

    def note_density(self) -> Ordering:
        """Notes that start in a beat."""
        return Ordering.of_sums(np.bincount(self.notes.first, minlength=len(self.beats)).astype(np.float64), self.beats)

    def polyphony(self) -> Ordering:
        """Notes that sound at once while any sounds, on average over time."""
        return Ordering.of_sums(*(spans.time_within(self.begins, self.ends) for spans in (self.pitched, self.anything)))

    def pitch_class_entropy(self) -> Ordering:
        """Bits of the pitch classes of the notes that start."""
        return self._entropy(self.pitch % 12)

    def rhythmic_variety(self) -> Ordering:
        """Bits of the lengths of the notes that start."""
        return self._entropy(np.rint((self.notes.end - self.notes.begin) * LENGTHS_A_BEAT).astype(np.int64))

    def voices(self) -> Ordering:
        """Tracks in which anything sounds."""
        tracks = int(self.track.max(initial=0)) + 1
        pairs = np.unique(self.notes.stretch * tracks + self.track[self.notes.owner])
        voices = np.bincount(pairs // tracks, minlength=len(self.beats))
        return Ordering(voices.astype(np.float64), np.where(voices > 0, self.beats, 0.0))

    def _entropy(self, kind: NDArray[np.int64]) -> Ordering:
        stretch, kind = self.notes.first[~self.drum], kind[~self.drum]
        kinds = np.unique(kind, return_inverse=True)[1].reshape(-1)
        width = int(kinds.max(initial=0)) + 1
        pairs, counts = np.unique(stretch * width + kinds, return_counts=True)
        total = np.bincount(stretch, minlength=len(self.beats)).astype(np.float64)
        logs = np.bincount(pairs // width, counts * np.log2(counts), len(self.beats))
        safe = np.maximum(total, 1.0)
        return Ordering(np.maximum(np.log2(safe) - logs / safe, 0.0), total)


MEASURES: dict[str, Callable[[Music], Ordering]] = {
    "note_density": Music.note_density,
    "polyphony": Music.polyphony,
    "pitch_class_entropy": Music.pitch_class_entropy,
    "rhythmic_variety": Music.rhythmic_variety,
    "voices": Music.voices,
}


def measure_stretches(
    names: Sequence[str],
    store: TokenStore,
    pieces: NDArray[np.int64],
    stretches: Stretches,
    tokenizer: Tokenizer,
    notes_of: Callable[[str], Notes],
) -> dict[str, Ordering]:
    """The named ones of ``MEASURES`` for some pieces of a store; of the others nothing is known.

    Args:
        names: of the measures.
        store: where the tokens are.
        pieces: numbers of the pieces.
        stretches: of the store.
        tokenizer: the one the tokens were made with.
        notes_of: the notes of the piece of a name, as the corpus has them.
    """
    columns = {name: (np.zeros(len(stretches)), np.zeros(len(stretches))) for name in names}
    begins_note = np.isin(kinds_of(tokenizer), ("Pitch", "PitchDrum"))
    for some in np.array_split(pieces, -(-len(pieces) // AT_ONCE)) if len(pieces) else ():
        where = np.concatenate([np.arange(stretches.counts[piece]) + stretches.first[piece] for piece in some])
        music = _side_by_side(_cut(store, piece, stretches.size, tokenizer, begins_note, notes_of) for piece in some.tolist())
        for name, (value, weight) in columns.items():
            measured = MEASURES[name](music)
            value[where], weight[where] = measured.value, measured.weight
    return {name: Ordering(*each) for name, each in columns.items()}


def _cut(
    store: TokenStore, piece: int, size: int, tokenizer: Tokenizer, begins_note: NDArray[np.bool_], notes_of: Callable[[str], Notes]
) -> tuple[Notes, Floats]:
    notes = notes_of(store.names[piece])
    return notes, beats_of_cuts(notes, store.piece(piece), size, tokenizer, begins_note)


def beats_of_cuts(notes: Notes, tokens: TokenIds, size: int, tokenizer: Tokenizer, begins_note: NDArray[np.bool_]) -> Floats:
    """The beats at which a piece is cut when its tokens are cut every ``size``, from 0 to its end, (stretches + 1,)."""
    cuts = np.minimum(np.arange(0, len(tokens) + size, size), len(tokens))
    begun = np.concatenate([[0], np.cumsum(begins_note[np.minimum(tokens, len(begins_note) - 1)])])
    if begun[-1]:
        # What the tokenizer has dropped or joined is spread over the piece.
        first = np.ceil(begun[cuts] / begun[-1] * len(notes) - 1e-6).astype(np.int64)
        beats = np.append(notes.onset, notes.end)[first]
    else:
        body = max(1, len(tokens) - len(tokenizer.begin) - len(tokenizer.end))
        beats = np.clip((cuts - len(tokenizer.begin)) / body, 0.0, 1.0) * notes.end
    beats[0], beats[-1] = 0.0, notes.end
    return beats


def _side_by_side(pieces: Iterable[tuple[Notes, Floats]]) -> Music:
    """Pieces with their cuts, one after the other."""
    parts: list[Music] = []
    stretch = track = 0
    for notes, edges in pieces:
        parts.append(_music(notes, edges, stretch, track))
        stretch, track = stretch + len(edges) - 1, track + int(notes.track.max(initial=0)) + 1
    return _joined(parts)


def _music(notes: Notes, edges: Floats, stretch: int, track: int) -> Music:
    onset, end = notes.onset, notes.onset + notes.duration
    pitched = ~notes.drum
    latest = np.maximum.accumulate(end[pitched])
    starts = np.flatnonzero(np.append(True, onset[pitched][1:] > latest[:-1])) if len(latest) else np.zeros(0, np.int64)
    anything = onset[pitched][starts], np.append(latest[starts[1:] - 1], latest[-1:])
    spans = [Spans.within(edges, *each) for each in ((onset, end), (onset[pitched], end[pitched]), anything)]
    every, of_pitches, of_anything = (Spans(each.begin, each.end, each.first + stretch, each.last + stretch) for each in spans)
    return Music(edges[:-1], edges[1:], every, notes.pitch, notes.track + track, notes.drum, of_pitches, of_anything)


def _joined(parts: Sequence[Music]) -> Music:
    def column(name: str) -> NDArray[np.int64]:
        return np.concatenate([getattr(part, name) for part in parts])

    def spans(name: str) -> Spans:
        return Spans(*(np.concatenate([getattr(getattr(part, name), each.name) for part in parts]) for each in fields(Spans)))

    return Music(**{each.name: (spans if each.type == "Spans" else column)(each.name) for each in fields(Music)})  # type: ignore[arg-type]
