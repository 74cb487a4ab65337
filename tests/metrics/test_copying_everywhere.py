"""What the index finds is what comparing everything with everything finds: transposed, shifted, in any metre, after a prompt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from musictrain.metrics.copying import copy_counts, longest_match
from musictrain.metrics.copying_index import CopyIndex
from tests.metrics.slow_copying import TICKS, all_shared, bars_of, borrowing, chords_in, music, windows_of

SOURCES = st.lists(music(), min_size=1, max_size=3)
PROMPTS = st.sampled_from([0.0, 0.0, 2.0, 4.0])


def indexed(pieces) -> CopyIndex:
    return CopyIndex.build((f"piece {number}", notes) for number, notes in enumerate(pieces))


@given(st.data(), SOURCES, PROMPTS, st.booleans())
def test_the_longest_match_is_the_longest_with_its_piece_and_bars(data, sources, from_beat, without_the_first):
    piece = data.draw(borrowing(sources))
    left_out = {"piece 0"} if without_the_first else set()
    own = chords_in(piece, from_beat)
    shared = {
        f"piece {number}": all_shared(own, chords_in(notes)) for number, notes in enumerate(sources) if f"piece {number}" not in left_out
    }
    longest = max((one.ticks for found in shared.values() for one in found), default=0)
    match = longest_match(piece, indexed(sources), from_beat=from_beat, but_not_in=left_out)
    if not longest:
        assert match is None
        return
    assert round(match.beats * TICKS) == longest
    place = (longest, round(match.own_beat * TICKS), round(match.source_beat * TICKS), match.semitones)
    (found,) = [one for one in shared[match.source] if one[:4] == place]
    inside = [chord for chord in own if chord[0] >= found.own][: found.chords]
    assert match.notes == sum(len(notes) for _, notes in inside)
    source = sources[int(match.source.removeprefix("piece "))]
    assert match.own_bars == bars_of(piece, found.own, longest)
    assert match.source_bars == bars_of(source, found.source, longest)


@given(st.data(), SOURCES, PROMPTS, st.sampled_from([1, 2, 3]))
def test_copied_windows_are_those_found_by_looking_everywhere(data, sources, from_beat, bars):
    piece = data.draw(borrowing(sources))
    windows = windows_of(piece, bars, from_beat)
    corpus = [chords_in(notes) for notes in sources]
    copied = [any(one.chords == len(window) for source in corpus for one in all_shared(window, source)) for window in windows]
    assert copy_counts(piece, indexed(sources), bars=bars, from_beat=from_beat) == (sum(copied), len(windows))
