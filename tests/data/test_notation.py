"""MusicXML and kern: sounding pitches, ties joined, pickups and voices where the score has them; nothing written, nothing said."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from musictrain.data.notation import count_parts
from musictrain.data.scores import ScoreError, read_notes

PART = '<score-part id="P{n}"><part-name>Part {n}</part-name></score-part>'
ATTRIBUTES = "<attributes><divisions>4</divisions>{transpose}<time><beats>4</beats><beat-type>4</beat-type></time></attributes>"
# Written for a clarinet in B flat: what sounds is a whole tone lower.
TRANSPOSE = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"


def note(step: str, octave: int, duration: int, extra: str = "") -> str:
    return f"<note>{extra}<pitch><step>{step}</step><octave>{octave}</octave></pitch><duration>{duration}</duration></note>"


def musicxml(*parts: list[str], transpose: str = "") -> str:
    """A score of parts, each a list of measures' contents."""
    listed = "".join(PART.format(n=n) for n in range(len(parts)))
    written = "".join(
        f'<part id="P{n}">'
        + "".join(
            f'<measure number="{m}">{ATTRIBUTES.format(transpose=transpose) if m == 0 else ""}{bar}</measure>' for m, bar in enumerate(bars)
        )
        + "</part>"
        for n, bars in enumerate(parts)
    )
    return f'<?xml version="1.0"?><score-partwise version="3.1"><part-list>{listed}</part-list>{written}</score-partwise>'


def test_parts_are_tracks_ties_are_one_note_and_grace_notes_are_left_out(tmp_path: Path) -> None:
    tied = '<note><pitch><step>C</step><octave>5</octave></pitch><duration>{d}</duration><tie type="{t}"/></note>'
    grace = "<note><grace/><pitch><step>D</step><octave>5</octave></pitch></note>"
    upper = [note("E", 5, 12) + tied.format(d=4, t="start"), tied.format(d=8, t="stop") + grace + note("E", 5, 8)]
    lower = [note("C", 3, 16), note("C", 3, 8) + note("C", 3, 8, "") + note("G", 3, 8, "<chord/>")]
    path = tmp_path / "x.musicxml"
    path.write_text(musicxml(upper, lower))
    notes = read_notes(path)
    rows = list(zip(notes.track.tolist(), notes.onset.tolist(), notes.duration.tolist(), notes.pitch.tolist(), strict=True))
    assert sorted(rows) == [
        *[(0, 0.0, 3.0, 76), (0, 3.0, 3.0, 72), (0, 6.0, 2.0, 76)],
        *[(1, 0.0, 4.0, 48), (1, 4.0, 2.0, 48), (1, 6.0, 2.0, 48), (1, 6.0, 2.0, 55)],
    ]


def test_pitches_are_sounding_pitches(tmp_path: Path) -> None:
    path = tmp_path / "clarinet.xml"
    path.write_text(musicxml([note("D", 5, 16)], transpose=TRANSPOSE))
    assert read_notes(path).pitch.tolist() == [72]


def test_a_pickup_bar_is_a_short_first_bar(tmp_path: Path) -> None:
    path = tmp_path / "x.musicxml"
    path.write_text(musicxml([note("G", 4, 4), note("C", 5, 16), note("C", 5, 12)]))
    notes = read_notes(path)
    assert notes.onset.tolist() == [0.0, 1.0, 5.0]
    assert [tuple(signature) for signature in notes.time_signatures] == [(0.0, 1, 4), (1.0, 4, 4)]


def test_tempos_are_those_given_as_a_number(tmp_path: Path) -> None:
    mark = "<metronome><beat-unit>half</beat-unit><per-minute>50</per-minute></metronome>"
    shown = f"<direction><direction-type>{mark}</direction-type></direction>"
    played = '<direction><direction-type><words> </words></direction-type><sound tempo="90"/></direction>'
    word = "<direction><direction-type><words>Allegro</words></direction-type></direction>"
    path = tmp_path / "x.musicxml"
    path.write_text(musicxml([shown + note("C", 4, 16), played + note("C", 4, 16), word + note("C", 4, 16)]))
    assert [tuple(tempo) for tempo in read_notes(path).tempos] == [(0.0, 100.0), (4.0, 90.0)]


def test_mxl_holds_the_same_as_musicxml(tmp_path: Path) -> None:
    text = musicxml([note("C", 4, 16)], [note("C", 3, 16)])
    plain, packed = tmp_path / "x.musicxml", tmp_path / "x.mxl"
    plain.write_text(text)
    container = '<container><rootfiles><rootfile full-path="score.xml"/></rootfiles></container>'
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("score.xml", text)
    assert read_notes(packed).same_notes(read_notes(plain))
    assert count_parts(packed) == count_parts(plain) == 2


def test_kern_spines_are_tracks(tmp_path: Path) -> None:
    path = tmp_path / "x.krn"
    path.write_text("**kern\t**kern\n*M4/4\t*M4/4\n4C\t4c\n2D\t4d\n.\t4e\n*-\t*-\n")
    notes = read_notes(path)
    assert sorted(zip(notes.onset.tolist(), notes.duration.tolist(), notes.pitch.tolist(), strict=True)) == [
        *[(0.0, 1.0, 48), (0.0, 1.0, 60), (1.0, 1.0, 62), (1.0, 2.0, 50), (2.0, 1.0, 64)],
    ]
    assert len(set(notes.track.tolist())) == 2


BROKEN = {
    "page.xml": (b"<html></html>", "not a MusicXML score"),
    "cut.musicxml": (b"<?xml version='1.0'?><score-partwise><part", "broken XML"),
    "empty.musicxml": (b"<?xml version='1.0'?><score-partwise></score-partwise>", "no notes in it"),
    "text.mxl": (b"not a zip", "not a .mxl file"),
    "text.krn": (b"hello\n", "spine"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_score_is_a_score_error_with_its_reason(name: str, tmp_path: Path) -> None:
    data, reason = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ScoreError, match=reason):
        read_notes(tmp_path / name)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.mxl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("score.xml", b"0" * 2_000_000)
    monkeypatch.setattr("musictrain.data.notation.LARGEST_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(ScoreError, match="unpacks to 2 MB, more than the 1 MB allowed"):
        read_notes(tmp_path / "bomb.mxl")


def test_reading_says_nothing_and_leaves_no_file(tmp_path: Path, repository: Path) -> None:
    home, temporary, scores = tmp_path / "home", tmp_path / "tmp", tmp_path / "scores"
    for folder in (home, temporary, scores):
        folder.mkdir()
    (scores / "x.musicxml").write_text(musicxml([note("C", 4, 16)]))
    (scores / "x.krn").write_text("**kern\n4c\n*-\n")
    (scores / "x.abc").write_text("X:1\nT:x\nL:1/4\nM:3/4\nK:C\nCDEFG|\n")
    code = f"import pathlib, musictrain.data as data\nfor path in pathlib.Path({str(scores)!r}).iterdir(): data.read_notes(path)"
    # A process of its own: music21 looks for its folders once.
    environment = {**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert [*home.rglob("*"), *temporary.rglob("*")] == []
    assert (done.stdout, done.stderr) == ("", "")
