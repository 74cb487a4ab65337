"""Stored versions: sealed, verified, compressed, kept by rule. Looking at them needs neither torch nor lightning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musictrain.checkpoints.catalog import NoGoodVersionError, Version, best_good, last_good, list_versions
    from musictrain.checkpoints.checkpoint_io import CompressedCheckpointIO
    from musictrain.checkpoints.retention import Retention
    from musictrain.checkpoints.seal import Seal, SealError, read_seal
    from musictrain.checkpoints.verification import BrokenCheckpointError, verify

_HOMES = {
    "BrokenCheckpointError": "musictrain.checkpoints.verification",
    "CompressedCheckpointIO": "musictrain.checkpoints.checkpoint_io",
    "NoGoodVersionError": "musictrain.checkpoints.catalog",
    "Retention": "musictrain.checkpoints.retention",
    "Seal": "musictrain.checkpoints.seal",
    "SealError": "musictrain.checkpoints.seal",
    "Version": "musictrain.checkpoints.catalog",
    "best_good": "musictrain.checkpoints.catalog",
    "last_good": "musictrain.checkpoints.catalog",
    "list_versions": "musictrain.checkpoints.catalog",
    "read_seal": "musictrain.checkpoints.seal",
    "verify": "musictrain.checkpoints.verification",
}

__all__ = [
    "BrokenCheckpointError",
    "CompressedCheckpointIO",
    "NoGoodVersionError",
    "Retention",
    "Seal",
    "SealError",
    "Version",
    "best_good",
    "last_good",
    "list_versions",
    "read_seal",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.checkpoints' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
