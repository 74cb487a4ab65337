"""Whether a version fits the run that is to go on from it, found out before any weight is touched."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from musictrain.checkpoints.consolidating import FRESH, OPTIMIZERS
from musictrain.checkpoints.seal import Seal, SealError, read_seal

log = logging.getLogger(__name__)


class ResumeMismatchError(ValueError):
    """A version of another model, optimizer, tokenizer or corpus than the run has; the message names both."""


def check_fits(path: str | Path, tree: Mapping[str, Any], trainer: Trainer, fingerprints: Mapping[str, str]) -> None:
    """``check_resumable`` for a trainer, and ``check_optimizers`` where its strategy has made them before it loads."""
    check_resumable(path, tree, trainer.lightning_module, fingerprints)
    if trainer.strategy.restore_checkpoint_after_setup:
        check_optimizers(Path(path).name, stored_optimizers(tree), trainer.optimizers)


def check_resumable(path: str | Path, tree: Mapping[str, Any], module: LightningModule, fingerprints: Mapping[str, str]) -> None:
    """Hold a checkpoint against the run that is to go on from it.

    Args:
        path: of the checkpoint.
        tree: what it holds.
        module: that is to take its weights.
        fingerprints: of the run's tokenizer and corpus.

    Raises:
        ResumeMismatchError: naming what differs, then and now, or what the checkpoint lacks.
    """
    seal: Seal | None = None
    try:
        seal = read_seal(path)
    except (SealError, OSError):
        log.info("%s has no seal to compare.", path)
    _check_whole(Path(path), tree, seal)
    for what, now in fingerprints.items():
        then = getattr(seal, what, "")
        if then and then != now:
            raise ResumeMismatchError(
                f"{Path(path).name} was trained with the {what} of fingerprint {then}, but this run has {now}. "
                f"Give the run the {what} it began with, or start a new run instead of resuming."
            )
    _check_weights(Path(path), tree.get("state_dict"), module)


def _check_whole(path: Path, tree: Mapping[str, Any], seal: Seal | None) -> None:
    if (seal is None or seal.resumable) and ("state_dict" not in tree or "optimizer_states" in tree):
        return
    what = f"a version of kind {seal.kind}" if seal is not None and not seal.resumable else "a checkpoint of weights alone"
    raise ResumeMismatchError(
        f"{path.name} is {what}: without optimizer and schedule training cannot go on from it. Go on from ckpt_path='last', validate or "
        "test with it, or load its weights with load_from_checkpoint and start a new run."
    )


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


def optimizer_facts(optimizers: Iterable[Any], fresh: Sequence[bool] = ()) -> list[dict[str, Any]]:
    """What a checkpoint is to tell of its optimizers, as plain values: their class, and how many weights each of their groups has.

    Args:
        optimizers: of the trainer.
        fresh: which of them have made no step; sharded versions hold states of those too, made up by torch.
    """
    facts: list[dict[str, Any]] = [
        {"class": type(each).__qualname__, "groups": [len(group["params"]) for group in each.param_groups]} for each in optimizers
    ]
    for fact, new in zip(facts, fresh, strict=False):
        fact.update({FRESH: True} if new else {})
    return facts


def fresh_ones(tree: Mapping[str, Any]) -> list[bool]:
    """Which optimizers of a checkpoint had made no step."""
    return [bool(each.get(FRESH)) for each in tree.get(OPTIMIZERS) or []]


def stored_optimizers(tree: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The same of a checkpoint; of one that Lightning has written, without the class. None if it tells nothing of them."""
    if OPTIMIZERS in tree:
        return list(tree[OPTIMIZERS])
    states = tree.get("optimizer_states")
    if not isinstance(states, list) or not all(isinstance(state, Mapping) and "param_groups" in state for state in states):
        return None
    return [{"class": "", "groups": [len(group["params"]) for group in state["param_groups"]]} for state in states]


def check_optimizers(name: str, stored: list[dict[str, Any]] | None, optimizers: Iterable[Any]) -> None:
    """Refuse optimizers that a checkpoint's states do not fit: Lightning would leave some out in silence, and torch fail at the first step.

    Args:
        name: of the checkpoint.
        stored: what ``stored_optimizers`` gave.
        optimizers: of this run.

    Raises:
        ResumeMismatchError: naming both.
    """
    if stored is None:
        return
    here = optimizer_facts(optimizers)
    classes_differ = any(then["class"] and then["class"] != now["class"] for then, now in zip(stored, here, strict=False))
    if len(stored) != len(here) or classes_differ or any(then["groups"] != now["groups"] for then, now in zip(stored, here, strict=True)):
        raise ResumeMismatchError(
            f"{name} was trained with {_in_words(stored)}, but this run has {_in_words(here)}. Give the run the optimizer it began "
            "with, or load its weights with load_from_checkpoint and start a new run."
        )


def _in_words(facts: list[dict[str, Any]]) -> str:
    return " and ".join(f"{each['class'] or 'an optimizer'} of {'+'.join(map(str, each['groups']))} weights" for each in facts) or "none"
