"""What jsonargparse is told about optimizers while it parses: their short names, and that each begins with its own settings.

``Lion`` is musictrain's Lion: jsonargparse knows by their names alone only classes that are imported already, and the package
pytorch-optimizer is imported when it is used. ``AdamW`` and ``Muon``, which torch has too, are musictrain's as well.

And jsonargparse hands on whatever arguments of the former class the latter has too, defaults included: with no more said than the class
path of SOAP, it would train with AdamW's learning rate, wherever that was set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jsonargparse import _typehints
from torch.optim import Optimizer

from musictrain.cli.resume import imported
from musictrain.optim import OPTIMIZERS
from musictrain.suggestions import did_you_mean

HANDING_ON = "discard_init_args_on_class_path_change"
NAMING = "resolve_class_path_by_name"


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Inside, what is parsed knows optimizers by their names, and hands no settings on from one to another.

    A jsonargparse without those two functions does as it does.
    """
    with _in_place_of(NAMING, _by_name), _in_place_of(HANDING_ON, _without_handing_on):
        yield


@contextlib.contextmanager
def _in_place_of(name: str, wrap: Any) -> Iterator[None]:
    """Inside, a function of jsonargparse's is what ``wrap`` makes of it."""
    original: Any = getattr(_typehints, name, None)
    if original is None:
        yield
        return
    setattr(_typehints, name, wrap(original))
    try:
        yield
    finally:
        setattr(_typehints, name, original)


def _without_handing_on(hand_on: Any) -> Any:
    def discard(parser_or_action: Any, before: Any, value: Any) -> None:
        if before and before.get("init_args") and before["class_path"] != value["class_path"] and _is_optimizer(before["class_path"]):
            for name in list(before["init_args"].keys()):
                del before["init_args"][name]
        hand_on(parser_or_action, before, value)

    return discard


def _by_name(resolve: Any) -> Any:
    def path_of(wanted: Any, name: str) -> str:
        if wanted is not Optimizer or "." in name:
            return str(resolve(wanted, name))
        if name in OPTIMIZERS:
            return f"musictrain.optim.{name}"
        path = str(resolve(wanted, name))
        if "." not in path:
            raise ValueError(unknown_optimizer(name))
        return path

    return path_of


def unknown_optimizer(name: str) -> str:
    """What is said of a name without a path that no optimizer has."""
    hint = did_you_mean(name, [*OPTIMIZERS, *(each for each in vars(torch.optim) if _is_optimizer(f"torch.optim.{each}"))])
    return " ".join(
        part
        for part in (
            f"there is no optimizer {name!r}.",
            hint,
            f"By their names alone go {', '.join(sorted(OPTIMIZERS))} and those of torch.optim; any other by its class path, such as "
            "pytorch_optimizer.AdEMAMix.",
        )
        if part
    )


def _is_optimizer(class_path: str) -> bool:
    found = imported(class_path)
    return isinstance(found, type) and issubclass(found, Optimizer)
