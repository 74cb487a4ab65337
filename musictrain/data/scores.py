"""A score file becomes notes, or a ScoreError that says in a few words why not.

MIDI is read by symusic, ABC by the abc2midi it brings, MusicXML and kern by music21; ``midi``, ``abc_tunes`` and ``notation`` say what
each of them keeps. What was read is then held against ``Gates``: a file may load without an error and still hold eleven million
bars or no note at all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from symusic.core import ScoreTick

from musictrain.data.abc_tunes import notes_from_tune, read_abc_text, split_tunes
from musictrain.data.midi import notes_from_score, score_from_notes, write_midi
from musictrain.notes import Notes

__all__ = [
    "SCORE_SUFFIXES",
    "Gates",
    "ScoreError",
    "notes_from_score",
    "read_notes",
    "read_pieces",
    "score_from_notes",
    "write_midi",
]

MIDI_SUFFIXES = (".mid", ".midi")
NOTATION_SUFFIXES = (".mxl", ".musicxml", ".xml", ".krn")
SCORE_SUFFIXES = (*MIDI_SUFFIXES, ".abc", *NOTATION_SUFFIXES)


class ScoreError(ValueError):
    """A score file that cannot be used.

    Attributes:
        path: the file, or the file and the tune in it.
        reason: why, in a few words.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Gates:
    """What a file must keep to, so that no single one stalls or bloats whatever comes after.

    Args:
        most_bytes: size of the file.
        fewest_notes: notes in it.
        most_notes: notes in it.
        most_beats: beats from the start to the end of the last note; 40,000 is ten thousand bars of 4/4.
        most_at_once: notes that start at one moment.
    """

    most_bytes: int = 20_000_000
    fewest_notes: int = 1
    most_notes: int = 1_000_000
    most_beats: float = 40_000.0
    most_at_once: int = 256

    def check_size(self, size: int) -> None:
        """Refuse a file by its size in bytes, with a ValueError that says why."""
        if size == 0:
            raise ValueError("the file is empty (0 bytes)")
        if size > self.most_bytes:
            raise ValueError(f"{size / 1e6:.0f} MB, more than the {self.most_bytes / 1e6:.0f} MB allowed")

    def check_notes(self, notes: Notes) -> None:
        """Refuse notes that no music holds, with a ValueError that says why."""
        if len(notes) < self.fewest_notes:
            raise ValueError(f"{len(notes)} notes, expected at least {self.fewest_notes}" if len(notes) else "no notes in it")
        if len(notes) > self.most_notes:
            raise ValueError(f"{len(notes)} notes, more than the {self.most_notes} allowed")
        if notes.onset[0] < 0:
            raise ValueError("its times overflow: a note would start before the piece does")
        if notes.end > self.most_beats:
            raise ValueError(f"lasts {notes.end:.0f} beats, more than the {self.most_beats:.0f} allowed")
        if notes.pitch.min() < 0 or notes.pitch.max() > 127:
            raise ValueError(f"pitches from {notes.pitch.min()} to {notes.pitch.max()}, MIDI numbers are 0 to 127")
        at_once = int(np.unique(notes.onset, return_counts=True)[1].max())
        if at_once > self.most_at_once:
            raise ValueError(f"{at_once} notes start at one moment, more than the {self.most_at_once} allowed")


def read_notes(path: str | Path, *, gates: Gates | None = None) -> Notes:
    """The notes of one score file: .mid .midi .abc (one tune) .mxl .musicxml .xml .krn.

    Raises:
        ScoreError: for whatever is wrong with the file: not there, not readable, not of its kind, broken, or outside the gates.
            Nothing else leaves this function for a bad file.
    """
    pieces, rejected = read_pieces(path, gates=gates)
    if len(pieces) + len(rejected) > 1:
        raise ScoreError(path, f"{len(pieces) + len(rejected)} tunes in it, expected one: read_pieces reads them all")
    if rejected:
        raise ScoreError(*rejected[0])
    return pieces[0][1]


