"""VoiceGrid: four ordered voices on a regular grid, one token for each voice at each step."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from musictrain.data.tokenizers.fingerprints import fingerprint_of
from musictrain.data.tokenizers.protocol import Grammar, TokenIds
from musictrain.data.tokenizers.voice_frames import NUM_VOICES, REST, frames_from_notes, notes_from_frames
from musictrain.data.tokenizers.voice_grid_grammar import VoiceGridGrammar
from musictrain.notes import Notes

PAD, BOS, EOS, FIRST = 0, 1, 2, 3
VOICE_NAMES = ("Soprano", "Alto", "Tenor", "Bass")


class VoiceGrid:
    """Soprano, alto, tenor and bass of step 0, then of step 1, and so on: the likelihood of Table A's chorale protocol.

    Ids: PAD 0, BOS 1, EOS 2; then for each voice its rest and its pitches from ``lowest`` up. A pitch repeated without a gap
    merges with its neighbour, since a grid does not say where a note is struck again. Velocity, program and tempo are not held.

    Args:
        lowest: lowest MIDI pitch.
        highest: highest MIDI pitch, included.
        steps_per_beat: steps a quarter note; 4 is the 16th grid.

    Raises:
        ValueError: if the pitches are not 0 <= lowest <= highest <= 127, or there is no step in a beat.
    """

    tokens_per_step = NUM_VOICES
    pad_id = PAD
    begin = (BOS,) * NUM_VOICES
    end = (EOS,) * NUM_VOICES
    name = "VoiceGrid"

    def __init__(self, lowest: int = 21, highest: int = 108, steps_per_beat: int = 4) -> None:
        if not 0 <= lowest <= highest <= 127:
            raise ValueError(f"VoiceGrid got pitches {lowest} to {highest}; it needs 0 <= lowest <= highest <= 127.")
        if steps_per_beat < 1:
            raise ValueError(f"VoiceGrid got steps_per_beat={steps_per_beat}; it needs at least 1 (4 is the 16th grid).")
        self.lowest, self.highest, self.steps_per_beat = int(lowest), int(highest), int(steps_per_beat)
        self.tokens_per_voice = self.highest - self.lowest + 2
        self.vocab_size = FIRST + NUM_VOICES * self.tokens_per_voice

    def encode(self, notes: Notes) -> TokenIds:
        """The piece as (4 x steps,) token ids; which note is heard where: see ``frames_from_notes``.

        Raises:
            ValueError: if the piece is not four-part (see ``frames_from_notes``) or has a pitch outside the range.
        """
        outside = notes.pitch[(notes.pitch < self.lowest) | (notes.pitch > self.highest)]
        if len(outside) and not notes.drum.any():
            raise ValueError(f"VoiceGrid holds pitches {self.lowest} to {self.highest}; this piece has {np.unique(outside).tolist()}.")
        return self.encode_frames(frames_from_notes(notes, self.steps_per_beat))

    def decode(self, tokens: TokenIds) -> Notes:
        """The notes of every complete frame (four tokens, soprano to bass, in succession); whatever else there is is dropped."""
        return notes_from_frames(self.decode_frames(tokens), self.steps_per_beat)

    def encode_frames(self, frames: TokenIds) -> TokenIds:
        """A (steps, 4) matrix of pitches and -1 for rests as (4 x steps,) token ids. The caller sees to the range."""
        within_voice = np.where(np.asarray(frames) == REST, 0, np.asarray(frames) - self.lowest + 1)
        return (FIRST + np.arange(NUM_VOICES) * self.tokens_per_voice + within_voice).reshape(-1).astype(np.int64)

    def decode_frames(self, tokens: TokenIds) -> TokenIds:
        """The (steps, 4) matrix of a token sequence's complete frames, -1 for rests."""
        tokens = np.asarray(tokens, np.int64).reshape(-1)
        tokens = tokens[(tokens >= FIRST) & (tokens < self.vocab_size)]
        voice, within_voice = np.divmod(tokens - FIRST, self.tokens_per_voice)
        if len(tokens) < NUM_VOICES:
            return np.zeros((0, NUM_VOICES), np.int64)
        complete = (np.lib.stride_tricks.sliding_window_view(voice, NUM_VOICES) == np.arange(NUM_VOICES)).all(axis=1)
        frames = np.lib.stride_tricks.sliding_window_view(within_voice, NUM_VOICES)[complete]
        return np.where(frames == 0, REST, frames + self.lowest - 1)

    def token_name(self, token: int) -> str:
        """PAD, BOS, EOS, or voice and pitch: ``Soprano_60``, ``Bass_Rest``.

        >>> VoiceGrid().token_name(43)
        'Soprano_60'
        """
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"{self} has tokens 0 to {self.vocab_size - 1}, not {token}.")
        if token < FIRST:
            return ("PAD", "BOS", "EOS")[token]
        voice, within_voice = divmod(int(token) - FIRST, self.tokens_per_voice)
        return f"{VOICE_NAMES[voice]}_{within_voice + self.lowest - 1 if within_voice else 'Rest'}"

    def transposition(self, semitones: int) -> TokenIds:
        """Every token's twin ``semitones`` higher, (vocab,); rests and special tokens stay, -1 is out of range."""
        table = np.arange(self.vocab_size)
        pitch = (table - FIRST) % self.tokens_per_voice
        moved = pitch + semitones
        in_range = (moved >= 1) & (moved < self.tokens_per_voice)
        return np.where((table < FIRST) | (pitch == 0), table, np.where(in_range, table + semitones, -1))

    def grammar(self) -> Grammar:
        """Soprano, alto, tenor, bass; the end only between two frames."""
        return VoiceGridGrammar(self.tokens_per_voice)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"lowest": self.lowest, "highest": self.highest, "steps_per_beat": self.steps_per_beat}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits of class, arguments and token names."""
        return fingerprint_of(self)

    def __repr__(self) -> str:
        return f"VoiceGrid(lowest={self.lowest}, highest={self.highest}, steps_per_beat={self.steps_per_beat})"
