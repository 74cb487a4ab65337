"""From a protocol's file to everything that is known before anything is trained: stages, their configurations, what is done already."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from musictrain.cli.exits import UsageError
from musictrain.cli.recipes import protocols, recipes
from musictrain.runs import RunFolder
from musictrain.runs.config_changes import config_fingerprint
from musictrain.stages.folder import ProtocolFolder
from musictrain.stages.hand_overs import check_hand_overs
from musictrain.stages.planning import begun_anew, check_unchanged
from musictrain.stages.protocol import Protocol, ProtocolError, read_protocol
from musictrain.stages.resolving import Resolved, resolve
from musictrain.stages.state import State, read_state
from musictrain.suggestions import did_you_mean


@dataclass(frozen=True)
class Loaded:
    """A protocol that could be meant.

    Args:
        protocol: its stages.
        stages: their configurations, by name, in order.
        folder: where it is written down, beside the runs of its stages.
        path: its file.
        text: what stood in it.
    """

    protocol: Protocol
    stages: dict[str, Resolved]
    folder: ProtocolFolder
    path: Path
    text: str

    def fingerprint(self) -> str:
        """Of all configurations."""
        return config_fingerprint({name: stage.config for name, stage in self.stages.items()}, ())


def load_protocol(options: argparse.Namespace) -> Loaded:
    """The protocol of a command line.

    Raises:
        UsageError: for anything in it that cannot work.
    """
    path = find_protocol(options.config)
    try:
        text = path.read_text(encoding="utf-8")
        protocol = read_protocol(yaml.safe_load(text), path.stem.removeprefix("stages-"), options.name)
        stages = resolve(protocol, path.parent, recipes(), read_file)
        check_hand_overs(stages)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except ProtocolError as error:
        raise UsageError(f"{path}: {error}") from error
    folder = ProtocolFolder(Path(options.runs) / protocol.name)
    if RunFolder(folder.path).is_run():
        raise UsageError(f"{folder.path} is the folder of a run already. Give the protocol another name: --name.")
    return Loaded(protocol, stages, folder, path.resolve(), text)


def find_protocol(text: str) -> Path:
    """A file, or a shipped protocol by name.

    Raises:
        UsageError: if there is neither, naming the nearest.
    """
    path, shipped = Path(text).expanduser(), protocols()
    if path.is_file():
        return path
    if text in shipped:
        return shipped[text]
    known = f"{did_you_mean(path.stem, shipped)} Protocols: {', '.join(shipped)}.".strip()
    raise UsageError(f"No file and no protocol {text!r}. {known}")


def read_file(path: Path) -> Any:
    """The plain values of a YAML file.

    Raises:
        ProtocolError: if it is none.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{path} cannot be read: {error}") from error


def state_of(loaded: Loaded, start: str | None) -> State:
    """What was done so far, and, with ``--from``, what is to be done anew; nothing is written.

    Raises:
        UsageError: if what has begun has changed since, or cannot begin anew.
    """
    try:
        state = read_state(loaded.folder.state)
        if start is not None:
            return begun_anew(loaded.protocol, loaded.stages, state, start)
        check_unchanged(loaded.protocol, loaded.stages, state)
    except ProtocolError as error:
        raise UsageError(str(error)) from error
    return state
