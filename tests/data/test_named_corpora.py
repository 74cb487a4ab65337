"""The corpora of music21's wheel: as many pieces as there are, four ordered voices, groups that keep hymn tunes together."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from musictrain.data.corpora import Corpus, load_corpus
from musictrain.data.sources import NAMED, named_sources
from musictrain.data.tune_groups import tune_groups, tune_windows, twin_key

pytestmark = pytest.mark.corpus


@pytest.fixture(scope="module")
def chorales() -> Corpus:
    return load_corpus("chorales", progress=False)


def test_the_wheel_holds_the_files_of_every_named_corpus() -> None:
    assert {name: len(named_sources(name)) for name in NAMED} == {"chorales": 410, "ryans": 1059, "oneills": 39, "airds": 6}
    assert not any(source.path.endswith(".krn") for source in named_sources("chorales"))


def test_there_are_365_chorales_of_four_voices_from_high_to_low(chorales: Corpus) -> None:
    assert len(chorales.pieces) == 365
    assert len(chorales.rejected) == 45
    assert all(reason.startswith("number of parts is ") for _, reason in chorales.rejected)
    for piece in chorales.pieces:
        notes = piece.notes
        means = [notes.pitch[notes.track == voice].mean() for voice in range(4)]
        assert sorted(set(notes.track.tolist())) == [0, 1, 2, 3], piece.name
        assert means == sorted(means, reverse=True), piece.name
        assert notes.onset[0] <= 1.0, piece.name  # Four of them write the rest before the pickup.
        assert not notes.drum.any()


def test_a_chorale_is_what_the_score_says(chorales: Corpus) -> None:
    first = next(piece for piece in chorales.pieces if piece.name == "bwv269").notes
    opening = first.between(0.0, 1.0)
    assert opening.pitch.tolist() == [67, 62, 59, 43]  # G4 D4 B3 G2: the pickup of "Aus meines Herzens Grunde"
    assert [tuple(signature) for signature in first.time_signatures[:2]] == [(0.0, 1, 4), (1.0, 3, 4)]


def test_music21_itself_reads_the_same_notes(chorales: Corpus) -> None:
    from music21 import converter

    for piece in chorales.pieces[::90]:
        source = next(source for source in named_sources("chorales") if source.shown == piece.source)
        score = converter.parse(source.path, forceSource=True, storePickle=False)
        for track, part in enumerate(score.parts):
            expected = [
                (float(e.offset), float(e.quarterLength), e.pitch.midi) for e in part.flatten().stripTies().notes if not e.duration.isGrace
            ]
            voice = piece.notes.select(piece.notes.track == track)
            assert list(zip(voice.onset.tolist(), voice.duration.tolist(), voice.pitch.tolist(), strict=True)) == expected


def test_settings_of_one_hymn_tune_are_one_group_and_in_one_split(chorales: Corpus) -> None:
    tunes = {
        "Herzlich tut mich verlangen": ["bwv135.6", "bwv244.15", "bwv244.54", "bwv270", "bwv271"],
        "Nun ruhen alle Wälder": ["bwv13.6", "bwv244.10", "bwv392", "bwv395", "bwv44.7"],
        "Jesu, meine Freude": ["bwv227.1", "bwv227.7", "bwv358", "bwv64.8", "bwv81.7"],
        "Vater unser im Himmelreich": ["bwv101.7", "bwv245.5", "bwv416", "bwv90.5"],
        "Christ lag in Todesbanden": ["bwv158.4", "bwv277", "bwv278", "bwv4.8"],
    }
    group = {piece.name: piece.group for piece in chorales.pieces}
    for tune, names in tunes.items():
        assert len({group[name] for name in names}) == 1, tune
    assert len({group[names[0]] for names in tunes.values()}) == len(tunes)
    sizes = Counter(group.values())
    assert len(sizes) == 210
    assert max(sizes.values()) == 11
    assert len({(piece.group, piece.split) for piece in chorales.pieces}) == len(sizes)
    assert [len(chorales.split(split)) for split in ("train", "valid", "test")] == [291, 37, 37]


def test_groups_do_not_depend_on_key_or_order(chorales: Corpus) -> None:
    generator = np.random.default_rng(0)
    pieces = [chorales.pieces[number] for number in generator.permutation(365)]
    notes = [piece.notes.transposed(int(generator.integers(-5, 6))) for piece in pieces]
    numbers = tune_groups([tune_windows(each) for each in notes], [twin_key(each) for each in notes])
    assert {(piece.group, number) for piece, number in zip(pieces, numbers, strict=True)} == {
        (group, number) for group, number in {piece.group: number for piece, number in zip(pieces, numbers, strict=True)}.items()
    }
    assert len(set(numbers)) == 210


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tunes", "most_in_a_group"), [("ryans", 1059, 4), ("oneills", 2009, 4), ("airds", 1180, 3)])
def test_the_tune_books_hold_all_their_tunes_and_no_formula_glues_them(name: str, tunes: int, most_in_a_group: int) -> None:
    corpus = load_corpus(name, progress=False)
    assert len(corpus.pieces) == tunes
    assert corpus.rejected == []
    assert max(Counter(piece.group for piece in corpus.pieces).values()) == most_in_a_group
    assert all(set(piece.notes.track.tolist()) <= {0, 1, 2} for piece in corpus.pieces)


@pytest.mark.parametrize(("folder", "pieces", "groups"), [("js_fakes", 100, 99), ("pop909", 60, 60)])
def test_other_peoples_midi_is_read_whole(folder: str, pieces: int, groups: int, repository: Path, tmp_path: Path) -> None:
    data = Path(os.environ.get("MUSICTRAIN_TEST_DATA", repository.parent / "shared" / "data"), "midi", folder)
    if not data.is_dir():
        pytest.skip(f"needs the folder midi/{folder} in $MUSICTRAIN_TEST_DATA or {data.parent.parent}")
    corpus = load_corpus(data, cache_dir=tmp_path, progress=False)
    assert (len(corpus.pieces), len(corpus.groups()), corpus.rejected) == (pieces, groups, [])
