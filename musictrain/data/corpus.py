"""What a corpus is to everyone who uses one: pieces with their notes, their group and their split."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from musictrain.data.splits import SPLITS
from musictrain.notes import Notes
from musictrain.suggestions import did_you_mean


class CorpusError(ValueError):
    """A corpus that cannot be had: no such name or folder, or nothing in it that can be read."""


class Piece:
    """One piece of a corpus.

    Args:
        name: unique in its corpus, such as ``bwv10.7``.
        source: the file it was read from, relative to the corpus.
        notes: its notes, or where to get them; a stored corpus reads them from disk each time they are asked for.
        group: the name of the first piece of its group: copies, transposed twins and settings of one tune share it.
        split: train, valid or test.
    """

    def __init__(self, name: str, source: str, notes: Notes | Callable[[], Notes], group: str = "", split: str = "train") -> None:
        self.name, self.source, self.group, self.split = name, source, group or name, split
        self._notes = notes

    @property
    def notes(self) -> Notes:
        """The notes of the piece."""
        return self._notes if isinstance(self._notes, Notes) else self._notes()

    def __repr__(self) -> str:
        return f"Piece({self.name!r}, group={self.group!r}, split={self.split!r})"


@dataclass(frozen=True)
class Corpus:
    """Pieces, each in one split.

    Args:
        name: of the corpus.
        pieces: in the order of their sources.
        rejected: what could not be read or was left out, as (source, reason).
        fingerprint: sixteen hex digits that change with any note, name, group or split.
        twins: sets of pieces with the same notes but for transposition, by name.
        warnings: what its user should know, such as groups that the user's own splits divide.
        corpora: of a mixed one the corpora that its pieces' names begin with, before a slash; see ``mixed_corpora``.
    """

    name: str
    pieces: Sequence[Piece]
    rejected: Sequence[tuple[str, str]] = ()
    fingerprint: str = ""
    twins: Sequence[tuple[str, ...]] = ()
    warnings: Sequence[str] = ()
    corpora: Sequence[str] = ()

    def split(self, name: str) -> list[Piece]:
        """The pieces of the split train, valid or test.

        Raises:
            ValueError: for another name.
        """
        if name not in SPLITS:
            raise ValueError(f"No split is called {name!r}: expected one of {', '.join(SPLITS)}. {did_you_mean(name, SPLITS)}".rstrip())
        return [piece for piece in self.pieces if piece.split == name]

    def groups(self) -> dict[str, list[Piece]]:
        """The pieces of each group, under its name."""
        members: dict[str, list[Piece]] = defaultdict(list)
        for piece in self.pieces:
            members[piece.group].append(piece)
        return dict(members)
