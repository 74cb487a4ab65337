"""How many batches a step gathers is a function of the step's number."""

from __future__ import annotations

from typing import Any

import pytest

from musictrain.data.accumulation import AccumulationRule, rule_of


def steps_counted(rule: AccumulationRule, batches_per_epoch: int, epochs: int) -> int:
    """Batch by batch."""
    step = 0
    for _ in range(epochs):
        gathered = 0
        for batch in range(batches_per_epoch):
            gathered += 1
            if gathered == rule.at(step) or batch == batches_per_epoch - 1:
                gathered, step = 0, step + 1
    return step


def test_a_number_holds_from_its_step_on() -> None:
    rule = AccumulationRule({500: 4, 0: 1, 1000: 8})
    assert [rule.at(step) for step in (0, 499, 500, 999, 1000, 10**9)] == [1, 1, 4, 4, 8, 8]


@pytest.mark.parametrize("schedule", [{0: 1}, {0: 3}, {0: 1, 4: 4}, {0: 4, 3: 1}, {0: 2, 1: 3, 2: 5, 30: 7}])
@pytest.mark.parametrize("batches_per_epoch", [1, 7, 12])
@pytest.mark.parametrize("epochs", [0, 1, 5, 20])
def test_the_steps_of_epochs_are_those_counted_one_by_one(schedule: dict[int, int], batches_per_epoch: int, epochs: int) -> None:
    rule = AccumulationRule(schedule)
    assert rule.steps_of(batches_per_epoch, epochs) == steps_counted(rule, batches_per_epoch, epochs)


def test_tokens_are_a_number_of_batches() -> None:
    assert AccumulationRule.of_tokens({0: 1024, 9: 4096}, 512) == AccumulationRule({0: 2, 9: 8})


@pytest.mark.parametrize(
    ("tokens", "nearest"), [(1000, "a batch has 512 tokens over all ranks.*Take 512 or 1,024"), (100, "Take 512, or change batch_size")]
)
def test_tokens_that_are_no_whole_number_of_batches_are_refused_with_those_that_are(tokens: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"global_batch_tokens={tokens:,} is no whole number of batches.*{nearest}"):
        AccumulationRule.of_tokens({0: tokens}, 512)


@pytest.mark.parametrize("schedule", [{}, {5: 1}, {0: 0}, {-1: 2, 0: 1}, {0: 1.5}, {0: True}, {"0": 1}])
def test_what_is_no_schedule_is_refused(schedule: Any) -> None:
    with pytest.raises(ValueError, match=r"batches got .*beginning with step 0, such as \{0: 1, 500: 4\}"):
        AccumulationRule(schedule)


def test_every_number_divides_the_multiple_unless_that_is_too_much() -> None:
    rule = AccumulationRule({0: 2, 5: 6, 9: 4})
    assert [rule.multiple_within(batches) for batches in (11.9, 12, 100)] == [4, 12, 12]
    assert AccumulationRule({0: 8}).multiple_within(3) == 8


class SomeTrainer:
    accumulate_grad_batches = 3

    def __init__(self, *callbacks: Any) -> None:
        self.callbacks = callbacks


def test_a_trainers_rule_is_that_of_its_callback_else_its_own_number() -> None:
    class Scheduled:
        rule = AccumulationRule({0: 2})

    class Unknown:
        rule = None

    assert rule_of(SomeTrainer(object(), Unknown(), Scheduled())) == AccumulationRule({0: 2})
    assert rule_of(SomeTrainer(object(), Unknown())) == AccumulationRule({0: 3})
