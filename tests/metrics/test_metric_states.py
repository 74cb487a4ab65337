"""Metrics in one collection: each keeps its own state, though those of several are alike after the first piece."""

from __future__ import annotations

import pytest
import torch
from torchmetrics import MetricCollection

from musictrain.metrics import MEASURES, ChoraleRate, CopyIndex, CopyRate, DistanceToReference, LongestMatch
from musictrain.metrics.chorale_rules import RULES
from musictrain.metrics.metric_states import OwnState
from tests.metrics.test_chorale_rules import TONIC, chords
from tests.metrics.test_copying import music

# Of the first piece every rate is 0; of the others each is another one.
FAULTLESS = chords(TONIC, (71, 67, 62, 55))
PIECES = [FAULTLESS, chords(TONIC, (74, 69, 65, 50), (72, 64, 67, 48)), chords((60, 72, 62, 50), (62, 74, 59, 52), TONIC)]
INDEX = CopyIndex.build([("a", music(0)), ("b", chords(*[TONIC] * 3, (74, 69, 65, 50)))])


def all_of_them() -> dict[str, OwnState]:
    of_pieces = {name: measure.metric() for name, measure in MEASURES.items()}
    bands = {f"range to {high}": DistanceToReference("pitch_range", (0.0, float(high))) for high in (20, 25, 30)}
    copying = {"1 bar": CopyRate(INDEX, bars=1), "2 bars": CopyRate(INDEX, bars=2), "longest": LongestMatch(INDEX)}
    return {**of_pieces, **{rule: ChoraleRate(rule) for rule in RULES}, **bands, **copying}


def test_a_collection_gives_of_each_what_it_gives_alone() -> None:
    collection, alone = MetricCollection(all_of_them()), all_of_them()
    for piece in PIECES:
        collection.update(piece)
        for metric in alone.values():
            metric.update(piece)
    together = collection.compute()
    for name, metric in alone.items():
        torch.testing.assert_close(together[name], metric.compute(), equal_nan=True, msg=name)
    assert len({float(together[rule]) for rule in RULES}) > 2


def test_rates_that_are_alike_at_first_go_apart_afterwards() -> None:
    collection = MetricCollection({rule: ChoraleRate(rule) for rule in RULES})
    collection.update(FAULTLESS)
    assert set(map(float, collection.compute().values())) == {0.0}
    collection.update(PIECES[1])
    assert float(collection.compute()["voice_crossing"]) > 0.0 == float(collection.compute()["wide_spacing"])


def test_a_clone_is_the_same_metric_and_a_reset_one_too() -> None:
    metric, other = ChoraleRate("voice_crossing"), ChoraleRate("voice_crossing")
    number = metric.number.tolist()
    assert metric.clone().number.tolist() == number != other.number.tolist()
    metric.update(PIECES)
    metric.reset()
    assert metric.number.tolist() == number
    assert "number" not in metric.state_dict()


@pytest.mark.parametrize("name", ["forward", "merge_state"])
def test_the_number_goes_along_where_states_are_added_up(name: str) -> None:
    metric, other = ChoraleRate("voice_crossing"), ChoraleRate("voice_crossing")
    if name == "forward":
        metric(FAULTLESS)
        metric(PIECES[2])
    else:
        metric.update(FAULTLESS)
        other.update(PIECES[2])
        metric.merge_state(other)
    expected = ChoraleRate("voice_crossing")
    expected.update([FAULTLESS, PIECES[2]])
    assert float(metric.compute()) == float(expected.compute()) > 0.0
    assert metric.number.shape == expected.number.shape
