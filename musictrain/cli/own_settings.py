"""Another optimizer begins with its own settings, not with those of the one that it takes the place of.

jsonargparse hands on whatever arguments of the former class the latter has too, defaults included: with no more said than the class path of
SOAP, it would train with AdamW's learning rate, wherever that was set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jsonargparse import _typehints
from torch.optim import Optimizer

from musictrain.cli.resume import imported

HANDING_ON = "discard_init_args_on_class_path_change"


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Inside, what is parsed hands no settings on from one optimizer to another; a jsonargparse without that name does as it does."""
    hand_on: Any = getattr(_typehints, HANDING_ON, None)
    if hand_on is None:
        yield
        return

    def discard(parser_or_action: Any, before: Any, value: Any) -> None:
        if before and before.get("init_args") and before["class_path"] != value["class_path"] and _is_optimizer(before["class_path"]):
            for name in list(before["init_args"].keys()):
                del before["init_args"][name]
        hand_on(parser_or_action, before, value)

    setattr(_typehints, HANDING_ON, discard)
    try:
        yield
    finally:
        setattr(_typehints, HANDING_ON, hand_on)


def _is_optimizer(class_path: str) -> bool:
    found = imported(class_path)
    return isinstance(found, type) and issubclass(found, Optimizer)
