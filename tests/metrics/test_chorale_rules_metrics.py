"""Chorale rules over batches, ranks and checkpoints are those of all pieces at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from musictrain.metrics.chorale_rules import BACH, RULES
from musictrain.metrics.chorale_rules_metrics import ChoraleRate, ChoraleRuleDistance
from musictrain.notes import Notes
from tests.metrics.test_chorale_rules import TONIC, chords, rates_of
from tests.metrics.two_ranks import values_of_two_ranks

SAMPLES = [
    chords(TONIC, (74, 69, 65, 50), TONIC, (72, 64, 67, 48)),
    chords(TONIC, (71, 67, 62, 55), TONIC, (72, 69, 65, 53), (74, 67, 62, 55)),
    Notes.from_rows([(0, 1, 60)]),  # cannot be judged
]


def updated(metric: ChoraleRate, samples: list[Notes] = SAMPLES) -> ChoraleRate:
    for sample in samples:
        metric.update(sample)
    return metric


@pytest.mark.parametrize("rule", RULES)
def test_rates_are_over_the_changes_of_all_pieces(rule):
    assert float(updated(ChoraleRate(rule)).compute()) == pytest.approx(rates_of(SAMPLES)[rule])
    together = ChoraleRate(rule)
    together.update(SAMPLES)
    assert float(together.compute()) == pytest.approx(rates_of(SAMPLES)[rule])


def test_the_distance_is_to_the_nearer_edge_of_the_band():
    rate = rates_of(SAMPLES)["voice_crossing"]
    assert rate == pytest.approx(100 / 9)
    for reference, expected in (
        ((1.0, 2.0), rate - 2.0),
        ((20.0, 30.0), 20.0 - rate),
        ((10.0, 12.0), 0.0),
        (None, rate - BACH["voice_crossing"][1]),
    ):
        assert float(updated(ChoraleRuleDistance("voice_crossing", reference)).compute()) == pytest.approx(expected, rel=1e-5)


def test_without_a_piece_that_can_be_judged_it_is_nan():
    for metric in (ChoraleRate("wide_spacing"), ChoraleRuleDistance("wide_spacing")):
        assert torch.isnan(updated(metric, SAMPLES[2:]).compute())


def test_state_goes_through_a_checkpoint_and_merges():
    first, rest = updated(ChoraleRate("voice_crossing"), SAMPLES[:1]), ChoraleRate("voice_crossing")
    rest.load_state_dict(first.state_dict())
    assert float(updated(rest, SAMPLES[1:]).compute()) == pytest.approx(100 / 9)
    merged = updated(ChoraleRate("voice_crossing"), SAMPLES[1:])
    merged.merge_state(first)
    assert float(merged.compute()) == pytest.approx(100 / 9)


def test_direction_and_range_are_declared():
    assert ChoraleRate("voice_crossing").higher_is_better is None
    assert ChoraleRuleDistance("voice_crossing").higher_is_better is False
    assert ChoraleRuleDistance("voice_crossing").plot_lower_bound == 0.0


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"No chorale rule is called 'parallel_fifth'\. Did you mean 'parallel_fifths'"):
        ChoraleRate("parallel_fifth")
    with pytest.raises(ValueError, match=r"A reference from 2\.0 to 1\.0 cannot be"):
        ChoraleRuleDistance("voice_crossing", (2.0, 1.0))


def values_on_rank(rank: int) -> list[float]:
    return [float(updated(ChoraleRate(rule), SAMPLES[rank::2]).compute()) for rule in RULES]


@pytest.mark.slow
def test_two_ranks_agree_on_all_pieces(repository: Path, tmp_path: Path):
    for values in values_of_two_ranks(repository, tmp_path, __name__, "values_on_rank"):
        assert values == pytest.approx([rates_of(SAMPLES)[rule] for rule in RULES])
