"""Chorale rules once more: what each voice holds at every tick, and the rules as a teacher would say them; slow, from the words alone."""

from __future__ import annotations

from itertools import combinations, groupby, pairwise

from hypothesis import strategies as st

from musictrain.notes import Notes

TICKS = 48
PITCHES = [48, 50, 53, 55, 57, 60, 62, 64, 65, 67, 72, 74]  # many fifths and octaves
ROWS = st.tuples(
    st.sampled_from([0.0, 0.0, 0.5]), st.sampled_from([0.25, 1 / 3, 0.5, 1.0]), st.sampled_from(PITCHES)
)  # rest, length, pitch


@st.composite
def four_voices(draw: st.DrawFn) -> Notes:
    """Four voices that rest now and then, cross, and hold a note beyond the beginning of their next one."""
    onset, duration, pitch, track = [], [], [], []
    for voice in range(4):
        time = 0.0
        for rest, length, height in draw(st.lists(ROWS, min_size=1)):
            onset.append(time + rest)
            duration.append(length + draw(st.sampled_from([0.0, 0.0, 0.125])))
            pitch.append(height)
            track.append(voice)
            time += rest + length
    return Notes(onset, duration, pitch, track=track)


def held(notes: Notes) -> list[tuple[int | None, ...]]:
    """What soprano, alto, tenor and bass hold, each combination once, silence left out."""
    voices: list[dict[int, int]] = [{} for _ in range(4)]
    for onset, duration, pitch, track in zip(notes.onset, notes.duration, notes.pitch, notes.track, strict=True):
        start, stop = round(onset * TICKS), round((onset + duration) * TICKS)
        # A voice that begins a note has ended the one before.
        voices[track] = {tick: other for tick, other in voices[track].items() if tick < start} | dict.fromkeys(
            range(start, stop), int(pitch)
        )
    end = max(tick for voice in voices for tick in voice) + 1
    together = [tuple(voice.get(tick) for voice in voices) for tick in range(end)]
    return [sonority for sonority, _ in groupby(together) if any(pitch is not None for pitch in sonority)]


def is_interval(one: int, other: int, name: str) -> bool:
    apart = abs(one - other)
    return apart in ((7, 19, 31, 43) if name == "fifth" else (0, 12, 24, 36, 48))


def slow_chorale_counts(notes: Notes) -> dict[str, tuple[int, int]]:
    """Faults and chances of each rule, as ``chorale_counts``."""
    sonorities = held(notes)
    fifths = octaves = direct = crossing = spacing = 0
    for before, after in pairwise(sonorities):
        for low, high in combinations(range(4), 2):
            notes_heard = before[low], before[high], after[low], after[high]
            if None in notes_heard:
                continue
            a, b, c, d = (pitch for pitch in notes_heard if pitch is not None)
            if not ((c > a and d > b) or (c < a and d < b)):
                continue
            fifths += is_interval(a, b, "fifth") and is_interval(c, d, "fifth")
            octaves += is_interval(a, b, "octave") and is_interval(c, d, "octave")
            arrives = [name for name in ("fifth", "octave") if is_interval(c, d, name) and not is_interval(a, b, name)]
            direct += (low, high) == (0, 3) and bool(arrives) and abs(c - a) > 2 and abs(c - d) % 12 != abs(a - b) % 12
    for soprano, alto, tenor, bass in sonorities:
        upper = [(soprano, alto), (alto, tenor)]
        crossing += any(one is not None and other is not None and one < other for one, other in [*upper, (tenor, bass)])
        spacing += any(one is not None and other is not None and one - other > 12 for one, other in upper)
    changes, num = len(sonorities) - 1, len(sonorities)
    return {
        "parallel_fifths": (fifths, changes),
        "parallel_octaves": (octaves, changes),
        "direct_intervals": (direct, changes),
        "voice_crossing": (crossing, num),
        "wide_spacing": (spacing, num),
    }
