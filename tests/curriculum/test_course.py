"""The dial of a batch is a function of its number: whatever is asked, in whichever order, by whomever, before and after a resume."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from musictrain.curriculum import Course, Decision, Dial, Pacing, Shift
from musictrain.curriculum.counting import StepCount, TokenCount

SCHEDULES = st.dictionaries(st.integers(1, 30), st.integers(1, 6), max_size=4).flatmap(
    lambda later: st.integers(1, 6).map(lambda first: {0: first, **later})
)


def walked(batches: dict[int, int], last: int) -> list[int]:
    """Steps before each batch, by doing one batch after the other as a Trainer does."""
    step, gathered, before = 0, 0, []
    for _ in range(last):
        before.append(step)
        gathered += 1
        if gathered == batches[max(begin for begin in batches if begin <= step)]:
            step, gathered = step + 1, 0
    return before


@given(SCHEDULES)
def test_steps_are_counted_as_a_trainer_makes_them(batches: dict[int, int]) -> None:
    count = StepCount(batches)
    assert [count.before(number) for number in range(200)] == walked(batches, 200)


@given(SCHEDULES, st.integers(0, 60))
def test_steps_counted_on_from_the_end_of_a_step_are_the_same(batches: dict[int, int], step: int) -> None:
    whole = StepCount(batches)
    first = next(number for number in range(1000) if whole.before(number) == step)
    again = StepCount(batches, first, step)
    assert [again.before(number) for number in range(first, first + 100)] == [whole.before(number) for number in range(first, first + 100)]


@given(st.floats(0.1, 1.0), st.integers(100, 5000), st.lists(st.integers(0, 300), min_size=1, max_size=30))
def test_tokens_are_those_of_the_batches_before_whatever_is_asked_first(start: float, until: int, numbers: list[int]) -> None:
    length = Pacing(until=until, start=start)
    tokens, before = 0.0, []
    for _ in range(301):
        before.append(tokens)
        tokens += 10 * length.at(tokens)
    count = TokenCount(10, length.at)
    assert [count.before(number) for number in numbers] == pytest.approx([before[number] for number in numbers])
    assert [TokenCount(10, length.at).before(number) for number in numbers] == [count.before(number) for number in numbers]


def course(by: str = "steps", **changes: Any) -> Course:
    end = {"steps": 40.0, "tokens": 400.0, "value": None}[by]
    settings: dict[str, Any] = {
        "difficulty": Pacing(until=end, shape="root", start=0.2),
        "length": Pacing(until=None if end is None else end / 2, shape="step", start=0.25, stages=3),
        "mixture": Shift({"ryans": 4, "airds": 1}, {"chorales": 1}, until=end),
        "tokens_per_batch": 10,
    }
    return Course(by, **{**settings, **changes})


@pytest.mark.parametrize("by", ["steps", "tokens"])
def test_the_dial_of_a_number_does_not_depend_on_what_was_asked_before(by: str) -> None:
    forwards = [course(by).at(number) for number in range(100)]
    asked = course(by)
    assert [asked.at(number) for number in reversed(range(100))] == forwards[::-1]
    assert [course(by).at(number) for number in range(100)] == forwards
    assert forwards[0] == Dial(0.2, 0.25, (("ryans", 0.8), ("airds", 0.2), ("chorales", 0.0)))
    assert forwards[-1] == Dial(1.0, 1.0, (("ryans", 0.0), ("airds", 0.0), ("chorales", 1.0)))
    assert [asked.is_over(number) for number in range(100)] == [
        asked.amount(number) >= (40 if by == "steps" else 400) for number in range(100)
    ]


def test_with_nothing_to_turn_every_dial_is_whole() -> None:
    idle = Course("steps")
    assert {idle.at(number) for number in range(10)} == {Dial()}
    assert idle.is_over(0)
    assert idle.turns == ()


def test_steps_that_gather_several_batches_move_the_dial_by_steps() -> None:
    gathered = course(batches_per_step={0: 4})
    assert [gathered.at(number) for number in range(160)] == [course().at(number // 4) for number in range(160)]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


@pytest.mark.parametrize("by", ["steps", "tokens", "value"])
def test_after_a_resume_or_in_another_process_it_says_the_same(by: str) -> None:
    first = course(by)
    if by == "value":
        for number, value in ((5, 4.0), (15, 3.0), (30, 2.0)):
            first.judge(value, goal=1.0, first=number + 8)
    again, sent = course(by), pickle.loads(pickle.dumps(first))
    again.load_state_dict(through_a_file(first.state_dict(20)))
    dials = [first.at(number) for number in range(90)]
    assert len(set(dials)) >= 3
    assert [again.at(number) for number in range(90)] == dials == [sent.at(number) for number in range(90)]


def test_where_batches_are_passed_over_a_decision_holds_from_as_many_batches_later() -> None:
    by = "value"
    before, after = course(by), course(by)
    before.judge(4.0, 1.0, 10, count=10)
    before.judge(2.5, 1.0, 30, count=30)
    foretold = course(by)
    foretold.foretell(before.table)
    for each, state in ((after, before.state_dict(25)), (foretold, course(by).state_dict(25))):
        each.load_state_dict(through_a_file(state), number_of=lambda count: count + 2 * (count >= 26))
        assert [each.amount(number) for number in (31, 32)] == [0.0, 0.5]
        assert pickle.loads(pickle.dumps(each)).at(32) == each.at(32)


def test_with_another_accumulation_it_goes_on_from_the_steps_that_were_made() -> None:
    before, after = course(batches_per_step={0: 2}), course(batches_per_step={0: 5})
    after.load_state_dict(before.state_dict(40))
    assert [after.amount(number) for number in (40, 44, 45, 50)] == [20, 20, 21, 22]
    third = course(batches_per_step={0: 1})
    third.load_state_dict(after.state_dict(50))
    assert [third.amount(number) for number in (50, 51)] == [22, 23]


def test_with_batches_of_another_size_it_goes_on_from_the_same_row() -> None:
    before, after = course("tokens", length=None), course("tokens", length=None, tokens_per_batch=20)
    after.load_state_dict(before.state_dict(12), rows=(4, 8))
    assert [after.amount(number) for number in (6, 7)] == [120, 140]
    decided, in_halves = course("value"), course("value")
    decided.judge(4.0, 1.0, 10)
    decided.judge(2.5, 1.0, 30)
    in_halves.load_state_dict(decided.state_dict(12), rows=(8, 4))
    assert [in_halves.amount(number) for number in (59, 60)] == [0.0, 0.5]


def test_with_another_unit_it_counts_from_the_first_batch() -> None:
    tokens = course("tokens")
    tokens.load_state_dict(course("steps").state_dict(12))
    assert tokens.at(12) == course("tokens").at(12)


# By a monitored value.


def test_competence_is_the_part_of_the_way_from_the_first_value_to_the_goal() -> None:
    taught = course("value")
    assert [taught.judge(value, 1.0, number) for number, value in ((10, 5.0), (20, 4.0), (30, 2.0))] == [
        None,
        Decision(20, 0.25),
        Decision(30, 0.75),
    ]
    assert [taught.amount(number) for number in (0, 19, 20, 29, 30, 999)] == [0.0, 0.0, 0.25, 0.25, 0.75, 0.75]
    rising = course("value")
    rising.judge(0.2, 0.6, 10)
    assert rising.judge(0.5, 0.6, 20) is not None
    assert rising.amount(20) == pytest.approx(0.75)


@given(st.lists(st.one_of(st.floats(-3.0, 9.0), st.just(float("nan")), st.just(float("inf"))), max_size=20))
def test_it_never_falls_and_nothing_that_was_asked_for_is_changed(values: list[float]) -> None:
    taught, told, asked = course("value"), list[Dial](), 0
    for place, value in enumerate(values):
        asked = 10 * place + 7
        told += [taught.at(number) for number in range(len(told), asked)]
        taught.judge(value, 1.0, first=asked)
    told += [taught.at(number) for number in range(len(told), asked + 20)]
    assert [taught.at(number) for number in range(asked + 20)] == told
    assert [dial.difficulty for dial in told] == sorted(dial.difficulty for dial in told)
    assert taught.is_over(asked + 20) == (taught.table != [] and taught.table[-1].competence == 1.0)


def test_a_goal_that_is_reached_from_the_first_is_everything_at_once() -> None:
    able = course("value")
    assert able.judge(1.0, 1.0, 10) == Decision(10, 1.0)
    assert able.judge(0.5, 1.0, 20) is None


def test_what_is_done_again_goes_by_the_decisions_of_then() -> None:
    then = course("value")
    states = []
    for number, value in ((10, 5.0), (20, 4.0), (30, 2.0), (40, 1.0)):
        then.judge(value, 1.0, number + 3)
        states.append(then.state_dict(number))
    dials = [then.at(number) for number in range(60)]
    for state in (None, *states):
        again = course("value")
        again.foretell(reversed(then.table))
        if state is not None:
            again.load_state_dict(state)
        assert [again.at(number) for number in range(60)] == dials


def test_it_says_what_is_wrong_with_a_course() -> None:
    for by, settings, words in (
        ("step", {}, "Did you mean 'steps'"),
        ("steps", {"length": Pacing()}, "length of a course by steps has no end: set its `until`, in steps"),
        ("tokens", {"mixture": Shift({"a": 1}, {"b": 1})}, "mixture of a course by tokens has no end"),
        ("tokens", {}, "needs to know the tokens of a batch"),
        ("value", {"difficulty": Pacing(until=500)}, "by value has until=500, but the way to the goal ends at 1"),
    ):
        with pytest.raises(ValueError, match=words):
            Course(by, **settings)
