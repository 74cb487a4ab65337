"""Protocols of two or three stages, tiny, and the way from their text to plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from musictrain.stages.hand_overs import check_hand_overs
from musictrain.stages.protocol import Protocol, read_protocol
from musictrain.stages.resolving import Resolved, resolve

RECIPES = {
    "folk": {
        "trainer": {"max_steps": 2000, "val_check_interval": 50, "check_val_every_n_epoch": None},
        "data": {"init_args": {"corpus": "ryans"}},
    },
    "chorales": {"data": {"init_args": {"corpus": "chorales"}}},
}


def protocol_of(*stages: Mapping[str, Any], **more: Any) -> Protocol:
    """Stages that lack a budget train for ten steps, those that extend nothing extend ``folk``."""
    given = [{"name": "abc"[number], "extends": "folk", "budget": {"steps": 100}, **stage} for number, stage in enumerate(stages)]
    return read_protocol({"name": "small", "stages": given, **more}, "small")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def resolved(protocol: Protocol, folder: Path) -> dict[str, Resolved]:
    """With two recipes, which are written into the folder."""
    home = folder / "recipes"
    home.mkdir(exist_ok=True)
    for name, config in RECIPES.items():
        (home / f"{name}.yaml").write_text(yaml.safe_dump(config))
    found = resolve(protocol, folder, {name: home / f"{name}.yaml" for name in RECIPES}, read)
    check_hand_overs(found)
    return found
