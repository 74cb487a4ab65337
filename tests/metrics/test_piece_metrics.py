"""The torchmetrics classes: over batches, ranks and checkpoints they come to what the functions say of all pieces together."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import Metric, MetricCollection

from musictrain import metrics
from musictrain.data.corpus import Piece
from musictrain.metrics import (
    MEASURES,
    SET_MEASURES,
    BitsPerNote,
    DistanceToReference,
    GrooveSimilarity,
    InterOnsetHistogram,
    KernelDivergence,
    NoteLengthHistogram,
    OverlappingArea,
    PitchClassEntropy,
    PitchClassTransitions,
    PitchRange,
    ScaleConsistency,
    bits_per_note,
    compare_sets,
    distance_to_band,
    inter_onset_histogram,
    measure_pieces,
    note_length_histogram,
    pitch_class_transitions,
)
from musictrain.metrics.chorale_rules import RULES
from musictrain.notes import Notes
from tests.metrics.two_ranks import values_of_two_ranks

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric:UserWarning")
REFERENCE = np.linspace(1.0, 9.0, 9)


def some_pieces() -> list[Notes]:
    """Nine random pieces and one without notes, in the middle."""
    random = np.random.default_rng(7)
    drawn = []
    for number in range(9):
        size = 6 + 4 * number
        onset = random.integers(0, 64, size) / 4
        drawn.append(Notes(onset, random.integers(1, 8, size) / 4, random.integers(50, 50 + 3 * (number + 2), size)))
    return [*drawn[:4], Notes.empty(), *drawn[4:]]


PIECES = some_pieces()
OF_PIECES: dict[str, Callable[[], Metric]] = {
    **{name: measure.metric for name, measure in MEASURES.items()},
    "note lengths": NoteLengthHistogram,
    "inter-onset": InterOnsetHistogram,
    "transitions": PitchClassTransitions,
    "distance": lambda: DistanceToReference("pitch_range", (8.0, 12.0)),
}
OF_VALUES: dict[str, Callable[[], Metric]] = {
    "overlap": lambda: OverlappingArea(REFERENCE),
    "divergence": lambda: KernelDivergence(REFERENCE),
    "overlap of vectors": lambda: OverlappingArea(np.stack((REFERENCE, REFERENCE**2), axis=1)),
}
VALUES = [2.0, 5.0, math.nan, 5.5, 8.0, 6.0, 1.0, 4.0, 3.0, 7.0]
METRICS = OF_PIECES | OF_VALUES | {"bits per note": BitsPerNote}


def batches_of(name: str) -> list[tuple[Any, ...]]:
    """Ten updates for a metric."""
    if name in OF_PIECES:
        return [(piece,) for piece in PIECES]
    if name == "bits per note":
        return [(torch.tensor([10.0 * number, 1.0]), torch.tensor([number, 3])) for number in range(10)]
    return [([[value, value + 1.0]] if "vectors" in name else [value],) for value in VALUES]


def updated(name: str, batches: list[tuple[Any, ...]]) -> Metric:
    metric = METRICS[name]()
    for batch in batches:
        metric.update(*batch)
    return metric


def numbers(metric: Metric) -> Any:
    return metric.compute().double().flatten().tolist()


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    """What the functions say of all pieces."""
    means = {name: float(np.nanmean(values)) for name, values in measure_pieces(PIECES).items()}
    with_notes = [notes for notes in PIECES if len(notes)]
    both, one = compare_sets(np.stack((REFERENCE, REFERENCE**2), axis=1), [[v, v + 1.0] for v in VALUES]), compare_sets(REFERENCE, VALUES)
    vectors = {"note lengths": note_length_histogram, "inter-onset": inter_onset_histogram, "transitions": pitch_class_transitions}
    return {
        **means,
        **{name: np.mean([function(notes) for notes in with_notes], axis=0).flatten() for name, function in vectors.items()},
        "distance": np.nanmean(distance_to_band(measure_pieces(PIECES)["pitch_range"], 8.0, 12.0)),
        "overlap": one.overlap,
        "divergence": one.divergence,
        "overlap of vectors": both.overlap,
        "bits per note": bits_per_note([10.0 * number + 1.0 for number in range(10)], [number + 3 for number in range(10)]),
    }


@pytest.mark.parametrize("name", METRICS)
def test_updates_come_to_what_the_function_says_of_all(name: str, expected: dict[str, Any]) -> None:
    metric = updated(name, batches_of(name))
    np.testing.assert_allclose(numbers(metric), expected[name], rtol=1e-5)
    metric.reset()
    metric.update(*batches_of(name)[0])
    for batch in batches_of(name)[1:]:
        metric(*batch)  # forward counts too
    np.testing.assert_allclose(numbers(metric), expected[name], rtol=1e-5)


def both_halves(rank: int) -> dict[str, Any]:
    """Every metric on one of two ranks: of unequal shares, and where the second rank has nothing."""
    shares = {"unequal": slice(0, 3) if rank == 0 else slice(3, 10), "alone": slice(0, 10) if rank == 0 else slice(0, 0)}
    computed = {}
    for name in METRICS:
        for case, share in shares.items():
            metric = updated(name, batches_of(name)[share])
            computed[f"{name}, {case}"] = numbers(metric)
    return computed


def test_two_ranks_compute_what_one_process_does(tmp_path: Path, repository: Path, expected: dict[str, Any]) -> None:
    for computed in values_of_two_ranks(repository, tmp_path, "tests.metrics.test_piece_metrics", "both_halves"):
        for name in METRICS:
            for case in ("unequal", "alone"):
                np.testing.assert_allclose(computed[f"{name}, {case}"], expected[name], rtol=1e-5, err_msg=f"{name}, {case}")


@pytest.mark.parametrize("name", METRICS)
def test_a_saved_state_goes_on_as_if_nothing_had_happened(name: str, expected: dict[str, Any]) -> None:
    batches = batches_of(name)
    stream = io.BytesIO()
    torch.save(updated(name, batches[:4]).state_dict(), stream)
    stream.seek(0)
    resumed = METRICS[name]()
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    for batch in batches[4:]:
        resumed.update(*batch)
    np.testing.assert_allclose(numbers(resumed), expected[name], rtol=1e-5)
    copied = pickle.loads(pickle.dumps(updated(name, batches)))
    np.testing.assert_allclose(numbers(copied), expected[name], rtol=1e-5)


@pytest.mark.parametrize("name", METRICS)
def test_without_a_piece_a_metric_is_nan(name: str) -> None:
    assert all(math.isnan(value) for value in numbers(METRICS[name]()))
    if name in OF_PIECES:
        assert all(math.isnan(value) for value in numbers(updated(name, [(Notes.empty(),), ([],)])))


def test_every_public_name_is_there_and_another_one_is_told() -> None:
    assert all(hasattr(metrics, name) for name in metrics.__all__)
    assert len(metrics.__all__) == len(set(metrics.__all__)) > 60
    with pytest.raises(AttributeError, match="has no attribute 'Grove'"):
        _ = metrics.Grove


def test_directions_and_ranges_are_declared() -> None:
    two_sided = {measure.metric().higher_is_better for measure in MEASURES.values()}
    assert two_sided == {None}
    assert {measure.direction for measure in MEASURES.values()} == {"two-sided"}
    assert DistanceToReference("polyphony", 4.0).higher_is_better is False
    assert {name for name, measure in SET_MEASURES.items() if measure.direction == "higher is better"} == {
        "overlapping_area",
        "token_validity",
    }
    assert {name for name, measure in SET_MEASURES.items() if measure.direction == "two-sided"} == set(RULES)
    assert SET_MEASURES["copy_rate"].direction == SET_MEASURES["bits_per_note"].direction == "lower is better"
    assert SET_MEASURES["voice_crossing"].metric().rule == "voice_crossing"
    for name, make in METRICS.items():
        metric = make()
        assert metric.plot_lower_bound == 0.0, name
        assert metric.is_differentiable is False
        assert metric.full_state_update is False
    assert (MEASURES["pitch_class_entropy"].low, MEASURES["pitch_class_entropy"].high) == (0.0, math.log2(12))
    assert (MEASURES["pitch_range"].high, MEASURES["polyphony"].high) == (127.0, math.inf)


def test_a_distance_is_that_of_each_piece_to_the_band() -> None:
    low, inside, high = Notes.from_rows([(0, 1, 60), (1, 1, 64)]), Notes.from_rows([(0, 1, 60), (1, 1, 70)]), Notes.empty()
    wide = Notes.from_rows([(0, 1, 40), (1, 1, 70)])
    metric = DistanceToReference("pitch_range", (8.0, 20.0))
    metric.update([low, inside, high, wide])
    assert float(metric.compute()) == pytest.approx((4.0 + 0.0 + 10.0) / 3)  # the mean range, 14.7, is inside
    to_value = DistanceToReference("pitch_range", 10)
    to_value.update([low, wide])
    assert float(to_value.compute()) == pytest.approx((6.0 + 20.0) / 2)


def test_a_corpus_is_a_reference_by_its_band() -> None:
    pieces = [Piece(str(span), "", Notes.from_rows([(0, 1, 40), (1, 1, 40 + span)])) for span in range(11)]
    metric = DistanceToReference("pitch_range", pieces)
    assert (metric.low, metric.high) == (1.0, 9.0)
    metric.update(pieces)
    assert float(metric.compute()) == pytest.approx(2 / 11)


@pytest.mark.parametrize(
    ("measure", "reference", "error", "message"),
    [
        ("groove_similarty", 0.5, ValueError, "'groove_similarty'.*groove_similarity"),
        ("polyphony", (4.0, 2.0), ValueError, "from 4.0 to 2.0"),
        ("polyphony", math.nan, ValueError, "'polyphony' has no value"),
        ("polyphony", [Notes.empty()], ValueError, "'polyphony' has no value"),
        ("polyphony", [], ValueError, "'polyphony' has no value"),
        ("polyphony", [3.0, 4.0], TypeError, "got float"),
        ("polyphony", "chorales", TypeError, "got str"),
    ],
)
def test_a_reference_that_is_none_is_refused(measure: str, reference: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DistanceToReference(measure, reference)


def test_options_that_cannot_work_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match=r"'majr'.*major"):
        ScaleConsistency(scales=("majr",))
    with pytest.raises(ValueError, match="window_bars is 0"):
        PitchClassEntropy(window_bars=0)
    with pytest.raises(TypeError, match="widow_bars"):
        PitchClassEntropy(widow_bars=1)
    with pytest.raises(ValueError, match="has 2 pieces with a value"):
        OverlappingArea([1.0, math.nan, 2.0])
    assert PitchClassEntropy(window_bars=1, sync_on_compute=False).sync_on_compute is False


def test_values_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values each, the reference has 1"):
        OverlappingArea(REFERENCE).update([[1.0, 2.0]])


def test_what_is_no_piece_is_refused() -> None:
    for pieces, name in ((3, "int"), ("notes", "str"), ([None], "NoneType")):
        with pytest.raises(TypeError, match=f"got {name}"):
            PitchRange().update(pieces)  # type: ignore[arg-type]


def test_long_sums_lose_nothing() -> None:
    bits, ranges = BitsPerNote(), PitchRange()
    bits.update(2.0**26, 0)
    ranges.add([2.0**26])
    for _ in range(1_000):
        bits.update(1.0, 1)
        ranges.add([1.0])
    assert float(bits.compute()) == pytest.approx((2**26 + 1_000) / 1_000 / math.log(2.0), rel=1e-7)
    assert float(ranges.total.double() + ranges.remainder.double()) == 2**26 + 1_000


def test_metrics_stand_side_by_side_in_a_collection() -> None:
    collection = MetricCollection({"groove": GrooveSimilarity(), "range": PitchRange(), "bars": PitchClassEntropy(window_bars=1)})
    for piece in PIECES:
        collection.update(piece)
    values, measured = collection.compute(), measure_pieces(PIECES)
    assert float(values["groove"]) == pytest.approx(np.nanmean(measured["groove_similarity"]), rel=1e-5)
    assert float(values["range"]) == pytest.approx(np.nanmean(measured["pitch_range"]), rel=1e-5)
    assert float(values["bars"]) == pytest.approx(np.nanmean(measured["pitch_class_entropy_1_bar"]), rel=1e-5)
