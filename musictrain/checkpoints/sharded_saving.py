"""Saves in which every process writes its share: all succeed or all give up together, and no process waits for one that has failed.

Conventions: every function here is called by all processes at the same place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from musictrain.checkpoints import disk
from musictrain.checkpoints.checkpoint_io import NO_ROOM, SaveRequest
from musictrain.checkpoints.consolidating import RAW, by_number
from musictrain.checkpoints.sharded import writes_directories
from musictrain.checkpoints.snapshot import first_not_finite
from musictrain.checkpoints.storing import parameters_fingerprint

log = logging.getLogger(__name__)

# How torch's zip writer and its distributed checkpoints tell of a full disk.
FULL = ("No space left on device", "unexpected pos", "Disk quota exceeded")


class ShareError(OSError):
    """A process could not write its share; the message says which and why."""


def save_shares(trainer: Trainer, path: Path, request: SaveRequest | None, seal: Callable[[Path, Path, SaveRequest], Any]) -> Path:
    """Write all shares into one hidden directory, to be sealed by the first process; gives back the path of the version.

    A disk without room is tried once more after what may go was removed. A save that fails is told to ``request.failed``; nothing of it
    stays.

    Args:
        trainer: between two batches.
        path: of the version; that of the first process counts.
        request: of the first process, None elsewhere.
        seal: called there with the hidden directory, the path and the request; it may do the work later.
    """
    path = Path(trainer.strategy.broadcast(str(path)))
    hidden = Path(trainer.strategy.broadcast(str(disk.temporary_name(path))))
    ill = fault_of_shares(trainer)
    checkpoint = cast(Any, trainer)._checkpoint_connector.dump_checkpoint(False)
    errors = _write(trainer, checkpoint, hidden)
    if errors and any(gathered("yes" if request is not None and _made_room(errors, hidden, request) else "")):
        log.warning("The disk is full. What may go was removed, and %s is tried again.", path)
        errors = _write(trainer, checkpoint, hidden)
    if request is not None and errors:
        _clear(hidden)
        if request.failed is not None:
            request.failed(path, ShareError(errors[0]))
    elif request is not None:
        request.facts = replace(
            request.facts,
            ill=f"{ill} is not finite" if ill else request.facts.ill,
            parameters=parameters_fingerprint({name: each for name, each in checkpoint["state_dict"].items() if not name.startswith(RAW)}),
        )
        seal(hidden, path, request)
    return path


def _write(trainer: Trainer, checkpoint: dict[str, Any], hidden: Path) -> list[str]:
    """Every process writes; gives back what went wrong anywhere."""
    reason = ""
    try:
        trainer.strategy.save_checkpoint(dict(checkpoint), hidden)
    except (Exception, CheckpointException) as error:  # torch's own is no Exception
        # torch's names those of all processes, on all of them.
        failures = getattr(error, "failures", None) or {trainer.global_rank: (error, None)}
        reason = "; ".join(f"process {rank}: {_reason(failure[0])}" for rank, failure in failures.items())
    return [each for each in gathered(reason) if each]


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return FULL[0]
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _made_room(errors: Sequence[str], hidden: Path, request: SaveRequest) -> bool:
    _clear(hidden)
    full = any(word in error for error in errors for word in FULL)
    return full and request.make_room is not None and request.make_room()


def _clear(hidden: Path) -> None:
    with contextlib.suppress(OSError):
        disk.remove(hidden)


def gathered(text: str) -> list[str]:
    """A text of every process, on every process."""
    if not torch.distributed.is_initialized():
        return [text]
    texts: list[Any] = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(texts, text)
    return [str(each) for each in texts]


def settle_optimizers(trainer: Trainer, checkpoint: dict[str, Any], fresh: Sequence[bool]) -> None:
    """Where shares are put together into one file: give it the optimizer states that one process would have saved.

    Lightning counts parameters there in the order of the module, everybody else in that of the optimizer's groups.
    """
    if not isinstance(trainer.strategy, ModelParallelStrategy) or writes_directories(trainer.strategy):
        return
    states = checkpoint.get("optimizer_states") or []
    known = [*fresh, *(False for _ in states)]
    checkpoint["optimizer_states"] = [by_number(state, new) if state else state for state, new in zip(states, known, strict=False)]


def fault_of_shares(trainer: Trainer) -> str:
    """The key of a tensor that is not finite in some process's share of weights or optimizer, empty if there is none."""
    weights = {name: local(value) for name, value in trainer.lightning_module.state_dict().items() if isinstance(value, Tensor)}
    states = [{"state": [_locals(state) for state in optimizer.state.values()]} for optimizer in trainer.optimizers]
    found = gathered(first_not_finite({"state_dict": weights, "optimizer_states": states}))
    return next((each for each in found if each), "")


def _locals(state: Any) -> dict[Any, Any]:
    return {key: local(value) for key, value in state.items() if isinstance(value, Tensor)} if isinstance(state, dict) else {}


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor; a plain one as it is."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor  # type: ignore[no-any-return]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, put together from the shares; a plain one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor  # type: ignore[no-any-return]


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process holds, in the place, precision and shares of another."""
    tensor = tensor.to(like.device, like.dtype)
    return distribute_tensor(tensor, like.device_mesh, like.placements) if isinstance(like, DTensor) else tensor


@contextmanager
def untouched_optimizers(optimizers: Sequence[Any]) -> Iterator[list[bool]]:
    """Gives which optimizers have made no step, and leaves those so.

    torch makes a step with them in order to save them, which counts: Adam's correction of its first steps would be another.
    """
    fresh = [not optimizer.state for optimizer in optimizers]
    try:
        yield fresh
    finally:
        forget([optimizer for optimizer, new in zip(optimizers, fresh, strict=True) if new])


def forget(optimizers: Sequence[Any]) -> None:
    """Let optimizers be as if they had made no step."""
    for optimizer in optimizers:
        optimizer.state.clear()
