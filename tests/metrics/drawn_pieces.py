"""Pieces as hypothesis draws them: on and off the grid, several tracks and meters, chords, unisons, drums."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from musictrain.notes import Notes, TimeSignature

METERS = [(), ((0, 4, 4),), ((0, 3, 4),), ((0, 6, 8),), ((0, 5, 4),)]
CHANGING_METERS = [((0, 1, 4), (1, 4, 4)), ((0, 3, 4), (6, 4, 4)), ((4, 2, 4),), ((0, 4, 4), (2, 3, 4)), ((0, 5, 16), (2.5, 4, 4))]
BEATS = [n / 8 for n in range(16)] + [n / 3 for n in range(4)]


@st.composite
def pieces(draw: st.DrawFn, *, constant_meter: bool = False, drums: bool = True, at_least: int = 0) -> Notes:
    """A piece of up to 24 notes in up to 8 bars, few pitches and onsets, so that much of it comes back."""
    row = st.tuples(
        st.tuples(st.integers(0, 14), st.sampled_from(BEATS)).map(sum),
        st.sampled_from([0.0, 0.25, 1 / 3, 1.0, 2.5]),
        st.integers(55, 67),
        st.integers(0, 2),
        st.booleans() if drums else st.just(False),
    )
    rows = draw(st.lists(row, min_size=at_least, max_size=24))
    meter = draw(st.sampled_from(METERS if constant_meter else METERS + CHANGING_METERS))
    return of_rows(rows, time_signatures=tuple(TimeSignature(*sign) for sign in meter))


def of_rows(rows: list[tuple[Any, ...]], **columns: Any) -> Notes:
    """Notes from (onset, duration, pitch, track, drum) rows."""
    onset, duration, pitch, track, drum = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    return Notes(onset, duration, pitch, track=track, drum=drum, **columns)  # type: ignore[arg-type]
