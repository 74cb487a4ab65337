"""A score file becomes a batch: scores, corpora, tokenizers, the token store, batches. The names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musictrain.data.batches import BatchPlan
    from musictrain.data.corpora import Corpus, CorpusError, Piece, load_corpus
    from musictrain.data.data_report import write_data_report
    from musictrain.data.scores import ScoreError, read_notes, write_midi
    from musictrain.data.token_store import TokenStore
    from musictrain.data.tokenizers import MidiTokTokenizer, VoiceGrid

_HOMES = {
    "ScoreError": "scores",
    "read_notes": "scores",
    "write_midi": "scores",
    "Corpus": "corpora",
    "CorpusError": "corpora",
    "Piece": "corpora",
    "load_corpus": "corpora",
    "write_data_report": "data_report",
    "VoiceGrid": "tokenizers",
    "MidiTokTokenizer": "tokenizers",
    "TokenStore": "token_store",
    "BatchPlan": "batches",
}

__all__ = [  # noqa: RUF022 (the order in which data flows)
    "ScoreError",
    "read_notes",
    "write_midi",
    "Corpus",
    "CorpusError",
    "Piece",
    "load_corpus",
    "write_data_report",
    "VoiceGrid",
    "MidiTokTokenizer",
    "TokenStore",
    "BatchPlan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.data' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(importlib.import_module(f"musictrain.data.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
