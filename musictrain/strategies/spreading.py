"""From a few words of a configuration to what Lightning's Trainer takes: devices, nodes, strategy, precision, each with its reason."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.strategies import Strategy, StrategyRegistry
from torch import nn

from musictrain.runs.environment import memory_gib
from musictrain.strategies.choosing import WORDS, Choice, Situation, check_word, choose, tensor_parallel_size_of
from musictrain.strategies.exact_ddp import ExactDDPStrategy
from musictrain.strategies.parallelize import plan_of
from musictrain.strategies.precision import check_precision, choose_precision, device_at_hand
from musictrain.strategies.sharded import ShardedStrategy

# Devices whose strategies, precisions and memory are known here; any other is left to Lightning.
KINDS = ("cpu", "cuda", "mps")


@dataclass
class Spread:
    """How a run is spread.

    Args:
        options: for Lightning's Trainer: those of ``devices``, ``num_nodes``, ``strategy`` and ``precision`` that were decided here.
        kind: of the devices.
        local: processes on this node.
        nodes: machines.
        reasons: lines for people, such as ``strategy  ddp: 2 devices, and ...``.
    """

    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "cpu"
    local: int = 1
    nodes: int = 1
    reasons: list[str] = field(default_factory=list)


def spread(settings: Mapping[str, Any], module: nn.Module, datamodule: Any = None, timeout_minutes: float = 10.0) -> Spread:
    """Decide what a configuration leaves open.

    Args:
        settings: the Trainer's arguments; read are ``accelerator``, ``devices``, ``num_nodes``, ``strategy`` and ``precision``.
        module: to be trained; its ``network`` is what is split.
        datamodule: its ``batch_size`` counts rows over all devices.
        timeout_minutes: how long one process waits for another that does not answer.

    Raises:
        ValueError: if something that was asked for does not exist or cannot work here, with the reason.
    """
    kind = kind_of(settings.get("accelerator"))
    if kind not in KINDS:
        return Spread(kind=kind)
    local, nodes = processes_of(kind, settings)
    result = Spread(kind=kind, local=local, nodes=nodes)
    if started_from_outside() is not None:
        result.options |= {"devices": result.local, "num_nodes": result.nodes}
    now = situation_of(result, module, datamodule)
    network = getattr(module, "network", module)
    _decide_strategy(result, settings.get("strategy") or "auto", now, network, timeout_minutes)
    _decide_precision(result, settings.get("precision"))
    return result


# Devices.


def kind_of(accelerator: Any) -> str:
    """The devices that ``auto`` and ``gpu`` stand for; any other word as it is."""
    gpu = "cuda" if CUDAAccelerator.is_available() else "mps" if MPSAccelerator.is_available() else ""
    words = {"auto": gpu or "cpu", "gpu": gpu or "gpu"}
    return words.get(accelerator, accelerator) if isinstance(accelerator, str) else words["auto"] if accelerator is None else "other"


def processes_of(kind: str, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Processes on a node, and nodes: as the program that started them says, else as the configuration does."""
    outside = started_from_outside()
    asked = settings.get("devices", "auto")
    local = outside[0] if outside and asked in ("auto", None) else count_of(asked, kind)
    nodes = int(settings.get("num_nodes") or 1)
    return local, outside[1] if outside and nodes == 1 else nodes


def count_of(devices: Any, kind: str) -> int:
    """How many devices Lightning's ``devices`` names: a number, ``auto``, -1 for all, or a list."""
    if isinstance(devices, list | tuple):
        return max(1, len(devices))
    available = torch.cuda.device_count() if kind == "cuda" else 1
    text = str(devices)
    if text in ("auto", "None", "-1"):
        return max(1, available)
    return int(text) if text.isdigit() and int(text) else max(1, len([part for part in text.split(",") if part.strip()]))


def started_from_outside(environment: Mapping[str, str] | None = None) -> tuple[int, int] | None:
    """Processes on a node and nodes, where torchrun or SLURM has started them; None where this process stands alone."""
    known = os.environ if environment is None else environment
    if "TORCHELASTIC_RUN_ID" in known:
        local = int(known["LOCAL_WORLD_SIZE"])
        return local, int(known["WORLD_SIZE"]) // local
    tasks = known.get("SLURM_NTASKS", "")
    if tasks.isdigit() and "SLURM_PROCID" in known and known.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(known.get("SLURM_NNODES", "1"))
        return max(1, int(tasks) // nodes), nodes
    return None


# The strategy.


def situation_of(result: Spread, module: nn.Module, datamodule: Any) -> Situation:
    """What the choice of a strategy depends on."""
    rows = getattr(datamodule, "batch_size", None)
    return Situation(
        devices=result.local * result.nodes,
        nodes=result.nodes,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        memory_bytes=memory_of(result.kind, result.local),
        rows=rows if isinstance(rows, int) else None,
        tensor_parallel_sizes=tuple(size for size in range(2, result.local + 1) if can_split(getattr(module, "network", module), size)),
    )


def memory_of(kind: str, local: int) -> int | None:
    """Bytes of one device; the main memory is shared by the processes on it."""
    if kind == "cuda":  # Not run here.
        return int(torch.cuda.get_device_properties(0).total_memory)
    size = memory_gib()
    return None if size is None else int(size * 2**30 / local)


def can_split(network: Any, size: int) -> bool:
    """Whether a network's tensor-parallel plan works for ``size`` devices."""
    try:
        plan_of(network, size)
    except ValueError:
        return False
    return True


def _decide_strategy(result: Spread, asked: Any, now: Situation, network: nn.Module, timeout_minutes: float) -> None:
    if isinstance(asked, Strategy) or not isinstance(asked, str):
        return
    check_word(asked, tuple(StrategyRegistry.available_strategies()))
    if asked == "auto":
        choice = choose(now)
        if choice.word == "one":
            return
    elif asked in WORDS:
        choice = Choice(asked, f"as asked, over {now.devices} devices", tensor_parallel_size_of(asked, now))
    else:
        return
    if result.kind == "mps":
        raise ValueError(f"The strategy {choice.word} does not run on Apple's GPU: use --trainer.devices 1, or --trainer.accelerator cpu.")
    if choice.tensor_parallel_size > 1:
        plan_of(network, choice.tensor_parallel_size)
    result.reasons.append(f"strategy {choice.word}: {choice.reason}")
    result.options["strategy"] = strategy_of(choice, timeout_minutes, keeps_buffers(network))


def keeps_buffers(network: nn.Module) -> bool:
    """Whether a network has buffers that training changes, such as running means: what a state dict holds beside weights.

    >>> keeps_buffers(nn.Linear(1, 1)), keeps_buffers(nn.BatchNorm1d(1))
    (False, True)
    """
    weights = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return any(name not in weights for name in network.state_dict())


def strategy_of(choice: Choice, timeout_minutes: float = 10.0, broadcast_buffers: bool = True) -> Strategy:
    """Lightning's strategy for a choice; whether DDP sends the first process's buffers to the others before every pass."""
    if choice.word == "ddp":
        limit = timedelta(minutes=timeout_minutes)
        return ExactDDPStrategy(timeout=limit, gradient_as_bucket_view=True, broadcast_buffers=broadcast_buffers)
    return ShardedStrategy(tensor_parallel_size=choice.tensor_parallel_size, timeout_minutes=timeout_minutes)


def _decide_precision(result: Spread, asked: Any) -> None:
    device = device_at_hand(result.kind)
    if asked == "auto":
        precision, reason = choose_precision(device)
        result.options["precision"] = precision
        result.reasons.append(f"precision {precision}: {reason}")
    elif asked is not None:
        check_precision(str(asked), device)
