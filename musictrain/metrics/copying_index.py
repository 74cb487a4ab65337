"""An index over a training corpus that finds any passage of it again, in another key and at another place too.

What counts as the same passage: see ``copying_passages``. An index is a handful of flat arrays, sorted once; saved, it is a folder of
.npy files that are mapped into memory rather than read. It holds the notes too, so that what is found is compared note by note.

Index what the model could see: a tokenizer that merges repeated notes, as VoiceGrid does, never shows them, so that no sample of such a
model would match the scores. ``as_tokens_hold`` gives a piece as it comes out of a tokenizer.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.protocol import Tokenizer
from musictrain.listening.bars import bar_lines
from musictrain.metrics.copying_passages import Chords, chords_of, symbols_of
from musictrain.metrics.copying_suffixes import Symbols, longest_prefixes, sorted_suffixes
from musictrain.notes import Notes
from musictrain.suggestions import did_you_mean

VERSION = 1
PIECES_AT_A_TIME = 1_000
TICKS_PER_BEAT = 12


@dataclass(frozen=True, eq=False)
class CopyIndex:
    """A corpus, ready to be asked where else a passage occurs. Made by ``CopyIndex.build`` or ``CopyIndex.load``.

    Args:
        names: of the pieces.
        ticks_per_beat: of the grid that onsets and durations are rounded to.
        chords: of all pieces.
        symbols: of the steps between the chords, (chords,).
        order: the sorted suffixes of ``symbols``, (chords,).
        bar_lines: beats, of one piece after the other.
        first_line: each piece's first bar line, (pieces + 1,).
    """

    names: Sequence[str]
    ticks_per_beat: int
    chords: Chords
    symbols: Symbols
    order: NDArray[np.int64]
    bar_lines: NDArray[np.float64]
    first_line: NDArray[np.int64]

    @classmethod
    def build(cls, pieces: Iterable[tuple[str, Notes]], *, ticks_per_beat: int = TICKS_PER_BEAT) -> CopyIndex:
        """Index the pieces, each with its name; they are asked for one after the other and not kept.

        Raises:
            ValueError: if a name comes twice, or a piece has impossible times or pitches; its name is told.
        """
        if ticks_per_beat < 1:
            raise ValueError(f"ticks_per_beat is {ticks_per_beat}, but must be 1 or more: 12 holds 16ths and triplets.")
        names: list[str] = []
        parts, symbols, lines = [], [], []
        for batch in _batches(pieces):
            chords = _chords_of_named(batch, ticks_per_beat)
            symbols.append(symbols_of(chords, first_piece=len(names)))
            parts.append(chords)
            lines += [bar_lines(notes) for _, notes in batch]
            names += [name for name, _ in batch]
        if len(set(names)) < len(names):
            twice = Counter(names).most_common(1)[0][0]
            raise ValueError(f"Two pieces are called {twice!r}: give each a name of its own, by which a match is told.")
        all_symbols = np.concatenate([np.zeros(0, np.uint64), *symbols])
        first_line = np.cumsum([0, *map(len, lines)])
        order = sorted_suffixes(all_symbols)
        return cls(names, ticks_per_beat, _joined(parts), all_symbols, order, np.concatenate([np.zeros(0), *lines]), first_line)

    def __len__(self) -> int:
        return len(self.names)

    def __deepcopy__(self, memo: dict[int, Any]) -> CopyIndex:
        """Itself: it never changes, and a copied metric must not copy a corpus."""
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self._arrays().values())

    def found(self, chords: Chords, *, but_not_in: Iterable[str] = ()) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each chord of one piece: how many chords from it on stand in the corpus together, and the first of those there.

        Two arrays, (chords,). 0 where not even two successive chords occur. By the hashes of the steps; see ``longest_match`` for what is
        compared note by note.

        Raises:
            ValueError: for a name in ``but_not_in`` that is not the index's.
        """
        left_out = self._chords_of(list(but_not_in))
        steps, where = longest_prefixes(symbols_of(chords)[:-1], self.symbols, self.order, left_out)
        shared = np.where(steps > 0, steps + 1, 0)
        # The last chord has no step from it on.
        return np.append(shared, 0)[: len(chords)], np.append(where, 0)[: len(chords)]

    def piece_of(self, chord: int) -> int:
        """The number of the piece that a chord of the corpus stands in."""
        return int(np.searchsorted(self.chords.first_chord, chord, side="right")) - 1

    def lines_of(self, piece: int) -> NDArray[np.float64]:
        """The bar lines of a piece in beats."""
        return np.asarray(self.bar_lines[self.first_line[piece] : self.first_line[piece + 1]])

    def save(self, folder: str | Path) -> None:
        """Write the index as a folder that ``load`` opens. An older one there is replaced once the new one is complete.

        Raises:
            OSError: if it cannot be written.
        """
        folder = Path(folder)
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, array in self._arrays().items():
            np.save(temporary / f"{name}.npy", array)
        about = {"version": VERSION, "ticks_per_beat": self.ticks_per_beat, "names": list(self.names)}
        (temporary / "index.json").write_text(json.dumps(about), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)

    @classmethod
    def load(cls, folder: str | Path) -> CopyIndex:
        """Open what ``save`` wrote; the arrays stay on disk until they are asked for.

        Raises:
            FileNotFoundError: if there is no index.
            ValueError: if it is one of another version.
        """
        about = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
        if about["version"] != VERSION:
            raise ValueError(f"{folder} holds an index of version {about['version']}; here it is {VERSION}. Build it anew.")
        columns = {name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in (*_CHORDS, *_OTHERS)}
        chords = Chords(**{name: columns[name] for name in _CHORDS})
        return cls(about["names"], about["ticks_per_beat"], chords, **{name: columns[name] for name in _OTHERS})

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {name: getattr(self.chords, name) for name in _CHORDS} | {name: getattr(self, name) for name in _OTHERS}

    def _chords_of(self, names: list[str]) -> NDArray[np.bool_] | None:
        """Which chords stand in the pieces with these names; None for none."""
        if not names:
            return None
        mask = np.zeros(len(self.chords), bool)
        for name in names:
            if name not in self.names:
                raise ValueError(f"No piece of the index is called {name!r}. {did_you_mean(name, self.names)}".rstrip())
            number = self.names.index(name)
            mask[self.chords.first_chord[number] : self.chords.first_chord[number + 1]] = True
        return mask


