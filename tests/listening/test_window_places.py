"""Where a window begins is told by piece and bar, in every token language."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from musictrain.data.tokenizers import MidiTokTokenizer, VoiceGrid
from musictrain.listening.window_places import places_of, window_places
from musictrain.notes import Notes, TimeSignature


class Store:
    """Two pieces in memory."""

    names = ("first", "second")

    def __init__(self, tokenizer: Any, pieces: list[Notes]) -> None:
        self.tokens = [np.array([*tokenizer.begin, *tokenizer.encode(piece), *tokenizer.end]) for piece in pieces]

    def __len__(self) -> int:
        return len(self.tokens)

    def piece(self, number: int) -> Any:
        return self.tokens[number]


def four_parts(beats: int) -> Notes:
    rows = [(beat, 1, pitch + beat % 2) for beat in range(beats) for pitch in (72, 67, 60, 48)]
    return Notes.from_rows(rows, track=[0, 1, 2, 3] * beats)


def test_on_a_grid_every_bar_has_as_many_tokens() -> None:
    grid = VoiceGrid()
    store: Any = Store(grid, [four_parts(12), four_parts(12)])
    bar = 4 * 4 * 4  # voices, steps a beat, beats
    assert window_places(store, grid, [0, 1, 1], [0, 4, 4 + 2 * bar]) == ["first from bar 1", "second from bar 1", "second from bar 3"]
    waltz = {"second": (TimeSignature(0.0, 3, 4),)}
    assert window_places(store, grid, [1], [4 + 2 * bar], waltz) == ["second from bar 3"]
    assert window_places(store, grid, [1], [4 + 9 * 16], waltz) == ["second from bar 4"]


def test_in_events_the_bar_is_that_of_the_next_note() -> None:
    events = MidiTokTokenizer("REMI")
    melody = Notes.from_rows([(beat, 1, 60 + beat) for beat in range(12)])
    store: Any = Store(events, [melody])
    kinds = [events.token_name(int(token)).partition("_")[0] for token in store.piece(0)]
    starts = [place for place, kind in enumerate(kinds) if kind == "Bar"]
    told = window_places(store, events, [0] * len(starts), starts)
    assert told == [f"first from bar {1 + bar}" for bar in range(len(starts))]


def test_rows_of_padding_and_of_no_store_are_passed_over() -> None:
    grid = VoiceGrid()
    store: Any = Store(grid, [four_parts(4)])
    assert window_places(store, grid, [-1, 7], [0, 0]) == []
    assert places_of(None, [(0, 0)]) == []
    assert places_of(SimpleNamespace(store=store, tokenizer=grid), [(0, 0)]) == ["first from bar 1"]


@pytest.mark.parametrize("broken", [SimpleNamespace(names=("a",)), SimpleNamespace(names=())])
def test_what_cannot_be_read_is_left_out(broken: Any) -> None:
    assert places_of(SimpleNamespace(store=broken, tokenizer=VoiceGrid()), [(0, 0)]) == []
