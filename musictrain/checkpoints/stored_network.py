"""A stored version's network, built again: a configuration says what it was, the version what it learned.

The configuration is the run's ``config.yaml``; of a file that lies in no run's folder, what its own ``hyper_parameters`` say of the
network. Nothing in a version is ever executed.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from musictrain.checkpoints.storing import load
from musictrain.checkpoints.weights import name_of
from musictrain.checkpoints.whole_network import weights_of_network
from musictrain.runs import RunFolder

WHERE_IT_STANDS = "model.init_args.network"


class NetworkError(ValueError):
    """A version whose network cannot be built; the message says why."""


@dataclass(frozen=True)
class StoredNetwork:
    """A network as it was when a version of it was saved.

    Args:
        network: in eval mode, on the CPU.
        path: of the version.
        run: in whose folder it lies, None for a file elsewhere.
        step: optimizer steps it has seen.
        tokenizer: ``name`` and ``fingerprint`` of the tokenizer it was trained with; empty if the version does not say.
    """

    network: nn.Module
    path: Path
    run: RunFolder | None
    step: int
    tokenizer: Mapping[str, str]

    @property
    def name(self) -> str:
        """Such as ``2026-01-01_100000-chorales-calm-fugue, v000012_step000450``."""
        return f"{self.run.name}, {name_of(self.path)}" if self.run is not None else str(self.path)


def stored_network(run: RunFolder | None, path: Path, vocab_size: int | None = None) -> StoredNetwork:
    """The network of a version.

    Args:
        run: in whose folder it lies, None for a file elsewhere.
        path: of the version, a file or a directory of shards; verified first.
        vocab_size: given to a network that takes one and whose configuration does not say.

    Raises:
        NetworkError: if there is no configuration of it, it cannot be built, or the weights do not fit.
        BrokenCheckpointError: if the version is damaged.
    """
    tree = load(path)
    described, origin = described_network(run, tree, path)
    network = build_network(described, vocab_size, origin)
    fill(network, tree, path, origin)
    return StoredNetwork(network.eval(), path, run, int(tree.get("global_step", 0)), tokenizer_in(tree))


def described_network(run: RunFolder | None, tree: Mapping[str, Any], path: Path) -> tuple[Any, str]:
    """What a configuration says of the network, and what to call the configuration."""
    if run is not None and run.config.is_file():
        config: Any = yaml.safe_load(run.config.read_text(encoding="utf-8"))
        for part in WHERE_IT_STANDS.split("."):
            config = config.get(part) if isinstance(config, dict) else None
        return config, str(run.config)
    return (tree.get("hyper_parameters") or {}).get("network"), str(path)


def build_network(described: Any, vocab_size: int | None, origin: str) -> nn.Module:
    """The untrained network that a part of a configuration describes.

    Args:
        described: a mapping with ``class_path`` and ``init_args``.
        vocab_size: given to a network that takes one, unless ``init_args`` does.
        origin: what to call the configuration.

    Raises:
        NetworkError: if it describes none, or none that can be built.
    """
    if not isinstance(described, Mapping) or "class_path" not in described:
        raise NetworkError(f"{origin} has no {WHERE_IT_STANDS}: only runs of a module with a `network` can be built again.")
    arguments = dict(described.get("init_args") or {})
    try:
        if vocab_size is not None and _takes_vocab_size(described["class_path"]):
            arguments.setdefault("vocab_size", vocab_size)
        return instantiated(nn.Module, {**described, "init_args": arguments})  # type: ignore[no-any-return]
    except Exception as error:
        raise NetworkError(f"The network in {origin} cannot be built: {error}") from error


def _takes_vocab_size(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    return "vocab_size" in inspect.signature(getattr(importlib.import_module(module), name)).parameters


def instantiated(kind: Any, described: Any) -> Any:
    """The object that a part of a configuration describes."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--it", type=kind)
    return parser.instantiate_classes(parser.parse_object({"it": described})).it


def tokenizer_in(tree: Mapping[str, Any]) -> Mapping[str, str]:
    """``name`` and ``fingerprint`` of the tokenizer that a checkpoint was trained with; empty if it does not say."""
    told = (part["tokenizer"] for part in tree.values() if isinstance(part, dict) and isinstance(part.get("tokenizer"), dict))
    return next(told, {})


def fill(network: nn.Module, tree: Mapping[str, Any], path: Path, origin: str) -> None:
    """Give a network the weights of a checkpoint.

    Raises:
        NetworkError: if they are those of another network.
    """
    try:
        network.load_state_dict(weights_of_network(tree.get("state_dict") or {}))
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise NetworkError(f"{path} does not fit the network in {origin}: {reason}") from error
