"""ABC tunes: split, titled, played as written, without what abc2midi adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from musictrain.data.abc_tunes import notes_from_tune, read_abc_text, split_tunes
from musictrain.notes import Notes


def play(body: str, *header: str) -> Notes:
    return notes_from_tune(split_tunes("\n".join(["X:1", "T:Test", "M:4/4", "L:1/4", *header, "K:C", body, ""]))[0])


def test_a_scale_has_its_pitches_on_the_beat() -> None:
    notes = play("CDEF|GABc|")
    assert notes.pitch.tolist() == [60, 62, 64, 65, 67, 69, 71, 72]
    assert notes.onset.tolist() == list(range(8))
    assert notes.duration.tolist() == [1.0] * 8
    assert set(notes.velocity.tolist()) == {notes.velocity[0]}


def test_repeats_are_played_and_first_and_second_endings_taken() -> None:
    assert play("|:CDEF|1 G4:|2 A4|]").pitch.tolist() == [60, 62, 64, 65, 67, 60, 62, 64, 65, 69]


def test_grace_notes_and_chord_symbols_are_left_out() -> None:
    plain = play("CDEF|G4|")
    ornate = play('"Am"C{e}D"G7"EF|{fg}G4|')
    assert ornate.same_notes(plain)


def test_a_fermata_changes_no_length() -> None:
    assert play("CDEF|HG4|").same_notes(play("CDEF|G4|"))


@pytest.mark.parametrize("bar", ["[|]", "[|]|]", "[|] |]"])
def test_an_invisible_bar_line_is_a_bar_line(bar: str) -> None:
    assert play(f"CDEF{bar}\nGABc|").same_notes(play("CDEF|\nGABc|"))


def test_an_invisible_bar_line_keeps_the_repeat_behind_it() -> None:
    assert play("|:CDEF[|]:|G4|").pitch.tolist() == [60, 62, 64, 65, 60, 62, 64, 65, 67]


def test_a_pickup_is_a_short_first_bar() -> None:
    assert [tuple(signature) for signature in play("G|CDEF|G3|").time_signatures] == [(0.0, 1, 4), (1.0, 4, 4)]
    assert [tuple(signature) for signature in play("|:G/A/|CDEF|G3:|").time_signatures] == [(0.0, 1, 4), (1.0, 4, 4)]
    assert [tuple(signature) for signature in play("CDEF|G4|").time_signatures] == [(0.0, 4, 4)]


def test_the_tempo_is_in_quarter_notes() -> None:
    assert [tuple(tempo) for tempo in play("CDEF|", "Q:1/2=50").tempos] == [(0.0, 100.0)]


def test_fields_before_the_first_tune_hold_for_all() -> None:
    long, short = split_tunes("L:1/2\n\nX:1\nT:Long\nK:C\nCD|\n\nX:2\nT:Short\nL:1/8\nK:C\nCD|\n")
    assert notes_from_tune(long).duration.tolist() == [2.0, 2.0]
    assert notes_from_tune(short).duration.tolist() == [0.5, 0.5]


def test_titles_and_numbers_come_from_the_header() -> None:
    tunes = split_tunes("% a book\nX:0012\nT:The Peeler's\nT:Another name\nK:C\nC|\nX: 13\nK:C\nC|\n")
    assert [(tune.number, tune.title) for tune in tunes] == [("0012", "The Peeler's"), ("13", "")]


def test_text_without_an_x_line_holds_no_tune() -> None:
    assert split_tunes("CDEF|") == []


def test_old_books_in_latin_1_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.abc").write_bytes("X:1\r\nT:Père\r\nK:C\r\nC|\r\n".encode("latin-1"))
    assert split_tunes(read_abc_text(tmp_path / "x.abc"))[0].title == "Père"


def test_a_tune_that_makes_no_midi_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMUSIC_ABC2MIDI", "/bin/false")
    with pytest.raises(ValueError, match="abc2midi made nothing of it: it ended with exit status 1"):
        play("CDEF|")
