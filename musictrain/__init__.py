"""Train symbolic-music models: from scores to tokens, to a trained network, to music you can listen to.

The public names stand in the order the data flows. They are imported when first used, so that ``import musictrain`` costs
nothing and the commands that only look need neither torch nor lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musictrain.data.corpora import load_corpus
    from musictrain.data.tokenizers import MidiTokTokenizer, VoiceGrid
    from musictrain.datamodule import MusicDataModule
    from musictrain.generation import generate
    from musictrain.models import Committee, Decoder, Recurrent, VoiceFrames
    from musictrain.module import MusicModule
    from musictrain.notes import Notes

_HOMES = {
    "Notes": "musictrain.notes",
    "load_corpus": "musictrain.data.corpora",
    "VoiceGrid": "musictrain.data.tokenizers",
    "MidiTokTokenizer": "musictrain.data.tokenizers",
    "MusicDataModule": "musictrain.datamodule",
    "Decoder": "musictrain.models",
    "Recurrent": "musictrain.models",
    "VoiceFrames": "musictrain.models",
    "Committee": "musictrain.models",
    "MusicModule": "musictrain.module",
    "generate": "musictrain.generation",
}

__all__ = [  # noqa: RUF022  (in the order the data flows)
    "Notes",
    "load_corpus",
    "VoiceGrid",
    "MidiTokTokenizer",
    "MusicDataModule",
    "Decoder",
    "Recurrent",
    "VoiceFrames",
    "Committee",
    "MusicModule",
    "generate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
