"""Four-part pieces of chance, as a corpus and its data module."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from torch import nn

from musictrain.data.tokenizers import VoiceGrid
from musictrain.models import Decoder
from musictrain.notes import Notes

TOKENIZER = VoiceGrid(lowest=48, highest=72, steps_per_beat=1)
LOWEST = (66, 60, 54, 48)


def chorale(seed: int, beats: int = 16) -> Notes:
    """Four voices, each with another note at each beat, so that the grid merges none; no two seeds share more than a chord or two."""
    random = np.random.default_rng(seed)
    heights = random.integers(1, 6, size=(len(LOWEST), beats)).cumsum(axis=1) % 6
    rows = [(beat, 1, low + int(height)) for low, voice in zip(LOWEST, heights, strict=True) for beat, height in enumerate(voice)]
    return Notes.from_rows(rows, track=[voice for voice in range(4) for _ in range(beats)])


def piece(name: str, notes: Notes) -> Any:
    """A piece of a corpus."""
    return SimpleNamespace(name=name, notes=notes)


class TinyCorpus:
    """Eight training and five validation pieces."""

    def __init__(self) -> None:
        self.pieces = {
            "train": [piece(f"bwv{seed}", chorale(seed)) for seed in range(8)],
            "valid": [piece(f"held{seed}", chorale(100 + seed)) for seed in range(5)],
        }

    def split(self, name: str) -> list[Any]:
        """The pieces of a split."""
        return self.pieces[name]


class Music(BoringDataModule):
    """Training numbers that have nothing to do with music, and a corpus beside them."""

    tokenizer = TOKENIZER
    window = 128

    def __init__(self) -> None:
        super().__init__()
        self.corpus = TinyCorpus()


def tiny_decoder() -> Decoder:
    """A decoder that has learned nothing."""
    return Decoder(TOKENIZER.vocab_size, d_model=8, num_layers=1, num_heads=2, max_context=128)


class Playing(BoringModel):
    """A module that trains something else, and has a network to play from."""

    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module = tiny_decoder()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """A loss to watch."""
        self.log("val/loss", float(self.global_step))
