"""Names for people: voices of a chorale, General MIDI instrument families, drums."""

from __future__ import annotations

from musictrain.notes import Notes

VOICES = ("Soprano", "Alto", "Tenor", "Bass")
INSTRUMENT_FAMILIES = (
    "Piano", "Bells", "Organ", "Guitar", "Bass", "Strings", "Ensemble", "Brass", "Reed", "Flute", "Synth lead", "Synth pad",
    "Synth effects", "Plucked", "Percussive", "Sound effects",
)  # fmt: skip
DRUM_NAMES = {
    35: "kick", 36: "kick", 37: "stick", 38: "snare", 39: "clap", 40: "snare", 41: "tom", 42: "hat", 43: "tom", 44: "hat (foot)",
    45: "tom", 46: "open hat", 47: "tom", 48: "tom", 49: "crash", 50: "tom", 51: "ride", 52: "china", 53: "ride bell", 54: "tambourine",
    55: "splash", 56: "cowbell", 57: "crash", 59: "ride", 60: "bongo", 61: "bongo", 62: "conga", 63: "conga", 64: "conga", 69: "cabasa",
    70: "maracas", 75: "claves", 76: "wood block", 77: "wood block", 80: "triangle", 81: "triangle", 82: "shaker",
}  # fmt: skip


def drum_name(pitch: int) -> str:
    """What General MIDI plays at ``pitch`` of a drum track, in a word or two; "other" for the rarer drums."""
    return DRUM_NAMES.get(pitch, "other")


def is_chorale(notes: Notes) -> bool:
    """Whether these are the voices of a chorale: tracks 0 to 3, all of program 0, no drums."""
    parts = set(zip(notes.track.tolist(), notes.program.tolist(), notes.drum.tolist(), strict=True))
    return parts == {(track, 0, False) for track in range(4)}


def part_names(notes: Notes) -> dict[tuple[int, int], str]:
    """A name for every (track, program) that has pitched notes, in that order.

    Four tracks 0 to 3 that all play program 0 are the voices of a chorale; tracks that share a name get a number.

    >>> part_names(Notes.from_rows([(0, 1, 60)], program=[40]))
    {(0, 40): 'Strings'}
    """
    pitched = notes.pitched()
    parts = sorted(set(zip(pitched.track.tolist(), pitched.program.tolist(), strict=True)))
    if is_chorale(notes):
        return dict(zip(parts, VOICES, strict=True))
    names = [INSTRUMENT_FAMILIES[program // 8] if 0 <= program <= 127 else f"Program {program}" for _, program in parts]
    return {
        part: name if names.count(name) == 1 else f"{name} {names[: index + 1].count(name)}"
        for index, (part, name) in enumerate(zip(parts, names, strict=True))
    }
