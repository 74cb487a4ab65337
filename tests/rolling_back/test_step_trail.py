"""Which batches steps are made of, by their numbers: whole windows, also open ones, over goings back and resumes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from musictrain.data.passed_over import PassedOver
from musictrain.rolling_back import Rollback, StepTrail
from musictrain.rolling_back.fitting import pass_over

EPOCH = 10


class Data:
    """What a data module says of its batches."""

    def __init__(self, *gaps: tuple[int, int], batch_size: int = 2) -> None:
        self.batch_size, self.passed = batch_size, PassedOver()
        for gap in gaps:
            self.pass_over(*gap)

    def pass_over(self, first: int, last: int) -> None:
        self.passed.add(first, last, self.batch_size)

    def number_of_batch(self, index: int) -> int:
        return self.passed.number(index, self.batch_size)


def at(batch: int, window: int = 1, data: Any = None, step: int | None = None) -> Any:
    """A trainer that is working on its batch number ``batch``, from 0, of an epoch of ten."""
    loop = SimpleNamespace(total_batch_idx=batch, batch_idx=batch % EPOCH)
    steps = batch // window if step is None else step
    facts = {"accumulate_grad_batches": window, "num_training_batches": EPOCH, "datamodule": data or Data()}
    return SimpleNamespace(global_step=steps, fit_loop=loop, **facts)


def seen(batches: range, **facts: Any) -> StepTrail:
    trail = StepTrail()
    for batch in batches:
        trail.see(at(batch, **facts))
    return trail


def test_a_step_is_made_of_its_batch_and_several_of_theirs() -> None:
    trail = seen(range(8))
    assert trail.batches(at(7), 3, 3) == (2, 2)
    assert trail.batches(at(7), 3, 5) == (2, 4)
    assert trail.batches(at(7), 8, 8) == (7, 7)


def test_a_window_is_named_as_a_whole_even_while_it_is_open() -> None:
    trail = seen(range(6), window=4)
    assert trail.batches(at(5, window=4), 1, 1) == (0, 3)
    assert trail.batches(at(5, window=4), 2, 2) == (4, 7)
    assert trail.batches(at(5, window=4), 1, 2) == (0, 7)


def test_the_end_of_an_epoch_cuts_a_window_short() -> None:
    trail = seen(range(9), window=4)
    assert trail.batches(at(8, window=4), 3, 3) == (8, 9)


def test_what_was_passed_over_is_jumped_in_the_numbers() -> None:
    data = Data((2, 4))
    trail = seen(range(4), data=data)
    assert [trail.batches(at(3, data=data), step, step) for step in (1, 2, 3, 4)] == [(0, 0), (1, 4), (5, 5), (6, 6)]


def test_steps_that_are_done_again_are_made_of_other_batches() -> None:
    trail, data = seen(range(8)), Data((5, 5))
    for batch in range(4, 7):
        trail.see(at(batch, data=data))
    assert [trail.batches(at(6, data=data), step, step) for step in (5, 6, 7)] == [(4, 5), (6, 6), (7, 7)]


def test_it_goes_on_after_a_resume() -> None:
    before, after = seen(range(6), window=4), StepTrail()
    after.load_state_dict(before.state_dict())
    after.see(at(6, window=4))
    assert after.batches(at(6, window=4), 1, 1) == (0, 3)
    assert after.batches(at(6, window=4), 2, 2) == (4, 7)


def test_with_batches_of_another_size_it_begins_anew() -> None:
    trail, larger = seen(range(6)), Data(batch_size=4)
    trail.see(at(3, data=larger))
    assert trail.batches(at(3, data=larger), 1, 4) == (3, 3)


def test_it_forgets_what_is_long_ago_and_names_the_oldest_it_knows() -> None:
    trail = StepTrail(steps=3)
    for batch in range(20):
        trail.see(at(batch))
    assert trail.batches(at(19), 1, 18) == (17, 17)


def test_before_the_first_batch_there_is_nothing_to_name() -> None:
    with pytest.raises(ValueError, match="No batch was seen yet, so that no step can be told which batches it is made of"):
        StepTrail().batches(at(0), 1, 1)


@pytest.mark.parametrize(("size", "gap"), [(4, (3, 3)), (2, (6, 7)), (8, (1, 1)), (3, (4, 5))])
def test_a_data_module_is_told_in_batches_of_its_own_size(size: int, gap: tuple[int, int]) -> None:
    data = Data(batch_size=size)
    pass_over(data, [Rollback(1, 9, 3, "v000001_step000003", 3, first=3, last=3, batch_size=4), Rollback(2, 9, 3, "v", 3)])
    assert data.passed.ranges(size) == [gap]
    pass_over(object(), [Rollback(1, 9, 3, "v", 3, first=3, last=3)])  # one that cannot: as before
