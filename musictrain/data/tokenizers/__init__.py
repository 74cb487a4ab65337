"""Tokenizers: notes to token ids and back."""

from musictrain.data.tokenizers.protocol import Grammar, TokenIds, Tokenizer
from musictrain.data.tokenizers.voice_grid import VoiceGrid

__all__ = ["Grammar", "TokenIds", "Tokenizer", "VoiceGrid"]