_CHORDS = [field.name for field in fields(Chords)]
_OTHERS = ("symbols", "order", "bar_lines", "first_line")


def as_tokens_hold(notes: Notes, tokenizer: Tokenizer) -> Notes:
    """A piece as it comes out of a tokenizer, in its own time signatures: what a model that is trained on those tokens can copy.

    Raises:
        ValueError: if the tokenizer cannot hold the piece.
    """
    return replace(tokenizer.decode(tokenizer.encode(notes)), time_signatures=notes.time_signatures)


def _chords_of_named(batch: list[tuple[str, Notes]], ticks_per_beat: int) -> Chords:
    """The chords of some pieces; an error names the piece."""
    try:
        return chords_of([notes for _, notes in batch], ticks_per_beat)
    except ValueError:
        for name, notes in batch:
            try:
                chords_of([notes], ticks_per_beat)
            except ValueError as error:
                raise ValueError(f"{name} cannot be indexed. {error}") from error
        raise


def _batches(pieces: Iterable[tuple[str, Notes]]) -> Iterator[list[tuple[str, Notes]]]:
    remaining = iter(pieces)
    while batch := list(itertools.islice(remaining, PIECES_AT_A_TIME)):
        yield batch


def _joined(parts: Sequence[Chords]) -> Chords:
    """The chords of several parts as one."""
    num_notes = np.cumsum([0, *(len(part.pitch) for part in parts)])
    num_chords = np.cumsum([0, *(len(part) for part in parts)])
    first_note = [part.first_note[:-1] + before for part, before in zip(parts, num_notes[:-1], strict=True)]
    first_chord = [part.first_chord[:-1] + before for part, before in zip(parts, num_chords[:-1], strict=True)]
    return Chords(
        onset=np.concatenate([np.zeros(0, np.int32), *(part.onset for part in parts)]),
        first_note=np.concatenate([*first_note, num_notes[-1:]]),
        pitch=np.concatenate([np.zeros(0, np.uint8), *(part.pitch for part in parts)]),
        duration=np.concatenate([np.zeros(0, np.int32), *(part.duration for part in parts)]),
        first_chord=np.concatenate([*first_chord, num_chords[-1:]]),
    )
