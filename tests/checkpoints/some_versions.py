"""Versions as a catalogue lists them, without any file behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from musictrain.checkpoints.catalog import Version, version_path
from musictrain.checkpoints.seal import Seal

FOLDER = Path("checkpoints")


def version(number: int, step: int | None = None, *tags: str, readable: bool = True, loss: float | None = None, **facts: Any) -> Version:
    """One version; ``step`` is ten times the number unless given, ``created`` a minute a number, and ``loss`` its val/loss."""
    step = 10 * number if step is None else step
    metrics = {"val/loss": loss} if loss is not None else {}
    facts = {"created": 60.0 * number, "metrics": metrics, "kind": "weights" if "thin" in tags else "full", **facts}
    seal = Seal("0" * 64, 1, number=number, step=step, **facts) if readable else None
    problem = "" if readable else "it has no seal"
    return Version(version_path(FOLDER, number, step, *tags), number, step, frozenset(tags), seal, problem)


def numbers(versions: Any) -> list[int]:
    """The numbers of some versions, in their order."""
    return [each.number for each in versions]
