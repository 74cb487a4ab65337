"""MusicXML and Humdrum kern to notes, through music21.

Conventions: one part is one track, in score order. Tied notes are one note, pitches are sounding (concert) pitches, chord symbols and
grace notes are left out, repeats are read once, fermatas change nothing. A pickup bar is written down as what it is, a short first
bar (1/4, then 4/4), so that bar lines fall where the score has them. Only tempos given as a number count. Percussion becomes drum
notes where the part says which General MIDI drum it means.

music21 is used with its cache off and its messages kept silent: it never writes a file, reads a pickle or asks a question.
"""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from musictrain.data.pickup import with_pickup
from musictrain.notes import DEFAULT_VELOCITY, Notes, Tempo, TimeSignature

LARGEST_UNPACKED_BYTES = 100_000_000
Row = tuple[float, float, int, int, int, int, bool]


def notes_from_notation(path: Path) -> Notes:
    """The notes of a .mxl, .musicxml, .xml or .krn file.

    Raises:
        Exception: whatever music21 raises on a broken file; ``scores.read_notes`` turns it into a ScoreError.
    """
    if path.suffix.lower() == ".mxl":
        _check_unpacked_size(path)
    with _silence():
        from music21.converter import Converter

        # Not converter.parse: even with its cache off that makes a folder in the system's temporary one.
        converter = Converter()
        converter.parseFileNoPickle(path)
        return notes_from_stream(converter.stream)


def count_parts(path: Path) -> int:
    """How many parts a .mxl, .musicxml or .xml file announces, without parsing it: a hundredth of the cost."""
    if path.suffix.lower() != ".mxl":
        return path.read_bytes().count(b"<score-part ")
    with zipfile.ZipFile(path) as archive:
        return sum(archive.read(name).count(b"<score-part ") for name in archive.namelist() if not name.startswith("META-INF"))


def _check_unpacked_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST_UNPACKED_BYTES:
        raise ValueError(f"unpacks to {size / 1e6:.0f} MB, more than the {LARGEST_UNPACKED_BYTES / 1e6:.0f} MB allowed")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def notes_from_stream(score: Any) -> Notes:
    """The notes of a parsed music21 stream: a Score, an Opus (its scores side by side) or a single Part."""
    if any(instrument.transposition is not None for instrument in score.recurse().getElementsByClass("Instrument")):
        score = score.toSoundingPitch()
    parts = list(score.recurse().getElementsByClass("Part")) or [score]
    rows = [row for track, part in enumerate(parts) for row in _part_rows(part, track)]
    onset, duration, pitch, velocity, program, tracks, drum = zip(*rows, strict=True) if rows else ((),) * 7
    columns: dict[str, Any] = {"onset": onset, "duration": duration, "pitch": pitch, "velocity": velocity}
    columns |= {"program": program, "track": tracks, "drum": drum}
    return Notes(**columns, time_signatures=_time_signatures(parts[0]), tempos=_tempos(parts))


def _elements(stream: Any, start: float = 0.0) -> Iterator[tuple[float, Any]]:
    """Every element inside measures and voices with its onset in beats: music21's own ``flatten`` takes ten times as long."""
    for element in stream:
        onset = start + float(element.offset)
        if element.isStream:
            yield from _elements(element, onset)
        else:
            yield onset, element


def _part_rows(part: Any, track: int) -> list[Row]:
    """One row per sounding note, ties joined; grace notes (no duration) and chord symbols left out."""
    program, drum = _program(part)
    rows: list[Row] = []
    tied: dict[int, int] = {}
    for onset, element in sorted(_elements(part), key=lambda pair: pair[0]):
        duration = float(element.duration.quarterLength)
        if duration <= 0 or "NotRest" not in element.classes or "Harmony" in element.classes:
            continue
        for note in element.notes if "ChordBase" in element.classes else (element,):
            pitch = _pitch(note)
            if pitch is None:
                continue
            if note.tie is not None and note.tie.type != "start" and _continues(rows, tied.get(pitch), onset):
                rows[tied[pitch]] = _prolonged(rows[tied[pitch]], duration)
            else:
                rows.append((onset, duration, pitch, _velocity(note), program, track, drum or "Unpitched" in note.classes))
                tied[pitch] = len(rows) - 1
    return rows


def _continues(rows: list[Row], index: int | None, onset: float) -> bool:
    return index is not None and abs(rows[index][0] + rows[index][1] - onset) < 1e-6


def _prolonged(row: Row, duration: float) -> Row:
    return (row[0], row[1] + duration, *row[2:])


def _pitch(note: Any) -> int | None:
    """MIDI number of a note; of a percussion note its General MIDI drum, or None where the part does not say which."""
    if "Unpitched" in note.classes:
        return getattr(note.storedInstrument, "percMapPitch", None)
    return int(note.pitch.midi)


def _velocity(note: Any) -> int:
    return note.volume.velocity or DEFAULT_VELOCITY


def _program(part: Any) -> tuple[int, bool]:
    """The part's General MIDI program, 0 if it has none, and whether it is on the drum channel."""
    instrument = part.getInstrument(returnDefault=True)
    program = instrument.midiProgram
    return (program if program is not None and 0 <= program <= 127 else 0), instrument.midiChannel == 9


def _time_signatures(part: Any) -> tuple[TimeSignature, ...]:
    found = [(onset, e.numerator, e.denominator) for onset, e in _elements(part) if "TimeSignature" in e.classes]
    signatures = tuple(TimeSignature(*signature) for signature in found)
    measures = list(part.getElementsByClass("Measure"))[:2]
    return with_pickup(signatures, float(measures[1].offset - measures[0].offset)) if len(measures) == 2 else signatures


def _tempos(parts: list[Any]) -> tuple[Tempo, ...]:
    """Tempos given as a number, for the eye or for playback alone; of two at one onset the first part's counts."""
    found: dict[float, float] = {}
    for part in parts:
        for onset, element in _elements(part):
            if "MetronomeMark" in element.classes and (element.numberSounding or (element.number and not element.numberImplicit)):
                found.setdefault(onset, round(float(element.getQuarterBPM()), 2))
    return tuple(Tempo(onset, bpm) for onset, bpm in sorted(found.items()) if bpm > 0)