Pieces = list[tuple[str, Notes]]
Rejected = list[tuple[str, str]]


def read_pieces(path: str | Path, *, gates: Gates | None = None) -> tuple[Pieces, Rejected]:
    """Every piece of a score file as (title, notes), and what was rejected as (where, reason); an ABC file may hold many tunes.

    Only ABC has titles; the title is empty elsewhere. A file that is bad as a whole gives no piece and one rejection.
    """
    path, gates = Path(path), gates or Gates()
    try:
        _check_file(path, gates)
        if path.suffix.lower() == ".abc":
            return _read_tunes(path, gates)
        notes = _reader(path)()
        gates.check_notes(notes)
    # Parsers raise whatever they like on broken input (KeyError, RecursionError, zlib.error): each of them means a bad file.
    except Exception as error:
        return [], [(str(path), _reason(error))]
    return [("", notes)], []


def _check_file(path: Path, gates: Gates) -> None:
    if path.suffix.lower() not in SCORE_SUFFIXES:
        raise ValueError(f"{path.suffix or 'no suffix'!r} is not a score file's: expected one of {' '.join(SCORE_SUFFIXES)}")
    if not path.exists():
        raise ValueError("no such file")
    if not path.is_file():
        raise ValueError("a folder, expected a file" if path.is_dir() else "not an ordinary file")
    gates.check_size(path.stat().st_size)


def _reader(path: Path) -> Callable[[], Notes]:
    if path.suffix.lower() in MIDI_SUFFIXES:
        return functools.partial(_read_midi, path)
    # Imported here: music21 costs most of a second, and most folders are MIDI.
    from musictrain.data.notation import notes_from_notation

    return functools.partial(notes_from_notation, path)


def _read_midi(path: Path) -> Notes:
    data = path.read_bytes()
    if data[:4] not in (b"MThd", b"RIFF"):
        raise ValueError("not a MIDI file: it does not begin with MThd")
    return notes_from_score(ScoreTick.from_midi(data))


def _read_tunes(path: Path, gates: Gates) -> tuple[Pieces, Rejected]:
    tunes = split_tunes(read_abc_text(path))
    if not tunes:
        raise ValueError("no tune in it: an ABC tune starts with an X: line")
    pieces: Pieces = []
    rejected: Rejected = []
    for tune in tunes:
        try:
            notes = notes_from_tune(tune)
            gates.check_notes(notes)
            pieces.append((tune.title, notes))
        except Exception as error:
            where = f"{path}, X:{tune.number} {tune.title}".rstrip() if len(tunes) > 1 else str(path)
            rejected.append((where, _reason(error)))
    return pieces, rejected


# What symusic says, and what it means.
PLAIN_REASONS = (
    (r"Invalid chunk length|Unexpected EOF|File size is less", "the file ends too early: it is cut off or damaged"),
    (r"Division type", "its times are in film frames (SMPTE), not in beats"),
    (r"Get (\w+)=(-?\d+)", r"damaged: it holds a \1 of \2, which MIDI does not have"),
    (r"MiniMidi: (.*?)[.!]?(?:: iostream error)?$", r"not readable as MIDI: \1"),
    (r"File is not a zip file", "not a .mxl file: those are zip archives"),
    (r"Cannot parse MusicXML files not in score-partwise.*", "not a MusicXML score (score-partwise)"),
    (r"(.*): line (\d+), column \d+", r"broken XML: \1 in line \2"),
)


def _reason(error: Exception) -> str:
    """One line a musician can read."""
    if isinstance(error, PermissionError):
        return "may not be read: permission denied"
    text = " ".join(str(error).split()) or type(error).__name__
    for pattern, reason in PLAIN_REASONS:
        if found := re.search(pattern, text):
            return found.expand(reason)
    text = text if isinstance(error, ValueError) else f"cannot be read ({text})"
    return text if len(text) <= 200 else text[:199] + "…"
