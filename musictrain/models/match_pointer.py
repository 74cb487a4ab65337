"""A pointer to earlier places of the piece: where the music went, after it had gone as it goes now.

The places are the frames a whole number of beats back. How much a place counts depends on for how long the music there has agreed with
the music here (the whole chord, the soprano, the bass), on how far back it is, and on whether the voices of this frame that are decided
already agree with it too. Phrases that come back, sequences and long notes are predicted so without being remembered by heart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from musictrain.models.frame_classes import IMPOSSIBLE, VOICES, FrameClasses
from musictrain.models.frame_features import decided_before, run_lengths

FAR = 32
"""In beats; places from here on share one bias."""
RUNS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Lengths of agreement, in frames, that add a bias of their own each."""
STRANDS = 3
"""What may agree: the whole chord, the soprano, the bass."""


class Proposal(NamedTuple):
    """What the pointer proposes for each note of some frames.

    Args:
        mass: (batch, frames, 4, pitches + 1) probability of the rest and each pitch; they sum to at most 1.
        trust: (batch, frames, 4, 2) the whole probability given to places, and the part of it on repeating the note before.
        runs: (batch, frames, lags, 3) for how many frames each place had agreed before each frame.
    """

    mass: Tensor
    trust: Tensor
    runs: Tensor


class MatchPointer(nn.Module):
    """Scores every place and spreads one unit of probability over them and over none of them.

    Nothing but sums of biases: some three hundred numbers, none of which belongs to a weight decay.

    Args:
        classes: of the voices.
        frames_per_beat: frames of a beat.
    """

    earlier: Tensor

    def __init__(self, classes: FrameClasses, frames_per_beat: int) -> None:
        super().__init__()
        self.classes = classes
        self.frames_per_beat = frames_per_beat
        self.run_bias = nn.Parameter(torch.full((STRANDS * len(RUNS), VOICES), 0.3))
        self.lag_bias = nn.Parameter(torch.zeros(FAR + 1, VOICES))
        self.nowhere_bias = nn.Parameter(torch.full((VOICES,), 3.0))
        self.agreement_bias = nn.Parameter(torch.full((VOICES, VOICES), 0.5))
        self.register_buffer("earlier", decided_before(), persistent=False)

    def forward(self, past: Tensor, now: Tensor, before: Tensor, last_runs: Tensor) -> Proposal:
        """The proposals for frames ``now``.

        Args:
            past: (batch, lags * frames_per_beat, 4) classes of the frames before: places up to ``lags`` beats back are looked at.
            now: (batch, frames, 4) classes of the frames.
            before: (batch, frames, 4) classes of the frame before each.
            last_runs: (batch, lags, 3) for how many frames each place had agreed before the first frame.
        """
        there = self._places(past, now)
        runs = run_lengths(self._agreeing(there[:, :-1], now[:, :-1]), last_runs)
        share = self._shares(there, now, runs).transpose(2, 3)
        there = there.transpose(2, 3)
        mass = share.new_zeros(*now.shape, self.classes.num_classes).scatter_add(-1, there, share)
        held = mass.gather(-1, before[..., None])
        trust = torch.cat([share.sum(-1, keepdim=True), held], -1)
        return Proposal(mass[..., : self.classes.pitches + 1], trust, runs)

    def _places(self, past: Tensor, now: Tensor) -> Tensor:
        """Classes (batch, frames, lags, 4) of the frames 1, 2, ... beats before each."""
        lags = past.shape[1] // self.frames_per_beat
        here = past.shape[1] + torch.arange(now.shape[1], device=now.device)
        back = self.frames_per_beat * torch.arange(1, lags + 1, device=now.device)
        return torch.cat([past, now], 1)[:, here[:, None] - back]

    def _agreeing(self, there: Tensor, now: Tensor) -> Tensor:
        """Whether chord, soprano and bass (batch, frames, lags, 3) are there what they are now."""
        same = (there == now[:, :, None]) & (there != self.classes.unknown)
        return torch.stack([same.all(-1), same[..., 0], same[..., -1]], -1)

    def _shares(self, there: Tensor, now: Tensor, runs: Tensor) -> Tensor:
        """Probability (batch, frames, lags, 4) of each place for each voice; what is missing to 1 is that of none."""
        lags = there.shape[2]
        beats = torch.arange(1, lags + 1, device=now.device).clamp(max=FAR)
        reached = torch.cat([runs >= length for length in RUNS], -1).to(self.run_bias.dtype)
        agrees = (there == now[:, :, None]).to(self.run_bias.dtype)
        score = reached @ self.run_bias + self.lag_bias[beats] + agrees @ (self.agreement_bias * self.earlier.t())
        score = score.to(torch.promote_types(score.dtype, torch.float32))
        score = score.masked_fill(~(runs > 0).any(-1, keepdim=True), IMPOSSIBLE)
        nowhere = self.nowhere_bias.to(score.dtype).expand(*score.shape[:2], 1, -1)
        return torch.cat([nowhere, score], 2).softmax(2)[:, :, 1:]
