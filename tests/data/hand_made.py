"""A corpus of pieces made by hand, and its token store."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from musictrain.data.corpus import Corpus, Piece
from musictrain.data.token_store import TokenStore
from musictrain.data.token_store_building import open_or_build
from musictrain.data.tokenizers import VoiceGrid
from musictrain.notes import Notes

GRID = VoiceGrid()


def corpus_of(pieces: dict[str, Notes], splits: dict[str, str] | None = None, name: str = "made by hand") -> Corpus:
    """Pieces by name; all are trained on but those that ``splits`` names."""
    content = "".join(f"{title}{notes.onset}{notes.pitch}" for title, notes in pieces.items()) + f"{splits}"
    made = [Piece(title, title, notes, split=(splits or {}).get(title, "train")) for title, notes in pieces.items()]
    return Corpus(name, made, fingerprint=hashlib.sha256(content.encode()).hexdigest()[:16])


def store_of(corpus: Corpus, folder: Path, tokenizer: Any = GRID) -> TokenStore:
    return open_or_build(corpus, tokenizer, folder, workers=1, progress=False)


def voices(*rhythms: list[float], pitches: list[int] | None = None) -> Notes:
    """One note after the other in each voice, of these lengths in beats, downwards by thirds."""
    columns: list[tuple[float, float, int, int]] = []
    for track, lengths in enumerate(rhythms):
        onset = 0.0
        for place, length in enumerate(lengths):
            pitch = (pitches or [72, 74, 76, 77])[place % len(pitches or [72, 74, 76, 77])] - 4 * track
            columns.append((onset, length, pitch, track))
            onset += length
    onsets, durations, heights, tracks = zip(*columns, strict=True)
    return Notes(onsets, durations, heights, track=tracks)  # type: ignore[arg-type]


def wandering(seed: int, beats: int, num_voices: int = 4) -> Notes:
    """Voices that wander by steps, in notes of a quarter, an eighth or a sixteenth."""
    chance = np.random.default_rng(seed)
    columns: list[tuple[float, float, int, int]] = []
    for track in range(num_voices):
        onset, pitch = 0.0, 72 - 7 * track
        while onset < beats:
            length = min(float(chance.choice([0.25, 0.5, 1.0, 1.0])), beats - onset)
            pitch = int(np.clip(pitch + chance.integers(-2, 3), 40, 84))
            columns.append((onset, length, pitch, track))
            onset += length
    onsets, durations, heights, tracks = zip(*columns, strict=True)
    return Notes(onsets, durations, heights, track=tracks)  # type: ignore[arg-type]
