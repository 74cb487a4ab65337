"""Sums over batches, by hand and with a clock of the test's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from musictrain import running_sums
from musictrain.running_sums import LikelihoodSums, StepTokens, TrainingSums

CPU = torch.device("cpu")


def alone(tensor: Tensor) -> Tensor:
    """The sum over one rank."""
    return tensor


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(running_sums, "time", clock)
    return clock


def test_a_flush_gives_the_mean_and_the_rate_since_the_last_one(clock):
    sums = TrainingSums()
    sums.start(CPU)
    for nll, tokens, seconds in ((6.0, 2, 1.0), (2.0, 6, 3.0)):
        sums.add(torch.tensor(nll), torch.tensor(tokens))
        clock.now += seconds
    assert sums.flush(alone, 1) == {"loss": 1.0, "tokens_per_second": 2.0, "tokens": 8.0}
    sums.add(torch.tensor(5.0), torch.tensor(5))
    clock.now += 1.0
    assert sums.flush(alone, 1) == {"loss": 1.0, "tokens_per_second": 5.0, "tokens": 13.0}


def test_what_passes_between_pause_and_start_is_not_counted(clock):
    sums = TrainingSums()
    sums.start(CPU)
    clock.now += 2.0
    sums.pause()
    clock.now += 1000.0
    sums.start(CPU)
    clock.now += 2.0
    sums.add(torch.tensor(1.0), torch.tensor(12))
    assert sums.flush(alone, 1)["tokens_per_second"] == 3.0


def test_two_ranks_add_their_tokens_and_share_their_seconds(clock):
    sums = TrainingSums()
    sums.start(CPU)
    sums.add(torch.tensor(2.0), torch.tensor(4))
    clock.now += 2.0
    other = torch.tensor([10.0, 8.0, 0.0, 4.0])
    assert sums.flush(lambda mine: mine + other, 2) == {"loss": 1.0, "tokens_per_second": 4.0, "tokens": 12.0}


def test_a_saved_state_goes_on_as_if_nothing_had_happened(clock):
    sums = TrainingSums()
    sums.start(CPU)
    for nll, tokens in ((7.0, 9), (math.nan, 1)):
        sums.add(torch.tensor(nll), torch.tensor(tokens))
    clock.now += 3.0
    sums.flush(alone, 1)
    for nll, tokens in ((3.0, 2), (math.nan, 4)):
        sums.add(torch.tensor(nll), torch.tensor(tokens))
    clock.now += 2.0
    state = sums.state_dict()
    assert {type(value) for value in state.values()} <= {int, float}
    later = TrainingSums()
    later.load_state_dict(state)
    clock.now += 1000.0
    later.start(CPU)
    clock.now += 2.0
    assert later.flush(alone, 1) == {"loss": 1.5, "tokens_per_second": 1.5, "tokens": 16.0, "tokens_not_finite": 5.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_batch_whose_likelihood_is_not_finite_is_left_out_of_the_mean_and_said(bad: float) -> None:
    sums = TrainingSums()
    sums.add(torch.tensor(3.0), torch.tensor(2))
    assert "tokens_not_finite" not in sums.flush(alone, 1)
    for nll, tokens in ((6.0, 2), (bad, 5), (2.0, 6)):
        sums.add(torch.tensor(nll), torch.tensor(tokens))
    told = sums.flush(alone, 1)
    assert (told["loss"], told["tokens"], told["tokens_not_finite"]) == (1.0, 15.0, 5.0)
    sums.add(torch.tensor(3.0), torch.tensor(2))
    told = sums.flush(alone, 1)
    assert (told["loss"], told["tokens_not_finite"]) == (1.5, 5.0)


def test_a_mean_of_nothing_but_such_batches_is_nan() -> None:
    sums = TrainingSums()
    sums.add(torch.tensor(math.inf), torch.tensor(5))
    told = sums.flush(alone, 1)
    assert math.isnan(told["loss"])
    assert told["tokens_not_finite"] == told["tokens"] == 5.0


def test_the_state_of_an_older_version_is_taken_up() -> None:
    sums = TrainingSums()
    sums.load_state_dict({"nll": 6.0, "tokens": 3, "seconds": 1.0, "tokens_before": 7})
    told = sums.flush(alone, 1)
    assert (told["loss"], told["tokens"]) == (2.0, 10.0)


def test_an_interval_without_a_token_is_nan_and_not_an_error(clock):
    values = TrainingSums().flush(alone, 1)
    assert math.isnan(values["loss"])
    assert math.isnan(values["tokens_per_second"])
    assert values["tokens"] == 0.0


def test_counts_beyond_what_32_bits_can_hold_are_exact():
    sums = TrainingSums()
    for tokens in (2**24, 1, 1, 1):
        sums.add(torch.tensor(0.0), torch.tensor(tokens))
    assert sums.flush(alone, 1)["tokens"] == 2**24 + 3


def test_likelihood_is_divided_by_tokens_notes_and_beats():
    sums = LikelihoodSums(CPU)
    sums.add(torch.tensor(6.0), torch.tensor(3), {"notes": torch.tensor([1.0, 1.0]), "beats": torch.tensor([3.0, 0.0])})
    sums.add(torch.tensor(2.0), torch.tensor(1), {"notes": torch.tensor([2.0]), "beats": torch.tensor([5.0])})
    expected = {"loss": 2.0, "nats_per_note": 2.0, "bits_per_beat": 1.0 / math.log(2)}
    assert sums.means(alone) == pytest.approx(expected)
    assert sums.means(lambda mine: 2 * mine) == pytest.approx(expected)


def test_what_the_batches_do_not_tell_is_left_out():
    sums = LikelihoodSums(CPU)
    sums.add(torch.tensor(6.0), torch.tensor(3), torch.zeros(2, 4))
    assert sums.means(alone) == {"loss": 2.0}


def test_weighed_losses_of_unlike_batches_and_ranks_come_to_the_mean_over_their_tokens():
    nats, counts = torch.tensor([[9.0, 2.0], [5.0, 0.0]]), torch.tensor([[6, 4], [7, 0]])  # (ranks, batches)
    ranks = [StepTokens(), StepTokens()]
    weighed = torch.zeros(2)
    for number, rank in enumerate(ranks):
        rank.unit = 8
        for nll, count in zip(nats[number], counts[number], strict=True):
            weighed[number] += rank.weigh(nll / count.clamp(min=1), count)
            rank.gather()
    total = sum(rank.factor(alone, 1).reciprocal() * rank.unit for rank in ranks)
    assert total == counts.sum()
    factor = ranks[0].factor(lambda tokens: torch.full_like(tokens, float(total)), 2)
    assert float(weighed.mean() * factor) == pytest.approx(float(nats.sum() / counts.sum()))


def test_tokens_of_a_half_gathered_step_survive_a_checkpoint():
    first, second = StepTokens(), StepTokens()
    first.unit = 8
    first.weigh(torch.tensor(1.0), torch.tensor(6))
    assert not first
    first.gather()
    second.load_state_dict(first.state_dict())
    assert (bool(second), second.state_dict()) == (True, {"unit": 8, "tokens": 6.0})
    second.forget()
    assert (bool(second), second.state_dict()) == (False, {"unit": 8, "tokens": 0.0})
