"""Tokenizers: notes to token ids and back. Nothing here imports MidiTok or torch before a MidiTok kind is made."""

from musictrain.data.tokenizers.midi_tok import MidiTokTokenizer
from musictrain.data.tokenizers.protocol import Grammar, TokenIds, Tokenizer
from musictrain.data.tokenizers.saved import TokenizerFileError, load_tokenizer, save_tokenizer
from musictrain.data.tokenizers.voice_grid import VoiceGrid

__all__ = [
    "Grammar",
    "MidiTokTokenizer",
    "TokenIds",
    "Tokenizer",
    "TokenizerFileError",
    "VoiceGrid",
    "load_tokenizer",
    "save_tokenizer",
]
