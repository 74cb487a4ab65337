"""Filters on four probabilities, worked out by hand; something is always left to draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musictrain.generation.filters import SamplingRule, chances, draw, min_p, only_allowed, top_k, top_p

LOGITS = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]).log()


def kept(logits: Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in logits]


def test_top_k_leaves_the_k_most_likely() -> None:
    assert kept(top_k(LOGITS, 2)) == [[0, 1], [2, 3]]
    assert kept(top_k(LOGITS, 1)) == [[0], [3]]
    assert top_k(LOGITS, 0) is LOGITS
    assert kept(top_k(LOGITS, 9)) == [[0, 1, 2, 3]] * 2


@pytest.mark.parametrize(
    ("p", "first_row"), [(0.05, [0]), (0.39, [0]), (0.41, [0, 1]), (0.69, [0, 1]), (0.71, [0, 1, 2]), (0.95, [0, 1, 2, 3])]
)
def test_top_p_leaves_the_fewest_that_reach_p(p: float, first_row: list[int]) -> None:
    assert kept(top_p(LOGITS, p)) == [first_row, [3 - token for token in reversed(first_row)]]


@pytest.mark.parametrize(("p", "first_row"), [(0.0, [0, 1, 2, 3]), (0.24, [0, 1, 2, 3]), (0.26, [0, 1, 2]), (0.76, [0]), (1.0, [0])])
def test_min_p_leaves_what_is_p_times_as_likely_as_the_best(p: float, first_row: list[int]) -> None:
    assert kept(min_p(LOGITS, p)) == [first_row, [3 - token for token in reversed(first_row)]]


def test_what_is_left_keeps_its_logit_and_the_argument_stays() -> None:
    before = LOGITS.clone()
    for filtered in (top_k(LOGITS, 2), top_p(LOGITS, 0.5), min_p(LOGITS, 0.7)):
        assert torch.equal(filtered[filtered.isfinite()], LOGITS[filtered.isfinite()])
    assert torch.equal(LOGITS, before)


def test_a_mask_of_another_vocabulary_is_refused() -> None:
    assert kept(only_allowed(LOGITS, np.array([[1, 0, 0, 1], [0, 1, 0, 0]], bool))) == [[0, 3], [1]]
    with pytest.raises(ValueError, match="allows or forbids 5 tokens, but the network predicts 4"):
        only_allowed(LOGITS, np.ones((2, 5), bool))


@settings(max_examples=50, deadline=None)
@given(
    logits=st.lists(st.floats(-50, 50), min_size=2, max_size=6),
    mask=st.lists(st.booleans(), min_size=6, max_size=6),
    rule=st.builds(
        SamplingRule,
        temperature=st.sampled_from([0.0, 0.01, 1.0, 50.0]),
        top_k=st.integers(0, 7),
        top_p=st.floats(1e-9, 1.0),
        min_p=st.floats(0.0, 1.0),
    ),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_every_rule_draws_an_allowed_token(logits: list[float], mask: list[bool], rule: SamplingRule, chance: float) -> None:
    allowed = np.array([mask[: len(logits)]])
    allowed[0, 0] |= not allowed.any()
    chosen = rule.choose(only_allowed(torch.tensor([logits]), allowed), torch.tensor([chance], dtype=torch.float64))
    assert allowed[0, chosen.item()]


def test_draw_inverts_the_cumulated_probability() -> None:
    probability = torch.tensor([[0.25, 0.0, 0.5, 0.25]], dtype=torch.float64).expand(6, -1)
    chance = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert draw(probability, chance).tolist() == [0, 0, 2, 2, 3, 3]


def test_draws_follow_the_probabilities() -> None:
    probability = torch.tensor([[0.1, 0.6, 0.3]], dtype=torch.float64).expand(4000, -1)
    drawn = draw(probability, torch.from_numpy(chances(0, range(1), 4000)[0]))
    torch.testing.assert_close(drawn.bincount() / 4000, torch.tensor([0.1, 0.6, 0.3]), rtol=0, atol=0.03)


def test_temperature_comes_before_the_filters() -> None:
    # At temperature 0.5 the probabilities are squared: 16, 9, 4, 1 of 30; so the first two reach 0.8 and the third is not drawn.
    chance = torch.tensor([0.999, 0.999], dtype=torch.float64)
    assert SamplingRule(temperature=0.5, top_p=0.8).choose(LOGITS, chance).tolist() == [1, 3]
    assert SamplingRule(temperature=1.0, top_p=0.8).choose(LOGITS, chance).tolist() == [2, 3]


def test_a_row_has_one_stream_of_chance_whatever_the_others() -> None:
    few, many = chances(3, range(2, 4), 5), chances(3, range(6), 8)
    assert np.array_equal(few, many[2:4, :5])
    assert len({*chances(3, range(4), 1).flat, *chances(4, range(4), 1).flat}) == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0, but must be above 0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingRule(**values)
