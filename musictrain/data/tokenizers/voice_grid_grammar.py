"""The language of VoiceGrid: BOS four times, frames of soprano, alto, tenor, bass, EOS four times."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from musictrain.data.tokenizers.protocol import TokenIds
from musictrain.data.tokenizers.voice_frames import NUM_VOICES

PAD, BOS, EOS, FIRST = 0, 1, 2, 3
START = 0  # states 1 to 3: as many BOS seen
MUSIC = NUM_VOICES  # states 4 to 7: soprano, alto, tenor or bass comes next
ENDED = 2 * NUM_VOICES
NUM_STATES = ENDED + 1


class VoiceGridGrammar:
    """A machine of nine states, its rules two small tables; a state is one int64 for each sequence.

    Before the first token both BOS and a soprano may come, so that a fragment without BOS can be read too. EOS may come
    between two frames, and then nothing but EOS.

    Args:
        tokens_per_voice: size of one voice's part of the vocabulary.
    """

    def __init__(self, tokens_per_voice: int) -> None:
        vocab_size = FIRST + NUM_VOICES * tokens_per_voice
        voice = (np.arange(vocab_size) - FIRST) // tokens_per_voice
        self._allowed = np.zeros((NUM_STATES, vocab_size), bool)
        self._allowed[:MUSIC, BOS] = True
        self._allowed[START, voice == 0] = True
        for v in range(NUM_VOICES):
            self._allowed[MUSIC + v] = voice == v
        self._allowed[[MUSIC, ENDED], EOS] = True
        self._next = np.tile(MUSIC + (voice + 1) % NUM_VOICES, (NUM_STATES, 1))
        self._next[:, PAD] = np.arange(NUM_STATES)
        self._next[:, BOS] = 1
        self._next[1:MUSIC, BOS] = np.arange(2, MUSIC + 1)
        self._next[:, EOS] = ENDED

    def start(self, batch: int) -> NDArray[np.int64]:
        """The state of ``batch`` sequences before their first token."""
        return np.full(batch, START)

    def allowed(self, state: NDArray[np.int64]) -> NDArray[np.bool_]:
        """May token v come next in sequence b: (batch, vocab)."""
        return self._allowed[state]

    def advance(self, state: NDArray[np.int64], tokens: TokenIds) -> NDArray[np.int64]:
        """The state after one more token for each sequence; a token out of turn is read as the voice it names."""
        return self._next[state, np.asarray(tokens)]
