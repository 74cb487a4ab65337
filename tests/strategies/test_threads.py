"""Processes of one machine share its cores."""

from __future__ import annotations

import pytest
import torch

from musictrain.strategies.threads import crowding, settle_threads, threads_for


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_process_gets_an_equal_share() -> None:
    assert [threads_for(processes, 8) for processes in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]


def test_a_process_among_several_takes_its_share_unless_it_was_told_otherwise() -> None:
    torch.set_num_threads(1)
    assert settle_threads(2, 8, {}) == ""
    assert torch.get_num_threads() == 4
    assert settle_threads(2, 8, {"OMP_NUM_THREADS": "3"}) == ""
    assert torch.get_num_threads() == 4


def test_a_process_alone_keeps_what_it_has() -> None:
    torch.set_num_threads(1)
    assert settle_threads(1, 8, {}) == ""
    assert torch.get_num_threads() == 1


def test_processes_that_would_fight_are_warned_about() -> None:
    assert "2 processes of 8 threads each fight for 8 cores" in settle_threads(2, 8, {"OMP_NUM_THREADS": "8"})
    assert "Set OMP_NUM_THREADS=4" in crowding(2, 8, 8)
    assert "Use 2 at most" in crowding(4, 1, 2)
    assert crowding(4, 2, 8) == ""
