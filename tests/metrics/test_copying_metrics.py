"""Copying over batches, ranks and checkpoints is copying over all pieces at once."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from musictrain.metrics.copying import CopyCounts, copy_counts, longest_match
from musictrain.metrics.copying_index import CopyIndex
from musictrain.metrics.copying_metrics import CopyExcess, CopyRate, LongestMatch
from musictrain.notes import Notes
from tests.metrics.test_copying import TRAINING, indexed, joined, music, shifted
from tests.metrics.two_ranks import values_of_two_ranks

INDEX = indexed(*TRAINING)
SAMPLES = [
    joined(music(90).between(0, 16), shifted(TRAINING[0].between(16, 28), 0)),
    music(91),
    joined(TRAINING[2].between(0, 20).transposed(2), music(92).between(20, 32)),
    music(93, bars=3),
]


def updated(metric, samples=SAMPLES):
    for sample in samples:
        metric.update(sample)
    return metric


def rate_of_all(bars: int = 1) -> float:
    counts = [copy_counts(sample, INDEX, bars=bars) for sample in SAMPLES]
    return CopyCounts(sum(c.copied for c in counts), sum(c.windows for c in counts)).rate


def test_the_rate_is_over_the_windows_of_all_pieces():
    assert rate_of_all() == (3 + 0 + 5 + 0) / (7 + 8 + 8 + 3)
    assert float(updated(CopyRate(INDEX, bars=1)).compute()) == pytest.approx(rate_of_all())
    together = CopyRate(INDEX, bars=1)
    together.update(SAMPLES)
    assert float(together.compute()) == pytest.approx(rate_of_all())


def test_the_excess_is_what_lies_above_the_validation_sets_own_rate():
    assert float(updated(CopyExcess(INDEX, 0.1, bars=1)).compute()) == pytest.approx(rate_of_all() - 0.1)
    assert float(updated(CopyExcess(INDEX, 0.9, bars=1)).compute()) == 0.0


def test_the_longest_match_is_that_of_all_pieces():
    metric = updated(LongestMatch(INDEX))
    assert float(metric.compute()) == 5.0
    assert metric.match() == longest_match(SAMPLES[2], INDEX)
    assert metric.match().source == "piece 2"


def test_a_prompt_does_not_count():
    rate, longest = CopyRate(INDEX), LongestMatch(INDEX)
    rate.update(SAMPLES[2], from_beat=20.0)
    longest.update(SAMPLES[2], from_beat=20.0)
    assert (float(rate.compute()), float(longest.compute())) == (0.0, 0.0)
    assert longest.match() is None


def test_nothing_gives_nan():
    for metric in (CopyRate(INDEX), CopyExcess(INDEX, 0.0), LongestMatch(INDEX)):
        metric.update(Notes.empty())
        assert torch.isnan(metric.compute())


@pytest.mark.parametrize("make", [lambda: CopyRate(INDEX, bars=1), lambda: LongestMatch(INDEX)], ids=["rate", "longest"])
def test_state_goes_through_a_checkpoint_and_merges(make):
    whole, first, rest = updated(make()), updated(make(), SAMPLES[:2]), make()
    rest.load_state_dict(first.state_dict())
    updated(rest, SAMPLES[2:])
    assert float(rest.compute()) == float(whole.compute())
    merged = updated(make(), SAMPLES[2:])
    merged.merge_state(first)
    assert float(merged.compute()) == float(whole.compute())
    assert float(pickle.loads(pickle.dumps(whole)).compute()) == float(whole.compute())


def test_reset_forgets_and_forward_gives_the_batch():
    metric = LongestMatch(INDEX)
    assert float(metric(SAMPLES[2])) == 5.0
    assert float(metric(SAMPLES[0])) == 3.0
    assert float(metric.compute()) == 5.0
    metric.reset()
    metric.update(SAMPLES[0])
    assert (float(metric.compute()), metric.match().source) == (3.0, "piece 0")


def test_a_copied_metric_shares_the_index():
    metric = CopyRate(INDEX)
    assert copy.deepcopy(metric).index is INDEX
    assert metric.clone().index is INDEX


def test_direction_and_range_are_declared():
    for metric in (CopyRate(INDEX), CopyExcess(INDEX, 0.0), LongestMatch(INDEX)):
        assert metric.higher_is_better is False
        assert metric.plot_lower_bound == 0.0


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"reference is 5\.8"):
        CopyExcess(INDEX, 5.8)
    with pytest.raises(ValueError, match="bars is 0"):
        CopyRate(INDEX, bars=0)
    with pytest.raises(TypeError, match="Expected Notes"):
        CopyRate(INDEX).update("sample.mid")


def values_on_rank(rank: int) -> list[object]:
    index: CopyIndex = INDEX
    rate, longest = (updated(metric, SAMPLES[rank::2]) for metric in (CopyRate(index, bars=1), LongestMatch(index)))
    return [float(rate.compute()), float(longest.compute()), asdict(longest.match()), int(rate.chances)]


@pytest.mark.slow
def test_two_ranks_agree_on_all_pieces(repository: Path, tmp_path: Path):
    values = values_of_two_ranks(repository, tmp_path, __name__, "values_on_rank")
    found = asdict(longest_match(SAMPLES[2], INDEX))
    found["source_bars"], found["own_bars"] = list(found["source_bars"]), list(found["own_bars"])
    for rank, (rate, longest, match, own_windows) in enumerate(values):
        assert rate == pytest.approx(rate_of_all())
        assert longest == 5.0
        assert match == found
        assert own_windows == (15, 11)[rank]
