"""Notes or bars that the network does not get to read: which tokens of a row belong together, and which of them are hidden.

Targets stay as they are: what is hidden is predicted all the same, and what follows it has to be guessed from what came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.protocol import TokenIds, Tokenizer

Unit = Literal["notes", "bars"]
OF_A_NOTE = ("Pitch", "PitchDrum", "Velocity", "Duration")
STAYS_IN_A_BAR = ("Bar", "TimeSig", "Tempo")


@dataclass(frozen=True, eq=False)
class Masker:
    """Hides whole notes, or whole bars, each with the same probability.

    Args:
        rate: that probability.
        hideable: which tokens can be hidden at all, (vocab,).
        begins: which tokens begin a note or a bar, (vocab,); None: notes are held on a grid.
        step: tokens of a step of that grid.
    """

    rate: float
    hideable: NDArray[np.bool_]
    begins: NDArray[np.bool_] | None
    step: int = 1

    @classmethod
    def of(cls, tokenizer: Tokenizer, unit: Unit, rate: float) -> Masker | None:
        """The masker for a vocabulary, by its token names; None for a rate of 0.

        A note is its pitch, velocity and duration, not its program; on a grid, all steps in a row for which a voice keeps its pitch. Of a
        bar everything is hidden but its beginning, metre and tempo. Begin, end, padding and a grid's rests are never hidden.

        Raises:
            ValueError: if the rate is no probability below 1, or the tokenizer does not tell notes or bars.
        """
        check_mask(tokenizer, unit, rate)
        if rate == 0.0:
            return None
        names = kinds_of(tokenizer)
        if unit == "bars":
            return cls(rate, ~np.isin(names, STAYS_IN_A_BAR) & ~special(tokenizer), names == "Bar")
        if "Pitch" in names:
            return cls(rate, np.isin(names, OF_A_NOTE), np.isin(names, ("Pitch", "PitchDrum")))
        rests = np.array([tokenizer.token_name(token).endswith("_Rest") for token in range(tokenizer.vocab_size)])
        return cls(rate, ~special(tokenizer) & ~rests, None, tokenizer.tokens_per_step)

    def hidden(self, tokens: TokenIds, chance: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which tokens of a window (time,) are hidden, by a number in [0, 1) for each group, at least (time + 1,)."""
        # What stands before the first beginning is a group of its own, the tail of a note or a bar.
        groups = held_notes(tokens, self.step) if self.begins is None else np.cumsum(self.begins[tokens], dtype=np.int64)
        return (chance[groups] < self.rate) & self.hideable[tokens]


def held_notes(tokens: TokenIds, step: int) -> NDArray[np.int64]:
    """For every token the place where its note begins: on a grid, a voice keeps its note while its token stays.

    ``tokens`` begins with the first voice of a step.
    """
    time = len(tokens)
    frames = np.pad(tokens, (0, -time % step), constant_values=-1).reshape(-1, step)
    changed = np.ones(frames.shape, np.bool_)
    changed[1:] = frames[1:] != frames[:-1]
    place = np.arange(frames.size).reshape(frames.shape)
    return np.maximum.accumulate(np.where(changed, place, 0), axis=0).reshape(-1)[:time]


def kinds_of(tokenizer: Tokenizer) -> NDArray[Any]:
    """What stands before the underscore in each token's name, (vocab,)."""
    return np.array([tokenizer.token_name(token).partition("_")[0] for token in range(tokenizer.vocab_size)])


def special(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Padding, begin and end, (vocab,)."""
    found = np.zeros(tokenizer.vocab_size, np.bool_)
    found[[tokenizer.pad_id, *tokenizer.begin, *tokenizer.end]] = True
    return found


def check_mask(tokenizer: Tokenizer, unit: Unit, rate: float) -> None:
    """Refuse a mask that cannot be.

    Raises:
        ValueError: if the rate is outside [0, 1), or, where it is not 0, the tokenizer does not tell notes or bars.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"mask_{unit}={rate}, expected a probability of at least 0 (off) and below 1.")
    if rate == 0.0:
        return
    names = kinds_of(tokenizer)
    if unit == "bars" and "Bar" not in names:
        raise ValueError(
            f"mask_bars={rate}, but {tokenizer.name} writes no bar lines: leave it at 0, use mask_notes, or take a tokenizer with Bar "
            "tokens, such as MidiTokTokenizer with kind REMI."
        )
    if unit == "notes" and "Pitch" not in names and tokenizer.tokens_per_step == 1:
        raise ValueError(f"mask_notes={rate}, but {tokenizer.name} has neither Pitch tokens nor voices on a grid: leave it at 0.")
