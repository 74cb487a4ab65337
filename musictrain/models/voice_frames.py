"""VoiceFrames: a network for four-voice music on a grid, which reads it frame by frame and remembers where it has been before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from musictrain.models.block_dropout import check_dropouts
from musictrain.models.frame_classes import VOICES, FrameClasses
from musictrain.models.frame_features import frame_features, pair_features, pair_sizes
from musictrain.models.frame_head import FrameHead
from musictrain.models.match_pointer import STRANDS, MatchPointer
from musictrain.models.pair_reader import PairReader, ReaderState

PAIR = 2 * VOICES
"""Tokens of two frames."""


@dataclass
class VoiceFramesCache:
    """What is kept of the tokens fed so far; it does not grow, so that no sequence is too long.

    Args:
        past: (batch, lags * frames_per_beat, 4) classes of the last complete pairs of frames.
        hold: (batch, 4) for how many frames each voice of the last of them had been as it was.
        runs: (batch, lags, 3) for how many frames up to the last each earlier place had agreed.
        reader: what the reader knows after them.
        pending: (batch, < 8) tokens after them.
        length: tokens fed so far.
    """

    past: Tensor
    hold: Tensor
    runs: Tensor
    reader: ReaderState
    pending: Tensor
    length: int = 0

    @property
    def batch_size(self) -> int:
        """Number of sequences."""
        return len(self.pending)


class VoiceFrames(nn.Module):
    """Four voices on a grid, for the tokens of ``VoiceGrid``: a GRU over pairs of frames, a head that decides the notes of a frame from
    soprano to bass, and a pointer to earlier places of the piece.

    The contract of every musictrain network: ``tokens (batch, time) int64 -> logits (batch, time, vocab)``, where ``logits[:, i]``
    predicts token i + 1; with a cache from ``start_cache`` only new tokens are fed. A token that cannot stand at its place has a logit of
    -1e4, so that the music it makes always decodes.

    A window holds one piece and starts at one of its tokens 0, 64, 128, ... (``window_align``), the first BOS being token 0: the network
    counts its frames and bars from there. With ``MusicDataModule`` that is ``packing: false`` and ``align: 64``. Padding may follow the
    piece; what is predicted there means nothing.

    Args:
        vocab_size: number of token ids, that of the tokenizer.
        lowest, highest, steps_per_beat: the tokenizer's.
        embedding: channels of an embedded pair of frames.
        hidden: channels of each GRU layer.
        num_layers: GRU layers.
        head_hidden: channels of the head.
        dropout: on the GRU's and the head's channels, see ``BlockDropout``.
        input_dropout: on the embedded frames, likewise.
        feature_dropout: probability that one of the features of a frame or a note is left out.
        segment_beats: while training, the GRU forgets everything every so many beats; None: never. It makes a step cheaper, by a twentieth
            for 16 beats; against overfitting it did not help. The pointer always sees the whole window.
        pointer_beats: how far back the pointer looks.
        max_interval: in semitones; wider intervals count as this wide.
        beats_per_bar: the place in the bar is counted so, whatever the metre of the piece.
        dropout_block: steps that share a mask of ``dropout`` and ``input_dropout``: frames in the head, pairs of them before it; None
            shares one over all of a sequence (in the GRU: of a segment), as variational dropout does.

    Raises:
        ValueError: if ``vocab_size`` is not that of a VoiceGrid from ``lowest`` to ``highest``, or a size is not positive.
    """

    max_context: int | None = None
    blocks = ("reader.layers", "head")

    def __init__(
        self,
        vocab_size: int,
        lowest: int = 21,
        highest: int = 108,
        steps_per_beat: int = 4,
        embedding: int = 256,
        hidden: int = 384,
        num_layers: int = 2,
        head_hidden: int = 384,
        dropout: float = 0.4,
        input_dropout: float = 0.2,
        feature_dropout: float = 0.1,
        segment_beats: int | None = 16,
        pointer_beats: int = 128,
        max_interval: int = 40,
        beats_per_bar: int = 4,
        dropout_block: int | None = 16,
    ) -> None:
        super().__init__()
        check_positive(steps_per_beat=steps_per_beat, embedding=embedding, hidden=hidden, num_layers=num_layers, head_hidden=head_hidden)
        check_positive(pointer_beats=pointer_beats, max_interval=max_interval, beats_per_bar=beats_per_bar)
        check_dropouts(dropout=dropout, input_dropout=input_dropout, feature_dropout=feature_dropout)
        self.classes = FrameClasses(lowest, highest, max_interval)
        check_vocabulary_fits(self.classes, vocab_size)
        self.vocab_size = vocab_size
        self.pointer_beats = pointer_beats
        self.steps_per_beat = steps_per_beat
        self.period = checked_period(steps_per_beat, beats_per_bar)
        self.reader = PairReader(
            pair_sizes(self.classes, self.period),
            width=embedding,
            hidden=hidden,
            num_layers=num_layers,
            dropout=dropout,
            input_dropout=input_dropout,
            feature_dropout=feature_dropout,
            dropout_block=dropout_block,
            segment=None if segment_beats is None else max(1, segment_beats * steps_per_beat // 2),
        )
        self.pointer = MatchPointer(self.classes, steps_per_beat)
        self.head = FrameHead(
            self.classes,
            context=hidden,
            width=head_hidden,
            period=self.period,
            dropout=dropout,
            feature_dropout=feature_dropout,
            dropout_block=dropout_block,
        )

    @property
    def window_align(self) -> int:
        """Windows start at multiples of this many tokens of their piece."""
        return VOICES * self.period

    def forward(self, tokens: Tensor, cache: VoiceFramesCache | None = None) -> Tensor:
        """Logits (batch, time, vocab) of the token after each of ``tokens`` (batch, time).

        Raises:
            ValueError: if the cache was started for another batch size, or the network is in training mode.
        """
        batch, time = tokens.shape
        if cache is None:
            cache = self._memory(batch, tokens.device, lags=min(self.pointer_beats, 1 + time // (VOICES * self.steps_per_beat)))
        elif batch != cache.batch_size:
            raise ValueError(f"Got {batch} sequences, but this cache was started for {cache.batch_size}: start another.")
        elif self.training:
            raise ValueError("VoiceFrames got a cache while training, when it forgets now and then: call eval() first.")
        return self._read(tokens, cache)

    def start_cache(self, batch_size: int, length: int | None = None) -> VoiceFramesCache:
        """An empty cache for ``batch_size`` sequences; ``length`` does not matter, a fixed amount is remembered."""
        return self._memory(batch_size, self.reader.start.device, lags=self.pointer_beats)

    def _memory(self, batch_size: int, device: torch.device, lags: int) -> VoiceFramesCache:
        """Before the first token, with room for places up to ``lags`` beats back."""
        return VoiceFramesCache(
            past=torch.full((batch_size, lags * self.steps_per_beat, VOICES), self.classes.unknown, device=device),
            hold=torch.zeros(batch_size, VOICES, dtype=torch.int64, device=device),
            runs=torch.zeros(batch_size, lags, STRANDS, dtype=torch.int64, device=device),
            reader=self.reader.first_state(batch_size),
            pending=torch.zeros(batch_size, 0, dtype=torch.int64, device=device),
        )

    def _read(self, tokens: Tensor, cache: VoiceFramesCache) -> Tensor:
        """The logits after each of the tokens, which the cache then knows."""
        tokens, new = torch.cat([cache.pending, tokens], 1), tokens.shape[1]
        first_frame = (cache.length - cache.pending.shape[1]) // VOICES
        num_pairs = tokens.shape[1] // PAIR
        # Two frames more than are complete: the one whose notes are being decided, and the one after it if only its end is missing.
        frames = self.classes.from_tokens(tokens, 2 * num_pairs + 2)
        phase = (first_frame + torch.arange(frames.shape[1], device=tokens.device)) % self.period
        features = frame_features(self.classes, frames, cache.past[:, -1], cache.hold, phase)
        proposal = self.pointer(cache.past, frames, features.before, cache.runs)
        context, reader = self.reader(pair_features(self.classes, features, num_pairs), cache.reader)
        logits = self.classes.token_logits(self.head(context, features, proposal), frames)
        complete = torch.cat([cache.past, frames[:, : 2 * num_pairs]], 1)
        cache.past = complete[:, -cache.past.shape[1] :]
        cache.hold, cache.runs = features.hold[:, 2 * num_pairs], proposal.runs[:, 2 * num_pairs]
        cache.reader, cache.pending, cache.length = reader, tokens[:, PAIR * num_pairs :], cache.length + new
        predicted = tokens.shape[1] + 1
        return logits[:, predicted - new : predicted]


def check_positive(**sizes: int) -> None:
    """Refuses a size below 1.

    Raises:
        ValueError: naming it.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, but must be at least 1.")


def check_vocabulary_fits(classes: FrameClasses, vocab_size: int) -> None:
    """Refuses a vocabulary that is not VoiceGrid's.

    Raises:
        ValueError: naming both sizes.
    """
    if classes.vocab_size != vocab_size:
        raise ValueError(
            f"VoiceFrames got vocab_size={vocab_size}, but VoiceGrid with pitches {classes.lowest} to {classes.highest} has "
            f"{classes.vocab_size} tokens. Give the network the tokenizer's lowest and highest; other tokenizers need another network."
        )


def checked_period(steps_per_beat: int, beats_per_bar: int) -> int:
    """Frames of a bar.

    Raises:
        ValueError: if they are odd, since frames are read two by two.
    """
    period = steps_per_beat * beats_per_bar
    if period % 2:
        raise ValueError(f"A bar of {beats_per_bar} beats with {steps_per_beat} steps has {period} frames, but must have an even number.")
    return period
