"""Where several corpora are trained on and validation is about one of them, samples are begun from it, and held against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musictrain.data.tokenizers import MidiTokTokenizer
from musictrain.datamodule import MusicDataModule
from musictrain.generation.length import mean_tokens_per_beat
from musictrain.sampling.corpus_reference import CorpusReference, reference_of
from musictrain.sampling.rounds import continuations_of, tokens_per_beat_of, validation_pieces
from tests.data.test_mixed_corpora import frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    for seed, name in enumerate(("folk", "bach")):
        frames(folder / f"{name}.json", seed, train=3, valid=2, test=1)
    return folder


def data(folder: Path, *names: str, **options: Any) -> MusicDataModule:
    return MusicDataModule("+".join(str(folder / f"{name}.json") for name in names), window=64, cache_dir=str(folder / "cache"), **options)


def test_pieces_go_on_from_those_that_validation_is_about(folder: Path) -> None:
    both = data(folder, "folk", "bach", valid_corpus="bach")
    held = [piece.name for piece in both.corpus.split("valid") if piece.name.startswith("bach/")]
    assert [piece.name for piece in validation_pieces(both, 9)] == held
    assert [request.source for request in continuations_of(both, 2)] == held
    assert len(validation_pieces(data(folder, "folk", "bach"), 9)) == 4
    assert len(validation_pieces(data(folder, "bach", valid_corpus="bach"), 9)) == 2, "of one corpus it is all of it"


def reference(of: MusicDataModule) -> CorpusReference:
    return reference_of(of, of.tokenizer, beats=8.0, copy_bars=1)


def test_scores_are_held_against_the_corpus_that_validation_is_about_and_copies_against_all(folder: Path) -> None:
    every, alone = reference(data(folder, "folk", "bach")), reference(data(folder, "bach"))
    for _ in range(2):  # measured, and out of the cache
        found = reference(data(folder, "folk", "bach", valid_corpus="bach"))
        assert found.bands == alone.bands
        assert np.array_equal(found.features, alone.features)
        assert (found.num_pieces, every.num_pieces) == (2, 4)
        assert {name.partition("/")[0] for name in found.index.names} == {"folk", "bach"}
    assert reference(data(folder, "folk", "bach")).bands == every.bands != alone.bands


def test_music_is_as_long_as_it_takes_tokens_in_the_corpus_that_validation_is_about(folder: Path, tmp_path: Path) -> None:
    held_long = [[72, 66, 60, 50]] * 40
    (tmp_path / "tunes.json").write_text(f'{{"train": [{held_long}], "valid": [{held_long}], "test": []}}')
    (tmp_path / "bach.json").write_bytes((folder / "bach.json").read_bytes())
    tokenizer = MidiTokTokenizer("TSD")
    both, bach = data(tmp_path, "tunes", "bach", valid_corpus="bach", tokenizer=tokenizer), data(tmp_path, "bach", tokenizer=tokenizer)
    assert tokens_per_beat_of(both) == pytest.approx(mean_tokens_per_beat(bach.store))
    assert tokens_per_beat_of(data(tmp_path, "tunes", "bach", tokenizer=tokenizer)) < 0.9 * tokens_per_beat_of(both)
    assert tokens_per_beat_of(None) is None
