"""Scores of samples are those of the metrics; a copied passage is named; the prompt is nobody's merit."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from musictrain.listening.bars import bar_lines
from musictrain.metrics import (
    ChoraleRate,
    ChoraleRuleDistance,
    CopyExcess,
    CopyRate,
    FeatureScale,
    LongestMatch,
    bootstrap_interval,
    feature_matrix,
    frechet_excess,
    measure_pieces,
)
from musictrain.metrics.chorale_rules import RULES
from musictrain.notes import Notes, TimeSignature
from musictrain.sampling.corpus_reference import CorpusReference
from musictrain.sampling.legality import legal_probabilities
from musictrain.sampling.rounds import validation_pieces
from musictrain.sampling.scores import Sample, Scores, music_from, ratio_interval, record_of, score_names, score_samples, share_in_band
from tests.sampling.tiny_corpus import TOKENIZER, TinyCorpus, chorale, tiny_decoder


@pytest.fixture(scope="module")
def reference() -> CorpusReference:
    return CorpusReference.build(TinyCorpus(), TOKENIZER, beats=16.0, copy_bars=1)


def half_copied() -> Notes:
    """Two bars of its own, then the last two of bwv5, three semitones lower."""
    theirs = chorale(5).between(8.0, 16.0).transposed(-3)
    own = chorale(50).between(0.0, 8.0)
    rows = [
        (*row,)
        for part in (own, theirs)
        for row in zip(part.onset.tolist(), part.duration.tolist(), part.pitch.tolist(), part.track.tolist(), strict=True)
    ]
    return Notes.from_rows([row[:3] for row in rows], track=[row[3] for row in rows])


def scored(reference: CorpusReference, *samples: Sample) -> Scores:
    return score_samples(samples, reference)


def test_scores_are_what_the_metrics_say(reference: CorpusReference) -> None:
    pieces = [chorale(60), chorale(61), half_copied()]
    found = scored(reference, *(Sample(str(at), notes) for at, notes in enumerate(pieces))).values
    for name, values in measure_pieces(pieces).items():
        assert found[name] == pytest.approx(bootstrap_interval(values), nan_ok=True)
    copying = CopyRate(reference.index, bars=1), CopyExcess(reference.index, reference.copy_rate, bars=1), LongestMatch(reference.index)
    for name, metric in zip(("copy_rate", "copy_excess", "longest_match"), copying, strict=True):
        metric.update(pieces)
        assert found[name].mean == pytest.approx(float(metric.compute()))
    assert found["copy_rate"].mean == pytest.approx(2 / 12)
    assert found["longest_match"].mean == pytest.approx(2.0)
    for rule, edges in reference.rule_bands(3).items():
        rate, distance = ChoraleRate(rule), ChoraleRuleDistance(rule, edges)
        rate.update(pieces)
        distance.update(pieces)
        assert found[rule].mean == pytest.approx(float(rate.compute()))
    scale = FeatureScale.of(reference.features)
    sets = scale.of_points(reference.features), scale.of_points(feature_matrix(pieces))
    assert found["frechet_excess"].mean == pytest.approx(frechet_excess(*sets))


def test_the_distance_to_the_rules_is_the_mean_of_the_five(reference: CorpusReference) -> None:
    upside_down = [Notes(notes.onset, notes.duration, notes.pitch, track=3 - notes.track) for notes in (chorale(70), chorale(71))]
    found = scored(reference, *(Sample(str(at), notes) for at, notes in enumerate(upside_down))).values["chorale_rule_distance"].mean
    distances = []
    for rule, edges in reference.rule_bands(2).items():
        metric = ChoraleRuleDistance(rule, edges)
        metric.update(upside_down)
        distances.append(float(metric.compute()))
    assert found == pytest.approx(np.mean(distances))
    assert found > 0


def test_the_copied_passage_is_named_with_its_piece_and_bars(reference: CorpusReference) -> None:
    copied = scored(reference, Sample("own", chorale(60)), Sample("copy", half_copied())).copied
    assert (copied[0].sample, copied[0].match.source, copied[0].match.semitones) == ("copy", "bwv5", -3)
    assert (copied[0].match.own_bars, copied[0].match.source_bars) == ((3, 4), (3, 4))


def test_a_prompt_is_not_judged(reference: CorpusReference) -> None:
    whole = chorale(3)
    copy = scored(reference, Sample("a", whole)).values
    continued = scored(reference, Sample("a", whole, from_beat=12.0)).values
    assert copy["longest_match"].mean == 4.0
    assert continued["longest_match"].mean == 1.0
    rest = whole.between(12.0, 16.0)
    moved = Notes(rest.onset - 12.0, rest.duration, rest.pitch, track=rest.track)
    assert continued["pitch_class_entropy"].mean == scored(reference, Sample("a", moved)).values["pitch_class_entropy"].mean
    assert continued["empty_bar_rate"].mean == 0.0


def test_music_begins_at_the_next_bar_line_in_its_own_signature() -> None:
    notes = Notes.from_rows([(beat, 1, 60 + beat) for beat in range(12)], time_signatures=(TimeSignature(0, 3, 4), TimeSignature(9, 2, 4)))
    rest = music_from(notes, 4.0)
    assert rest.pitch.tolist() == [66, 67, 68, 69, 70, 71]
    assert bar_lines(rest).tolist() == [0.0, 3.0, 5.0, 7.0]
    assert music_from(notes, 0.0) is notes
    assert not len(music_from(notes, 12.0))


def test_silence_has_the_same_scores_and_all_are_nan(reference: CorpusReference) -> None:
    silent, heard = (scored(reference, Sample("a", notes)).values for notes in (Notes.empty(), chorale(60)))
    assert list(silent) == list(heard) == list(score_names(reference))
    assert all(math.isnan(interval.mean) for interval in silent.values())
    assert scored(reference).values.keys() == heard.keys()


def test_a_record_is_plain_json_with_the_place_of_the_corpus(reference: CorpusReference) -> None:
    scores = scored(reference, Sample("copy", half_copied()), Sample("own", chorale(60)))
    told = json.loads(json.dumps(record_of(scores, reference, level=0.9, num=2), allow_nan=False))
    assert told["copied"][0]["sample"] == "copy"
    assert told["copied"][0]["says"] == str(scores.copied[0].match)
    assert told["scores"]["val/pitch_range"]["corpus"] == list(reference.bands["pitch_range"])
    assert told["scores"]["val/longest_match"]["low"] is None
    low, mean, high = (told["scores"]["val/copy_rate"][key] for key in ("low", "mean", "high"))
    assert low <= mean <= high
    assert set(RULES) <= {name.removeprefix("val/") for name in told["scores"]}


def test_a_rate_and_its_bounds() -> None:
    assert ratio_interval([[0, 10], [10, 10], [5, 10]]).mean == 0.5
    wide, narrow = ratio_interval([[0, 10], [10, 10]] * 2), ratio_interval([[0, 10], [10, 10]] * 50)
    assert wide.low < narrow.low < 0.5 < narrow.high < wide.high
    alone = ratio_interval([[1, 4], [0, 0]])
    assert (alone.mean, math.isnan(alone.low)) == (0.25, True)
    assert math.isnan(ratio_interval([]).mean)


def test_what_is_not_known_of_either_side_is_in_no_band() -> None:
    assert math.isnan(share_in_band({"a": math.nan, "b": 1.0}, {"a": (0.0, 1.0), "b": (math.nan, math.nan)}))


def test_a_network_that_finds_all_alike_gives_the_legal_ones_their_share() -> None:
    network = tiny_decoder()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    tokens = TOKENIZER.encode(chorale(1))
    grammar, state, shares = TOKENIZER.grammar(), TOKENIZER.grammar().start(1), []
    for token in tokens.tolist():
        shares.append(grammar.allowed(state)[0].mean())
        state = grammar.advance(state, np.array([token]))
    assert legal_probabilities(network, TOKENIZER, [chorale(1)]) == [pytest.approx(np.mean(shares), abs=1e-6)]
    few = len(tokens) // 2 + len(TOKENIZER.begin)
    of_few = np.mean(shares[: few - len(TOKENIZER.begin)])
    assert legal_probabilities(network, TOKENIZER, [chorale(1)], context=few) == [pytest.approx(of_few, abs=1e-6)]


def test_a_piece_has_the_same_probability_beside_longer_ones_and_one_that_cannot_be_held_has_none() -> None:
    torch.manual_seed(0)
    network, short, long = tiny_decoder(), chorale(1).between(0, 6), chorale(2)
    alone = legal_probabilities(network, TOKENIZER, [short])
    together = legal_probabilities(network, TOKENIZER, [long, chorale(3).transposed(36), short, Notes.empty()])
    assert together[1:] == [pytest.approx(alone[0], abs=1e-6)]
    assert legal_probabilities(network, TOKENIZER, [chorale(3).transposed(36)]) == []


def test_prompts_are_pieces_that_the_tokenizer_holds() -> None:
    corpus = TinyCorpus()
    store = SimpleNamespace(names=("held1", "held3", "bwv0"))
    assert [piece.name for piece in validation_pieces(SimpleNamespace(corpus=corpus), 2)] == ["held0", "held1"]
    assert [piece.name for piece in validation_pieces(SimpleNamespace(corpus=corpus, store=store), 4)] == ["held1", "held3"]
    assert validation_pieces(SimpleNamespace(), 4) == []
