"""The data report counts what is there, in a page for people and in JSON for programs."""

from __future__ import annotations

import json
from pathlib import Path

from musictrain.data.corpora import Corpus, Piece
from musictrain.data.data_report import MOST_ROWS, describe_corpus, write_data_report
from musictrain.notes import Notes, TimeSignature

TWO_NOTES = Notes.from_rows([(0, 1, 60), (1, 2.5, 70)], time_signatures=[TimeSignature(0.0, 1, 4), TimeSignature(1.0, 3, 4)])
WITH_DRUM = Notes.from_rows([(0, 1, 36), (0, 2, 48)], drum=[True, False])
CORPUS = Corpus(
    "my *scores*",
    [
        Piece("a|b", "a.mid", TWO_NOTES, "a|b", "train"),
        Piece("c", "c.mid", TWO_NOTES, "a|b", "valid"),
        Piece("d", "d.mid", WITH_DRUM, "d", "train"),
    ],
    rejected=[("x_1.mid", "no notes in it")],
    fingerprint="0123456789abcdef",
    twins=[("a|b", "c")],
    warnings=["1 of 2 groups stand in more than one of the given splits"],
)


def test_the_counts_are_those_of_the_notes() -> None:
    splits = describe_corpus(CORPUS)["splits"]
    assert splits["train"] == {
        **{"pieces": 2, "groups": 2, "notes": 4, "beats": 5.5},
        **{"lowest_pitch": 48, "highest_pitch": 70, "meters": {"3/4": 1, "4/4": 1}},
    }
    assert splits["valid"]["notes"] == 2
    assert splits["test"] == {
        **dict.fromkeys(["pieces", "groups", "notes", "beats"], 0),
        "lowest_pitch": None,
        "highest_pitch": None,
        "meters": {},
    }


def test_the_json_is_complete_and_the_page_says_the_same(tmp_path: Path) -> None:
    page = write_data_report(CORPUS, tmp_path / "run").read_text()
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert report == describe_corpus(CORPUS)
    assert report["groups"] == {"a|b": ["a|b", "c"], "d": ["d"]}
    assert report["divided_groups"] == ["a|b"]
    assert report["rejected"] == [{"source": "x_1.mid", "reason": "no notes in it"}]
    assert "| train | 2 | 2 | 4 | 6 | C3 to Bb4 | 3/4 (1), 4/4 (1) |" in page
    assert "- 2: a\\|b, c (**in more than one split**)" in page
    assert "- x\\_1.mid: no notes in it" in page
    assert "- 1 of 2 groups stand in more than one of the given splits" in page


def test_the_page_stays_short_and_says_how_much_is_left(tmp_path: Path) -> None:
    rejected = [(f"{number}.mid", "no notes in it") for number in range(MOST_ROWS + 7)]
    page = write_data_report(Corpus("x", CORPUS.pieces, rejected), tmp_path).read_text()
    assert f"## Rejected: {MOST_ROWS + 7}" in page
    assert page.count("no notes in it") == MOST_ROWS
    assert "and 7 more, in data_report.json" in page


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    corpus = Corpus("x", [Piece("a", "a.mid", TWO_NOTES)], rejected=[("<script>\n# x.mid", "no notes in it")])
    page = write_data_report(corpus, tmp_path).read_text()
    assert "<script>" not in page.replace("\\<script\\>", "")
    assert "- \\<script\\> \\# x.mid: no notes in it" in page
