"""What the four voices of a frame can be, between VoiceGrid's tokens and a network that thinks in frames.

Conventions: a *frame* is one step of the grid, four tokens from soprano to bass. A voice's *class* is 0 for a rest, 1 for the lowest pitch
and so on up to the highest, then one class for the frame of four BOS, one for that of four EOS, and one for what is not known: padding,
or a token that is not there yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

VOICES = 4
PAD, BOS, EOS, SPECIALS = 0, 1, 2, 3
REST = 0
IMPOSSIBLE = -1e4
"""Logit of a token that cannot stand at its place; finite, so that no loss is ever nan."""


@dataclass(frozen=True)
class FrameClasses:
    """The classes of a voice, for VoiceGrid's pitches.

    Args:
        lowest: lowest MIDI pitch of the tokenizer.
        highest: its highest, included.
        max_interval: in semitones; wider intervals count as this wide.
    """

    lowest: int
    highest: int
    max_interval: int

    @property
    def pitches(self) -> int:
        """Number of pitches; also the class of the highest."""
        return self.highest - self.lowest + 1

    @property
    def bos(self) -> int:
        """The class of every voice of the frame that begins a piece."""
        return self.pitches + 1

    @property
    def eos(self) -> int:
        """The class of every voice of the frame that ends a piece."""
        return self.pitches + 2

    @property
    def unknown(self) -> int:
        """The class of padding and of tokens that are not there yet."""
        return self.pitches + 3

    @property
    def num_classes(self) -> int:
        """All of them."""
        return self.pitches + 4

    @property
    def num_intervals(self) -> int:
        """Values of ``interval``."""
        return 2 * self.max_interval + 2

    @property
    def vocab_size(self) -> int:
        """Number of VoiceGrid's tokens."""
        return SPECIALS + VOICES * (self.pitches + 1)

    def from_tokens(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Classes (batch, num_frames, 4) of tokens (batch, time), which begin with a soprano; what is missing at the end is unknown."""
        tokens = F.pad(tokens, (0, VOICES * num_frames - tokens.shape[1]), value=PAD)
        classes = (tokens - SPECIALS) % (self.pitches + 1)
        for token, special in ((PAD, self.unknown), (BOS, self.bos), (EOS, self.eos)):
            classes = torch.where(tokens == token, special, classes)
        return classes.view(len(tokens), num_frames, VOICES)

    def sounds(self, classes: Tensor) -> Tensor:
        """Whether a class is a pitch, in the shape of ``classes``."""
        return (classes > REST) & (classes <= self.pitches)

    def interval(self, upper: Tensor, lower: Tensor) -> Tensor:
        """From ``lower`` up to ``upper`` in semitones, plus ``max_interval``; ``num_intervals - 1`` where either is no pitch."""
        semitones = (upper - lower).clamp(-self.max_interval, self.max_interval) + self.max_interval
        return torch.where(self.sounds(upper) & self.sounds(lower), semitones, self.num_intervals - 1)

    def token_logits(self, logits: Tensor, frames: Tensor) -> Tensor:
        """Logits of the voices as logits of tokens; a token that cannot stand at its place gets ``IMPOSSIBLE``.

        A soprano's place offers its rest, its pitches and EOS; the other voices follow the soprano: after BOS or EOS there is no choice,
        otherwise there are the rest and the pitches.

        Args:
            logits: (batch, frames, 4, pitches + 2): the rest, the pitches, the end.
            frames: (batch, frames, 4) classes.

        Returns:
            (batch, 4 * frames, vocab_size).
        """
        soprano = frames[..., :1]
        begins, ends = soprano == self.bos, soprano == self.eos
        notes, end = logits.split([self.pitches + 1, 1], -1)
        never = torch.full_like(end[:, :, 0], IMPOSSIBLE)
        rows = []
        for voice in range(VOICES):
            begin_here = torch.where(begins, 0.0, never) if voice else never
            end_here = torch.where(ends, 0.0, never) if voice else end[:, :, 0]
            notes_here = torch.where(begins | ends, never, notes[:, :, voice]) if voice else notes[:, :, 0]
            other_voices = (voice * (self.pitches + 1), (VOICES - 1 - voice) * (self.pitches + 1))
            rows.append(torch.cat([never, begin_here, end_here, F.pad(notes_here, other_voices, value=IMPOSSIBLE)], -1))
        return torch.stack(rows, 2).flatten(1, 2)
