"""A run's network and tokenizer, rebuilt from its folder: ``config.yaml`` says what it was, a checkpoint what it learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from musictrain.checkpoints import stored_network
from musictrain.checkpoints.stored_network import NetworkError
from musictrain.checkpoints.storing import load
from musictrain.checkpoints.verification import BrokenCheckpointError
from musictrain.cli.exits import CommandError, UsageError
from musictrain.cli.resume import read_config, value_at
from musictrain.cli.version_choice import version_of
from musictrain.data.tokenizers import Tokenizer, load_tokenizer
from musictrain.runs import RunFolder

NETWORK, TOKENIZER = "model.init_args.network", "data.init_args.tokenizer"


@dataclass(frozen=True)
class TrainedRun:
    """What can be played from.

    Args:
        run: where it comes from.
        network: in eval mode, on the CPU.
        tokenizer: the one it was trained with.
        checkpoint: the file of the weights.
        step: optimizer steps they have seen.
    """

    run: RunFolder
    network: nn.Module
    tokenizer: Tokenizer
    checkpoint: Path
    step: int


def load_trained_run(run: RunFolder, which: str = "best") -> TrainedRun:
    """A run's network with the weights of a checkpoint.

    Args:
        run: an existing run.
        which: ``best``, ``last``, a version's number or name, or the path of a checkpoint file.

    Raises:
        UsageError: if there is no such checkpoint, or it was trained with another tokenizer or network than the run's.
        CommandError: if a file cannot be read.
    """
    checkpoint = version_of(run, which)
    config = read_config(run)
    tokenizer = tokenizer_of(run, config)
    state = read_checkpoint(checkpoint)
    _check_tokenizer(state, tokenizer, checkpoint, run)
    network = build_network(config, tokenizer, run)
    _load_weights(network, state, checkpoint, run)
    return TrainedRun(run, network.eval(), tokenizer, checkpoint, int(state.get("global_step", 0)))


def tokenizer_of(run: RunFolder, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer in ``tokenizer.json``; one of somebody's own class is rebuilt from the configuration.

    Raises:
        CommandError: if it cannot be read or would mean other tokens here.
    """
    try:
        if run.tokenizer.is_file():
            return load_tokenizer(run.tokenizer)
        tokenizer: Tokenizer = stored_network.instantiated(Tokenizer, value_at(config, TOKENIZER))
    except Exception as error:
        raise CommandError(f"The tokenizer of run {run.name} cannot be rebuilt: {error}") from error
    return tokenizer


def build_network(config: dict[str, Any], tokenizer: Tokenizer, run: RunFolder) -> nn.Module:
    """The untrained network of a configuration, its vocabulary that of the tokenizer unless the configuration says otherwise.

    Raises:
        UsageError: if the two disagree, or the configuration holds no network that can be built.
    """
    try:
        network = stored_network.build_network(value_at(config, NETWORK), tokenizer.vocab_size, str(run.config))
    except NetworkError as error:
        raise UsageError(str(error)) from error
    if (size := getattr(network, "vocab_size", tokenizer.vocab_size)) != tokenizer.vocab_size:
        raise UsageError(
            f"The network of run {run.name} has {size} tokens, its tokenizer {tokenizer.name} has {tokenizer.vocab_size}: "
            "config.yaml or tokenizer.json was changed after the training."
        )
    return network


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint as tensors and plain values; nothing in it is ever executed.

    Raises:
        CommandError: if it is damaged or no checkpoint.
    """
    try:
        state = load(path)
    except BrokenCheckpointError as error:
        raise CommandError(f"{error} Try --ckpt last.") from error
    if not isinstance(state, dict) or "state_dict" not in state:
        raise CommandError(f"{path} is not a Lightning checkpoint: it holds no state_dict.")
    return state


def _check_tokenizer(state: dict[str, Any], tokenizer: Tokenizer, checkpoint: Path, run: RunFolder) -> None:
    trained = stored_network.tokenizer_in(state)
    if trained and trained.get("fingerprint") != tokenizer.fingerprint:
        raise UsageError(
            f"{checkpoint} was trained with the tokenizer {trained.get('name')} ({trained.get('fingerprint')}), but run {run.name} has "
            f"{tokenizer.name} ({tokenizer.fingerprint}). Sample from the run that the checkpoint belongs to."
        )


def _load_weights(network: nn.Module, state: dict[str, Any], checkpoint: Path, run: RunFolder) -> None:
    try:
        stored_network.fill(network, state, checkpoint, str(run.config))
    except NetworkError as error:
        raise UsageError(str(error)) from error
