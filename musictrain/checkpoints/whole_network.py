"""A network as one process can use it, whatever the strategy has done to it: for sampling, for drawing, for trying it out.

Conventions: every function here is called by all processes at the same place; what comes back is for the first one alone.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from musictrain.checkpoints.sharded_saving import gathered
from musictrain.checkpoints.storing import load

log = logging.getLogger(__name__)

PREFIX = "network."
# A sharded network's neighbours on the device want memory too.
ROOM_FOR = 2


def whole_network(trainer: Trainer, pl_module: LightningModule) -> nn.Module | None:
    """The module's ``network`` with its weights of this moment. Where they lie in shares, a plain copy; the network itself elsewhere.

    None on all processes but the first of a sharded run, and where the module has no network or its strategy keeps no skeleton of it
    (``ShardedStrategy`` does), which is said once.
    """
    network = getattr(pl_module, "network", None)
    if not isinstance(network, nn.Module) or not isinstance(trainer.strategy, ModelParallelStrategy):
        return network if isinstance(network, nn.Module) else None
    skeleton = getattr(trainer.strategy, "skeleton", None)
    if skeleton is None:
        log.warning("%s keeps no plain copy of the network to put weights into; use ShardedStrategy.", type(trainer.strategy).__name__)
        return None
    # Every process gives its shares; the first alone gets the whole.
    state = get_model_state_dict(pl_module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return filled(skeleton, weights_of_network(state), pl_module.device) if trainer.is_global_zero else None


def network_of_version(trainer: Trainer, pl_module: LightningModule, path: str | Path) -> nn.Module | None:
    """A copy of the module's ``network`` with the weights of a version, a file or a directory of shards; None as in ``whole_network``.

    Raises:
        BrokenCheckpointError: if the version is damaged.
        RuntimeError: if it is of another network.
    """
    network = getattr(pl_module, "network", None)
    if not trainer.is_global_zero or not isinstance(network, nn.Module):
        return None
    plain = getattr(trainer.strategy, "skeleton", None) or network
    return filled(plain, weights_of_network(load(path)["state_dict"]), pl_module.device)


def weights_of_network(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """What of a module's state is its network's, by the network's own names."""
    return {name.removeprefix(PREFIX): value for name, value in state_dict.items() if name.startswith(PREFIX)}


def filled(network: nn.Module, weights: Mapping[str, Tensor], device: Any = "cpu") -> nn.Module:
    """A copy of a network, which may be without memory, that has some weights; on the device if there is room.

    Raises:
        RuntimeError: if they are those of another network.
    """
    plain = copy.deepcopy(network)
    plain.load_state_dict(dict(weights), assign=any(each.is_meta for each in plain.parameters()))
    return plain.to(device) if _has_room(plain, torch.device(device)) else plain.cpu()


def _has_room(network: nn.Module, device: torch.device) -> bool:
    # Not run here: no machine of this project has a GPU.
    size = sum(each.numel() * each.element_size() for each in network.parameters())
    return device.type != "cuda" or torch.cuda.mem_get_info(device)[0] > ROOM_FOR * size


def agreed(text: str) -> str:
    """What the first process says, on every process."""
    return gathered(text)[0]
