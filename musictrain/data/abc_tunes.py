"""ABC tunes to notes, through the abc2midi that symusic brings along.

Conventions: a file may hold many tunes, each from its ``X:`` line on; L:, M:, I:, U: and m: lines before the first tune hold for all.
Repeats are played. Grace notes, chord symbols ("Am"), fermatas and the accents abc2midi invents are left out: what remains is what is
written.
A pickup bar is written down as a short first bar, as in ``notation``.

symusic's own ABC reader is not used: it takes one tune of a file, silently, lets abc2midi print, and plays chord symbols as notes.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from symusic.core import ScoreTick  # importing symusic sets SYMUSIC_ABC2MIDI

from musictrain.data.midi import notes_from_score
from musictrain.data.pickup import with_pickup
from musictrain.notes import Notes

SECONDS_PER_TUNE = 20.0
FIELDS_FOR_ALL_TUNES = "LMIUm"
FIRST_BAR = re.compile(r"[\s|:\[\]]*(?:\[[A-Za-z]:[^\]]*\][\s|:]*)*([^|]+)\|")


@dataclass(frozen=True)
class Tune:
    """One tune of an ABC file: its X: number, its first T: title ("" if it has none) and its text, header included."""

    number: str
    title: str
    text: str


def split_tunes(text: str) -> list[Tune]:
    """The tunes of an ABC file in order; an empty list if it has no ``X:`` line.

    >>> [tune.title for tune in split_tunes("X:1\\nT:One\\nK:C\\nC4|\\n\\nX:2\\nT:Two\\nK:G\\nG4|\\n")]
    ['One', 'Two']
    """
    before, *tunes = re.split(r"^(?=X:)", text, flags=re.MULTILINE)
    shared = [line for line in before.splitlines() if re.match(rf"[{FIELDS_FOR_ALL_TUNES}]:", line)]
    return [_tune(tune, shared) for tune in tunes]


def _tune(text: str, shared: list[str]) -> Tune:
    first, *rest = text.strip().splitlines()
    title = next((line[2:].strip() for line in rest if line.startswith("T:") and line[2:].strip()), "")
    return Tune(first[2:].strip(), title, "\n".join([first, *shared, *rest]) + "\n")


def read_abc_text(path: Path) -> str:
    """The file's text: UTF-8 if it is that, else Latin-1, in which old tune books were typed."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return raw.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")


def notes_from_tune(tune: Tune) -> Notes:
    """The notes of one tune, one track for each ``V:`` voice.

    Raises:
        ValueError: if abc2midi makes no MIDI file of it, crashes or takes longer than 20 seconds.
    """
    notes = notes_from_score(_play(tune.text))
    return replace(notes, time_signatures=with_pickup(notes.time_signatures, _first_bar_beats(tune)))


def _play(text: str) -> ScoreTick:
    """What abc2midi makes of the text, as a Score whose notes start on the beat."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "tune.abc"), Path(folder, "tune.mid")
        source.write_text(_as_abc2midi_likes(text), encoding="utf-8")
        command = [os.environ["SYMUSIC_ABC2MIDI"], str(source), "-o", str(target), "-silent", "-NGUI", "-NGRA", "-NFER"]
        try:
            done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS_PER_TUNE, check=False)
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"abc2midi took longer than {SECONDS_PER_TUNE:.0f} seconds") from error
        if not target.exists():
            raise ValueError(f"abc2midi made nothing of it: {_first_complaint(done)}")
        return _on_the_beat(ScoreTick.from_midi(target.read_bytes()))


def _as_abc2midi_likes(text: str) -> str:
    """The text without invented accents, and without ``[|]``: abc2midi takes that bar line for a chord and swallows what follows."""
    first, _, rest = text.partition("\n")
    return f"{first}\n%%MIDI nobeataccents\n" + re.sub(r"\[\|\](?=\s*:?\|)", "", rest).replace("[|]", "|")


def _first_complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    complaints = [line for line in lines if "error" in line.lower()] or [f"it ended with exit status {done.returncode}"]
    return complaints[0].strip()


def _on_the_beat(score: ScoreTick) -> ScoreTick:
    """abc2midi starts every note one tick late and ends it in time: give that tick back."""
    for part in score.tracks:
        for note in part.notes:
            if note.time > 0:
                note.time -= 1
                note.duration += 1
    return score


def _first_bar_beats(tune: Tune) -> float:
    """Length of the first bar, found by playing that bar alone; 0.0 if it cannot be told."""
    header, key, body = re.split(r"^(K:.*)$", tune.text, maxsplit=1, flags=re.MULTILINE) if "\nK:" in tune.text else ("", "", "")
    first_bar = FIRST_BAR.match(re.sub(r"^(?:[A-Za-z]:.*|%.*)$", "", body, flags=re.MULTILINE))
    if first_bar is None or "\nV:" in tune.text:
        return 0.0
    try:
        return notes_from_score(_play(f"{header}{key}\n{first_bar.group(1)}|\n")).end
    except ValueError:
        return 0.0
