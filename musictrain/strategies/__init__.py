"""How a run is spread over devices: DDP, FSDP, tensor parallelism, precision, threads."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musictrain.strategies.exact_ddp import ExactDDPStrategy
    from musictrain.strategies.sharded import ShardedStrategy

_HOMES = {
    "ExactDDPStrategy": "musictrain.strategies.exact_ddp",
    "ShardedStrategy": "musictrain.strategies.sharded",
}

__all__ = ["ExactDDPStrategy", "ShardedStrategy"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'musictrain.strategies' has no attribute {name!r}. It has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
