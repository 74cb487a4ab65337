"""Every curve has its place: what belongs together is one chart, and nothing is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictrain.dashboard.charts import HEALTH, charts_of, is_musical
from musictrain.dashboard.score_words import SCORES
from musictrain.health.words import SHOWN, summed_up
from musictrain.metrics import MEASURES
from musictrain.metrics.chorale_rules import RULES
from musictrain.sampling.scores import COPYING


def places(*keys: str) -> list[tuple[str, str, list[str]]]:
    return [(chart.section, chart.title, [label for _, label in chart.curves]) for chart in charts_of(keys)]


@pytest.mark.parametrize("keys", [("val/loss", "train/loss"), ("val_loss", "train_loss"), ("validation/loss", "train/loss")])
def test_train_and_validation_are_one_chart_train_first(keys: tuple[str, str]) -> None:
    assert places(*keys) == [("learning", "Loss", ["train", "validation"])]


def test_scores_that_are_no_likelihood_are_music() -> None:
    assert is_musical("val/groove_similarity")
    assert is_musical("val/pitch_class_entropy")
    assert not any(map(is_musical, ("val/loss", "val/nats_per_note", "val/bits_per_beat", "val/perplexity", "train/groove", "speed/mfu")))


def test_parts_of_the_time_are_one_stack_and_ranks_one_chart_each() -> None:
    charts = charts_of(["speed/data_share", "speed/forward_share", "speed/rank_1/data_wait", "speed/rank_0/data_wait", "speed/data_wait"])
    assert [(chart.title, chart.kind, [label for _, label in chart.curves]) for chart in charts] == [
        ("Where the time goes", "stack", ["forward", "data"]),
        ("Waiting for data", "lines", ["waiting for data"]),
        ("Waiting for data, by rank", "lines", ["rank 0", "rank 1"]),
    ]


def test_what_alerts_look_at_has_words_and_leaves_the_curve_of_the_learning_rate_alone() -> None:
    kept = {"entropy": 1.0, "update_ratio/a": 0.1, "dead/a": 0.1, "saturated/a": 0.1, "memory": 1.0, "rank_seconds/0": 1.0}
    logged = {*summed_up({**dict.fromkeys(SHOWN, 1.0), **kept}), "lr_factor"}
    assert logged == set(HEALTH)
    charts = charts_of([*(f"health/{name}" for name in logged), "train/lr", "train/gradient_norm"])
    assert [curves for chart in charts for curves in [chart.curves] if chart.title == "Learning rate"] == [[("train/lr", "rate")]]
    assert not [chart.title for chart in charts if "ealth" in chart.title]
    labels = {chart.title: [label for _, label in chart.curves] for chart in charts}
    assert labels["Dead or saturated units of the worst layer"] == ["dead", "saturated"]
    assert labels["Gradient norm"] == ["norm", "seen at looks"]
    assert sum(chart.section == "machine" for chart in charts) == 4


def test_what_a_curriculum_turns_is_one_chart() -> None:
    keys = ("curriculum/difficulty", "curriculum/length", "curriculum/share_ryans", "train/loss")
    loss, curriculum = charts_of(keys)
    assert loss.title == "Loss"
    assert (curriculum.title, curriculum.unit, curriculum.section) == ("Curriculum", "share", "learning")
    assert sorted(curriculum.curves) == list(zip(sorted(keys)[:3], ["windows drawn from", "of a window kept", "ryans"], strict=True))
    assert "easiest first" in curriculum.about


def test_what_matters_most_comes_first() -> None:
    titles = [title for _, title, _ in places("train/zeta", "lr-AdamW", "grad_norm", "train/gradient_norm", "train/loss", "val/x")]
    assert titles == ["Loss", "Learning rate", "Gradient norm", "Zeta", "X"]


def test_layers_are_counted_not_spelled() -> None:
    assert [title for _, title, _ in places("norm_10", "norm_9", "norm_1")] == ["Norm 1", "Norm 9", "Norm 10"]


@given(st.lists(st.one_of(st.text(max_size=20), st.sampled_from(["train/loss", "val/loss", "val/", "/", "__proto__"])), unique=True))
def test_every_curve_is_drawn_once(keys: list[str]) -> None:
    charts = charts_of(keys)
    assert sorted(key for chart in charts for key, _ in chart.curves) == sorted(keys)
    assert {chart.section for chart in charts} <= {"learning", "music", "machine"}
    assert len({(chart.section, chart.name) for chart in charts}) == len(charts)


def test_scores_have_words_and_those_that_show_collapse_and_copying_come_first() -> None:
    charts = charts_of(["val/pitch_range", "val/bar_repetition", "val/zeta", "val/copy_excess", "val/in_band"])
    assert [chart.name for chart in charts] == ["in_band", "copy_excess", "bar_repetition", "pitch_range", "zeta"]
    assert [chart.title for chart in charts][2:] == ["Bars repeated", "Pitch range", "Zeta"]
    assert charts[0].as_data()["about"].endswith("Higher is better.")
    assert not {"about", "band"} & charts[-1].as_data().keys()


def test_every_score_that_samples_get_is_explained_in_the_words_of_its_measure() -> None:
    names = {*MEASURES, *RULES, *COPYING, "in_band", "frechet_excess", "chorale_rule_distance", "token_validity"}
    assert set(SCORES) == names
    assert {name: score.about for name, score in SCORES.items() if name in MEASURES} == {
        name: measure.sentence for name, measure in MEASURES.items()
    }
    assert len({score.title for score in SCORES.values()}) == len(SCORES)
