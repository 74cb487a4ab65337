"""Corpora joined by + are one corpus: each with its own pieces and splits, and no tune trained on that another is measured on."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musictrain.data.corpora import Corpus, CorpusError, load_corpus
from musictrain.data.mixed_corpora import check_one_of, corpora_named, mixed, pieces_of_corpora
from tests.data.hand_made import corpus_of, store_of, wandering


def frames(path: Path, seed: int, **splits: int) -> Path:
    """A file of four-part frames that wander; equal seeds give equal pieces."""
    chance = np.random.default_rng(seed)

    def piece() -> list[list[int]]:
        walk = np.cumsum(chance.integers(-2, 3, (40, 4)), axis=0)
        return (np.clip(walk, -8, 8) + np.array([72, 66, 60, 50])).tolist()

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({split: [piece() for _ in range(count)] for split, count in splits.items()}), encoding="utf-8")
    return path


def load(name: object, tmp_path: Path) -> Corpus:
    return load_corpus(str(name), cache_dir=tmp_path / "cache", workers=0, progress=False)


def test_every_piece_keeps_its_notes_and_its_split(tmp_path: Path) -> None:
    paths = [frames(tmp_path / f"{name}.json", seed, train=4, valid=2, test=1) for seed, name in enumerate(("one", "two"))]
    both = load(f"{paths[0]}+{paths[1]}", tmp_path)
    assert (both.name, list(both.corpora)) == ("one+two", ["one", "two"])
    each = [(label, piece) for label, path in zip(both.corpora, paths, strict=True) for piece in load(path, tmp_path).pieces]
    assert [(piece.name, piece.split) for piece in both.pieces] == [(f"{label}/{piece.name}", piece.split) for label, piece in each]
    assert all(piece.notes.same_notes(own.notes) for piece, (_, own) in zip(both.pieces, each, strict=True))
    assert pickle.loads(pickle.dumps(both.pieces[3])).notes.same_notes(both.pieces[3].notes)


def test_a_tune_that_one_is_measured_on_is_trained_on_in_none(tmp_path: Path) -> None:
    tunes = [wandering(seed, 40, 1) for seed in range(6)]
    one = corpus_of({f"a{number}": tune for number, tune in enumerate(tunes[:4])}, {"a3": "valid"}, name="one")
    other = corpus_of({"b0": tunes[3].transposed(-5), "b1": tunes[4], "b2": tunes[0].transposed(2)}, {"b2": "test"}, name="two")
    for _ in range(2):  # made, and found again
        both = mixed([one, other], tmp_path)
        assert [piece.name for piece in both.split("train")] == ["one/a1", "one/a2", "two/b1"]
        assert [piece.name for piece in both.pieces if piece.split != "train"] == ["one/a3", "two/b2"]
        assert sorted(both.rejected) == [
            ("one/a0", "is a setting of two/b2, which is kept for test"),
            ("two/b0", "is a setting of one/a3, which is kept for valid"),
        ]
    assert len(list(tmp_path.glob("tunes-*.json"))) == 1


def test_what_is_kept_of_shared_tunes_may_be_damaged(tmp_path: Path) -> None:
    one, other = corpus_of({"a": wandering(0, 40, 1)}, name="one"), corpus_of({"b": wandering(0, 40, 1)}, {"b": "valid"}, name="two")
    before = mixed([one, other], tmp_path)
    [path] = tmp_path.glob("tunes-*.json")
    for damage in ("", "{}", "[0, 7]", "[0]", "null"):
        path.write_text(damage, encoding="utf-8")
        assert mixed([one, other], tmp_path).fingerprint == before.fingerprint
        assert [piece.name for piece in mixed([one, other], tmp_path).pieces] == ["two/b"]


def test_the_fingerprint_is_of_all_and_of_their_order(tmp_path: Path) -> None:
    paths = [frames(tmp_path / f"{name}.json", seed, train=3, valid=1) for seed, name in enumerate(("one", "two", "three"))]
    names = [f"{paths[0]}+{paths[1]}", f"{paths[1]}+{paths[0]}", f"{paths[0]}+{paths[2]}", str(paths[0])]
    assert len({load(name, tmp_path).fingerprint for name in names}) == 4
    assert load(names[0], tmp_path).fingerprint == load(names[0], tmp_path).fingerprint


def test_two_corpora_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [frames(tmp_path / folder / "same.json", seed, train=2, valid=1) for seed, folder in enumerate("ab")]
    both = load(f"{paths[0]} + {paths[1]}", tmp_path)
    assert list(both.corpora) == ["same", "same (2)"]
    store = store_of(both, tmp_path / "tokens")
    numbers = pieces_of_corpora(store, both.corpora)
    assert {label: len(each) for label, each in numbers.items()} == {"same": 3, "same (2)": 3}
    assert sorted(np.concatenate(list(numbers.values())).tolist()) == list(range(6))


def test_a_path_with_a_plus_in_it_is_one_corpus(tmp_path: Path) -> None:
    path = frames(tmp_path / "this+that.json", 0, train=3, valid=1)
    corpus = load(path, tmp_path)
    assert (corpus.name, list(corpus.corpora)) == ("this+that", [])
    assert corpora_named("chorales") == ["chorales"]


@pytest.mark.parametrize("name", ["chorales+", "+chorales", "chorales++ryans", "ryans+chorales+ryans"])
def test_empty_and_repeated_parts_are_refused(name: str) -> None:
    with pytest.raises(CorpusError, match=r"has an empty or a repeated part, expected different ones joined by \+"):
        corpora_named(name)


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"is called 'choralse'.*Did you mean 'chorales'"):
        load(f"{frames(tmp_path / 'one.json', 0, train=2, valid=1)}+choralse", tmp_path)


@pytest.mark.parametrize(("name", "known"), [("folk", ["folk", "bach"]), ("made by hand", []), (None, [])])
def test_what_is_measured_on_is_one_of_them(name: Any, known: list[str]) -> None:
    check_one_of(name, Corpus("made by hand", [], corpora=known))
    with pytest.raises(ValueError, match=r"valid_corpus='bahc', expected one of"):
        check_one_of("bahc", Corpus("made by hand", [], corpora=known))
