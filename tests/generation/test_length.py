"""Beats become tokens: exactly on a grid, generously elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from musictrain.data.tokenizers import VoiceGrid
from musictrain.generation.length import mean_tokens_per_beat, tokens_for_beats

EVENTS: Any = SimpleNamespace(tokens_per_step=1)


@pytest.mark.parametrize(("beats", "steps_per_beat", "tokens"), [(64, 4, 1024), (0.3, 4, 8), (1, 1, 4)])
def test_a_grid_needs_four_tokens_a_step(beats: float, steps_per_beat: int, tokens: int) -> None:
    assert tokens_for_beats(VoiceGrid(steps_per_beat=steps_per_beat), beats) == tokens


def test_events_get_half_as_much_again_as_the_training_pieces_took() -> None:
    store = SimpleNamespace(tokens=np.zeros(300), num_beats=np.array([40.0, 10.0]))
    assert mean_tokens_per_beat(store) == 6.0
    assert tokens_for_beats(EVENTS, 8, mean_tokens_per_beat(store)) == 72
    assert tokens_for_beats(EVENTS, 8) == 128


@pytest.mark.parametrize("store", [None, SimpleNamespace(tokens=[], num_beats=[])])
def test_what_is_no_store_has_no_rate(store: Any) -> None:
    assert mean_tokens_per_beat(store) is None


@pytest.mark.parametrize("beats", [0, -1, float("nan"), float("inf")])
def test_a_length_is_a_positive_number(beats: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number"):
        tokens_for_beats(EVENTS, beats)
