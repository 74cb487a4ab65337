"""The four notes of a frame, decided one after the other from soprano to bass."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musictrain.models.block_dropout import BlockDropout
from musictrain.models.feature_bag import FeatureBag
from musictrain.models.frame_classes import VOICES, FrameClasses
from musictrain.models.frame_features import FrameFeatures, decided_before, known_classes, note_features, note_sizes
from musictrain.models.match_pointer import Proposal


class FrameHead(nn.Module):
    """Logits of a voice's rest, pitches and end from what was read before the frame and the voices of it decided before.

    A pitch is scored three times: as itself, as an interval from the other voices' notes (those of this frame that are decided, else of the
    one before) and from the voice's own last note, and by what the pointer proposes. Intervals are the same in every key.

    Args:
        classes: of the voices.
        context: channels of what was read before.
        width: channels inside.
        period: frames in a bar, the values of the phase.
        dropout: inside.
        feature_dropout: of the features of a note.
        dropout_block: frames that share a mask, see ``BlockDropout``.
    """

    earlier: Tensor

    def __init__(
        self,
        classes: FrameClasses,
        *,
        context: int,
        width: int,
        period: int,
        dropout: float = 0.0,
        feature_dropout: float = 0.0,
        dropout_block: int | None = 16,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.parts = (classes.pitches + 2, VOICES * (classes.num_intervals - 1), 1)
        sizes = note_sizes(classes, period)
        self.notes = nn.ModuleList(FeatureBag(sizes, width, std=0.2, dropout=feature_dropout) for _ in range(VOICES))
        self.context = nn.Linear(context, VOICES * width)
        self.proposal = nn.Linear(2, width)
        self.hidden = nn.Sequential(
            nn.LayerNorm(width),
            nn.GELU(),
            BlockDropout(dropout, dropout_block),
            nn.Linear(width, width),
            nn.GELU(),
            BlockDropout(dropout, dropout_block),
        )
        self.output = nn.Linear(width, sum(self.parts))
        self.voice_bias = nn.Parameter(torch.zeros(VOICES, sum(self.parts)))
        self.register_buffer("earlier", decided_before(), persistent=False)

    def forward(self, context: Tensor, features: FrameFeatures, proposal: Proposal) -> Tensor:
        """Logits (batch, frames, 4, pitches + 2) of each voice, float32 or wider.

        Args:
            context: (batch, frames / 2, context), what was read before each pair of frames.
            features: of the frames.
            proposal: the pointer's, for the frames.
        """
        known = known_classes(features, self.earlier)
        absolute, relative, pointed = self._scores(context, features, proposal, known).split(self.parts, -1)
        return absolute + F.pad(self._by_interval(relative, known), (1, 1)) + F.pad(proposal.mass * pointed, (0, 1))

    def _scores(self, context: Tensor, features: FrameFeatures, proposal: Proposal, known: Tensor) -> Tensor:
        """What the network says of each note, (batch, frames, 4, sum(parts))."""
        seen = note_features(self.classes, features, known, self.earlier)
        notes = torch.stack([bag(values) for bag, values in zip(self.notes, seen, strict=True)], 2)
        before = self.context(context).repeat_interleave(2, 1).unflatten(-1, (VOICES, -1))
        trust = self.proposal(proposal.trust.to(self.proposal.weight.dtype))
        scores = self.output(self.hidden(before + notes + trust))
        return scores.to(torch.promote_types(scores.dtype, torch.float32)) + self.voice_bias

    def _by_interval(self, relative: Tensor, known: Tensor) -> Tensor:
        """Scores (batch, frames, 4, pitches) of the pitches from those (..., 4 * intervals) of the intervals to the known notes."""
        widest = self.classes.max_interval
        pitch = torch.arange(1, self.classes.pitches + 1, device=known.device)
        interval = (pitch - known[..., None]).clamp(-widest, widest) + widest
        scores = relative.unflatten(-1, (VOICES, -1)).gather(-1, interval)
        return (scores * self.classes.sounds(known)[..., None]).sum(-2)
