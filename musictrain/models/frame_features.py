"""What is seen in a row of frames: what each voice sings, how it moved, for how long it has held, and where in the bar."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from musictrain.models.frame_classes import VOICES, FrameClasses

LONGEST_HOLD = 32
"""In frames; longer holds count as this long."""


def run_lengths(same: Tensor, before: Tensor) -> Tensor:
    """For how many steps in a row something has been so.

    Args:
        same: (batch, time, ...) bool, whether it is so at each step.
        before: (batch, ...) int64, the length of the run that was under way before the first step.

    Returns:
        (batch, time + 1, ...) int64: ``before``, then the length of the run after each step, 0 where it is not so.

    >>> run_lengths(torch.tensor([[True, True, False, True]]), torch.tensor([5])).tolist()
    [[5, 6, 7, 0, 1]]
    """
    step = torch.arange(1, same.shape[1] + 1, device=same.device).view(-1, *[1] * (same.ndim - 2))
    # Where a run began: the last step at which it was not so, or as far before the first step as the run under way is long.
    began = torch.where(same, torch.iinfo(before.dtype).min, step)
    began = torch.cat([-before[:, None], began], 1).cummax(1).values
    return torch.cat([torch.zeros_like(step[:1]), step]) - began


class FrameFeatures(NamedTuple):
    """A row of frames as a network sees it, int64.

    Args:
        now: (batch, frames, 4) classes.
        before: (batch, frames, 4) classes of the frame before each.
        move: (batch, frames, 4) interval from the one to the other.
        hold: (batch, frames + 1, 4) for how many frames each voice had been as it was, one before the first frame and one after each.
        phase: (batch, frames) place in the bar.
    """

    now: Tensor
    before: Tensor
    move: Tensor
    hold: Tensor
    phase: Tensor


def frame_features(classes: FrameClasses, now: Tensor, last: Tensor, last_hold: Tensor, phase: Tensor) -> FrameFeatures:
    """The features of frames ``now`` (batch, frames, 4), after a frame ``last`` (batch, 4) held for ``last_hold`` (batch, 4) frames.

    ``phase`` (frames,) is the place of each in the bar.
    """
    before = torch.cat([last[:, None], now[:, :-1]], 1)
    hold = run_lengths(now == before, last_hold).clamp(max=LONGEST_HOLD)
    return FrameFeatures(now, before, classes.interval(now, before), hold, phase.expand(len(now), -1))


def pair_sizes(classes: FrameClasses, period: int) -> list[int]:
    """Number of values of each of ``pair_features``."""
    chord, moves = [classes.num_classes] * VOICES, [classes.num_intervals] * VOICES
    pairs_of_voices = VOICES * (VOICES - 1) // 2
    holds, verticals = [LONGEST_HOLD + 1] * VOICES, [classes.num_intervals] * pairs_of_voices
    return chord + holds + moves + verticals + [period, LONGEST_HOLD + 1] + chord + moves


def pair_features(classes: FrameClasses, features: FrameFeatures, num_pairs: int) -> Tensor:
    """Frames two by two (batch, num_pairs, features): of the second all there is to see, of the first its chord and how it moved.

    There must be a frame after the last pair: the place in the bar is that of the frame to come.
    """
    frames = 2 * num_pairs
    now, move, hold = features.now[:, :frames], features.move[:, :frames], features.hold[:, 1 : frames + 1]
    upper, lower = torch.triu_indices(VOICES, VOICES, 1, device=now.device)
    vertical = classes.interval(now[..., upper], now[..., lower])
    chord_age = hold.amin(-1, keepdim=True)
    next_phase = features.phase[:, 1 : frames + 1, None]
    second = torch.cat([now, hold, move, vertical, next_phase, chord_age], -1)[:, 1::2]
    return torch.cat([second, now[:, ::2], move[:, ::2]], -1)


def note_sizes(classes: FrameClasses, period: int) -> list[int]:
    """Number of values of each of ``note_features``."""
    chord, intervals = [classes.num_classes] * VOICES, [classes.num_intervals] * VOICES
    return chord + intervals + intervals + [LONGEST_HOLD + 1] * VOICES + [period]


def note_features(classes: FrameClasses, features: FrameFeatures, known: Tensor, earlier: Tensor) -> list[Tensor]:
    """What is known of a frame when each of its notes is decided: for every voice (batch, frames, features).

    Args:
        classes: of the voices.
        features: of the frames.
        known: (batch, frames, voice, other) class of the other voice as far as it is known to the voice, see ``known_classes``.
        earlier: (voice, other) whether the other voice is decided before.
    """
    own = classes.interval(known, features.before[..., None])
    move = torch.where(earlier, features.move[:, :, None], classes.num_intervals - 1)
    common = torch.cat([features.hold[:, :-1], features.phase[..., None]], -1)
    return [torch.cat([known[:, :, voice], own[:, :, voice], move[:, :, voice], common], -1) for voice in range(VOICES)]


def known_classes(features: FrameFeatures, earlier: Tensor) -> Tensor:
    """(batch, frames, voice, other): the other voice's class in this frame if it is decided before the voice, else in the one before."""
    return torch.where(earlier, features.now[:, :, None], features.before[:, :, None])


def decided_before() -> Tensor:
    """(voice, other) bool: whether the other voice of a frame is decided before the voice."""
    return torch.ones(VOICES, VOICES, dtype=torch.bool).tril(-1)
