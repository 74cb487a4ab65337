"""A pickup written as what it is: a short first bar before the full ones, so that bar lines fall where the score has them."""

from __future__ import annotations

from musictrain.notes import TimeSignature

DENOMINATORS = (4, 8, 16, 32, 64)


def with_pickup(signatures: tuple[TimeSignature, ...], beats: float) -> tuple[TimeSignature, ...]:
    """The time signatures of a piece whose first bar lasts ``beats``: unchanged unless that is shorter than a full bar.

    >>> [tuple(s) for s in with_pickup((TimeSignature(0.0, 4, 4),), 1.0)]
    [(0.0, 1, 4), (1.0, 4, 4)]
    """
    denominator = next((d for d in DENOMINATORS if (beats * d / 4).is_integer()), None)
    if not signatures or signatures[0].onset > 0 or denominator is None or not 0 < beats < signatures[0].beats_per_bar:
        return signatures
    return (TimeSignature(0.0, int(beats * denominator / 4), denominator), signatures[0]._replace(onset=beats), *signatures[1:])
