"""A stored corpus gives back every note, travels to other processes for nothing, and is whole or not there."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from musictrain.data.corpus_store import CorpusWriter, StoredPiece, cache_root, open_stored
from musictrain.notes import Notes, Tempo, TimeSignature

PIECES = [
    Notes.from_rows([(0, 1 / 3, 60), (1.5, 2, 127)], velocity=[1, 127], program=[0, 127], track=[0, 700], drum=[False, True]),
    Notes.from_rows([(0.1, 1, 0)], time_signatures=[TimeSignature(0.0, 3, 4), TimeSignature(3.0, 4, 4)], tempos=[Tempo(0.0, 99.5)]),
]


def stored(target: Path, pieces: list[Notes] = PIECES) -> Path:
    with CorpusWriter(target) as writer:
        for notes in pieces:
            writer.add(notes)
        table = [StoredPiece(f"piece {number}", "x.mid", "piece 0", "", "t") for number in range(len(pieces))]
        writer.finish(table, [("y.mid", "no notes in it")])
    return target


def test_every_column_tempo_and_meter_comes_back(tmp_path: Path) -> None:
    corpus = open_stored(stored(tmp_path / "corpus"))
    assert corpus is not None
    assert all(corpus.notes[number].same_notes(notes) for number, notes in enumerate(PIECES))
    assert [piece.name for piece in corpus.pieces] == ["piece 0", "piece 1"]
    assert corpus.rejected == [("y.mid", "no notes in it")]


def test_a_store_pickles_its_place_and_not_its_notes(tmp_path: Path) -> None:
    long = Notes.from_rows([(beat, 1, 60) for beat in range(5000)])
    corpus = open_stored(stored(tmp_path / "corpus", [long]))
    assert corpus is not None
    assert corpus.notes[0].same_notes(long)
    data = pickle.dumps(corpus.notes)
    assert len(data) < 2000
    assert pickle.loads(data)[0].same_notes(long)


def test_the_content_hash_follows_the_notes(tmp_path: Path) -> None:
    def content(name: str, pieces: list[Notes]) -> str:
        corpus = open_stored(stored(tmp_path / name, pieces))
        assert corpus is not None
        return corpus.content

    one, two = Notes.from_rows([(0, 1, 60)]), Notes.from_rows([(0, 1, 61)])
    assert content("a", [one, two]) == content("b", [one, two])
    assert len({content("c", [one]), content("d", [two]), content("e", [one, two]), content("f", [two, one])}) == 4


@pytest.mark.parametrize("damage", ["corpus.json", "notes.bin"])
def test_a_damaged_store_is_none_and_is_written_anew(damage: str, tmp_path: Path) -> None:
    file = stored(tmp_path / "corpus") / damage
    file.write_bytes(file.read_bytes()[:-3])
    assert open_stored(tmp_path / "corpus") is None
    assert open_stored(stored(tmp_path / "corpus")) is not None


def test_a_store_that_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    with CorpusWriter(tmp_path / "corpus") as writer:
        writer.add(PIECES[0])
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    assert open_stored(tmp_path / "corpus") is None


def test_the_faster_of_two_writers_wins_and_the_other_clears_up(tmp_path: Path) -> None:
    with CorpusWriter(tmp_path / "corpus") as slow:
        slow.add(PIECES[0])
        stored(tmp_path / "corpus")
        slow.finish([StoredPiece("late", "x.mid", "late", "", "t")], [])
    corpus = open_stored(tmp_path / "corpus")
    assert corpus is not None
    assert corpus.pieces[0].name == "piece 0"
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_the_cache_root_is_the_argument_then_the_environment_then_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MUSICTRAIN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root() == tmp_path / "home" / ".cache" / "musictrain"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "musictrain"
    monkeypatch.setenv("MUSICTRAIN_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    assert cache_root(tmp_path / "asked") == tmp_path / "asked"
