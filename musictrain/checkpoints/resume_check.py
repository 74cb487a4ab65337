"""Whether a version fits the run that is to go on from it, found out before any weight is touched."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from musictrain.checkpoints.seal import Seal, SealError, read_seal

log = logging.getLogger(__name__)


class ResumeMismatchError(ValueError):
    """A version of another model, tokenizer or corpus than the run has; the message names both values."""


def check_resumable(path: str | Path, tree: Mapping[str, Any], module: LightningModule, fingerprints: Mapping[str, str]) -> None:
    """Hold a checkpoint against the run that is to go on from it.

    Args:
        path: of the checkpoint.
        tree: what it holds.
        module: that is to take its weights.
        fingerprints: of the run's tokenizer and corpus.

    Raises:
        ResumeMismatchError: naming what differs, then and now.
    """
    seal: Seal | None = None
    try:
        seal = read_seal(path)
    except (SealError, OSError):
        log.info("%s has no seal to compare.", path)
    for what, now in fingerprints.items():
        then = getattr(seal, what, "")
        if then and then != now:
            raise ResumeMismatchError(
                f"{Path(path).name} was trained with the {what} of fingerprint {then}, but this run has {now}. "
                f"Give the run the {what} it began with, or start a new run instead of resuming."
            )
    _check_weights(Path(path), tree.get("state_dict"), module)


def _check_weights(path: Path, stored: Any, module: LightningModule) -> None:
    here = module.state_dict()
    if not here or not isinstance(stored, Mapping):
        return
    faults = weight_faults(stored, here)
    if not module.strict_loading or is_overridden("on_load_checkpoint", module):
        # What the module adds or takes away when it loads cannot be known here.
        faults = [fault for fault in faults if "shape" in fault]
    if faults:
        more = f" and {len(faults) - 3} more differences" if len(faults) > 3 else ""
        raise ResumeMismatchError(
            f"{path.name} holds another model than this run has: {'; '.join(faults[:3])}{more}. Give the run the model it began with, or "
            "start a new run."
        )


def weight_faults(stored: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between stored weights and those of a module, by name, shapes first."""
    common = [name for name in stored if name in here and hasattr(stored[name], "shape") and hasattr(here[name], "shape")]
    shapes = [
        f"{name} has the shape {tuple(stored[name].shape)} there and {tuple(here[name].shape)} here"
        for name in common
        if stored[name].shape != here[name].shape
    ]
    only_there = [f"{name} is only there" for name in stored if name not in here]
    return [*shapes, *only_there, *(f"{name} is only here" for name in here if name not in stored)]
