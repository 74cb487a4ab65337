"""A corpus measured once says what its metrics say, and says it again out of the cache."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from musictrain.data.corpus import Corpus, Piece
from musictrain.data.token_store_building import open_or_build
from musictrain.metrics import as_tokens_hold, bands, corpus_copy_rate, longest_match
from musictrain.metrics.chorale_rules import RULES
from musictrain.sampling import corpus_reference
from musictrain.sampling.corpus_reference import CorpusReference, reference_of, usual_longest
from tests.sampling.tiny_corpus import TOKENIZER, TinyCorpus, chorale, piece


def build(corpus: Any, **options: Any) -> CorpusReference:
    settings = {"beats": 16.0, "copy_bars": 1, **options}
    return CorpusReference.build(corpus, TOKENIZER, **settings)


def test_it_says_what_the_metrics_say_of_the_validation_pieces() -> None:
    corpus, reference = TinyCorpus(), build(TinyCorpus())
    held = [as_tokens_hold(each.notes, TOKENIZER) for each in corpus.split("valid")]
    assert reference.bands == bands(held, means_of=16)
    assert reference.copy_rate == corpus_copy_rate(held, reference.index, bars=1)
    assert (reference.num_pieces, len(reference.features), reference.is_four_part) == (5, 5, True)
    assert list(reference.index.names) == [f"bwv{seed}" for seed in range(8)]
    longest = [match.bars for notes in held if (match := longest_match(notes, reference.index))]
    assert reference.longest_bars == max(longest, default=0.0) < 1


def test_a_token_store_saves_encoding_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = TinyCorpus()
    pieces = [Piece(each.name, each.name, each.notes, split=split) for split in ("train", "valid") for each in tiny.split(split)]
    corpus = Corpus("x", [*pieces, Piece("high", "high", chorale(9).transposed(40), split="valid")], fingerprint="0" * 16)
    store = open_or_build(corpus, TOKENIZER, tmp_path, workers=0, progress=False)
    encoded = build(corpus)
    monkeypatch.setattr(type(TOKENIZER), "encode", lambda *_: pytest.fail("encoded again"))
    stored = build(corpus, store=store)
    for name in ("bands", "copy_rate", "longest_bars", "num_pieces"):
        assert getattr(stored, name) == getattr(encoded, name)
    assert np.array_equal(stored.index.chords.pitch, encoded.index.chords.pitch)
    assert np.array_equal(stored.index.order, encoded.index.order)


def test_only_the_first_beats_are_measured() -> None:
    corpus = TinyCorpus()
    corpus.pieces["valid"] = [piece("a", chorale(3).between(0, 8)), piece("b", chorale(4).between(0, 12))]
    assert build(corpus, beats=4.0).bands["notes_per_bar"] == (16.0, 16.0)
    assert build(corpus, beats=4.0).longest_bars == 1.0
    assert build(corpus, beats=8.0).longest_bars == 2.0


def test_a_piece_that_stands_in_the_training_set_does_not_say_what_is_usual() -> None:
    corpus = TinyCorpus()
    corpus.pieces["valid"].append(piece("twin", corpus.pieces["train"][3].notes.transposed(2)))
    assert build(corpus).longest_bars < 1
    assert usual_longest([1.0, 1.0, 1.0, 1.0]) == 1.0
    assert usual_longest([0.0, 1.0, 2.0, 3.0]) == 3.0


def test_rules_of_fewer_pieces_have_wider_bands() -> None:
    reference = build(TinyCorpus())
    few, many = reference.rule_bands(2), reference.rule_bands(50)
    assert list(few) == list(RULES)
    width = {rule: (few[rule][1] - few[rule][0], many[rule][1] - many[rule][0]) for rule in RULES}
    assert all(wide >= narrow for wide, narrow in width.values())
    assert any(wide > narrow for wide, narrow in width.values())


def test_a_corpus_that_is_not_four_part_has_no_rules() -> None:
    corpus = TinyCorpus()
    soprano = [each.notes.select(each.notes.track == 0) for each in corpus.pieces["valid"]]
    corpus.pieces["valid"] = [piece(str(at), notes) for at, notes in enumerate(soprano)]
    reference = build(corpus)
    assert not reference.is_four_part
    assert not set(RULES) & set(reference.shown_bands(4))


@pytest.mark.parametrize(("split", "what"), [("train", "training"), ("valid", "validation")])
def test_a_corpus_without_pieces_is_refused(split: str, what: str) -> None:
    corpus = TinyCorpus()
    corpus.pieces[split] = []
    with pytest.raises(ValueError, match=f"no {what} piece that .* can hold"):
        build(corpus)


def test_it_is_the_same_again_from_its_folder(tmp_path: Path) -> None:
    made = build(TinyCorpus())
    made.save(tmp_path / "kept")
    again = CorpusReference.load(tmp_path / "kept")
    made.save(tmp_path / "kept")
    for name in ("beats", "copy_bars", "num_pieces", "bands", "copy_rate", "longest_bars"):
        assert getattr(again, name) == getattr(made, name)
    assert np.array_equal(again.features, made.features)
    assert np.array_equal(again.rule_counts, made.rule_counts)
    copied = chorale(2)
    assert longest_match(copied, again.index) == longest_match(copied, made.index)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_second_run_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule = SimpleNamespace(corpus=TinyCorpus(), store=SimpleNamespace(fingerprint="abc"), cache_dir=str(tmp_path))
    first = reference_of(datamodule, TOKENIZER, beats=8.0, copy_bars=1)
    builds: list[Any] = []
    monkeypatch.setattr(CorpusReference, "build", lambda *arguments, **options: builds.append(options) or first)
    assert reference_of(datamodule, TOKENIZER, beats=8.0, copy_bars=1).bands == first.bands
    assert not builds
    reference_of(datamodule, TOKENIZER, beats=4.0, copy_bars=1)
    datamodule.store.fingerprint = "other"
    reference_of(datamodule, TOKENIZER, beats=8.0, copy_bars=1)
    assert len(builds) == 2


def test_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    datamodule = SimpleNamespace(corpus=TinyCorpus(), store=SimpleNamespace(fingerprint="abc"), cache_dir=str(tmp_path))
    first = reference_of(datamodule, TOKENIZER, beats=8.0, copy_bars=1)
    (kept,) = (tmp_path / "references").iterdir()
    (kept / "reference.json").write_text('{"version": 1', encoding="utf-8")
    assert reference_of(datamodule, TOKENIZER, beats=8.0, copy_bars=1).bands == first.bands
    (kept / "reference.json").write_text('{"version": 0}', encoding="utf-8")
    with pytest.raises(ValueError, match="another version"):
        CorpusReference.load(kept)
    assert reference_of(datamodule, TOKENIZER, beats=8.0, copy_bars=1).bands == CorpusReference.load(kept).bands


def test_without_a_store_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_reference, "cache_root", lambda *_: tmp_path)
    reference_of(SimpleNamespace(corpus=TinyCorpus()), TOKENIZER, beats=8.0, copy_bars=1)
    assert not list(tmp_path.iterdir())
