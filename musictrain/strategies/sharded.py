"""ShardedStrategy: FSDP2, tensor parallelism or both for any LightningModule, on CPUs and GPUs.

    Trainer(strategy=ShardedStrategy(), devices=2)                          FSDP2: every device holds a share of every weight
    Trainer(strategy=ShardedStrategy(tensor_parallel_size=2), devices=2)    tensor parallel: two devices work on the same rows

When: weights, gradients and optimizer do not fit into one device, or there are fewer rows than devices. Cost: every block's weights are
gathered twice in a step (FSDP), or every block's activations are added up four times (tensor parallel). A version is a directory into which
every process writes its share.
Source: Lightning's ModelParallelStrategy, which leaves the parallelism itself to ``configure_model``. Run here with gloo on CPUs; NCCL on
GPUs takes the same path and was not run.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

from musictrain.models.recomputing import recompute
from musictrain.optim.gradients import alike, clip_to_norm, clip_values
from musictrain.optim.partial_states import names_with_states, set_aside
from musictrain.strategies.parallelize import is_parallel, same_everywhere, shard, split_tensors

GATHER_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy that spreads the module by itself.

    What is spread is each part of the module that has weights: ``network``, or whatever it is called. A module whose ``configure_model``
    has spread its weights already is left as it is. Every rank begins with the weights of the first.

    Args:
        tensor_parallel_size: so many neighbouring devices share the same rows and split the layers of the network's plan.
        data_parallel_size: how many groups read different rows; ``auto`` is all devices divided by ``tensor_parallel_size``.
        blocks: dotted names of lists of blocks in the network, or in the module; None means what each network calls ``blocks`` itself.
        activation_checkpointing: blocks compute their activations again on the way back.
        gather_dtype: ``bf16`` halves what FSDP sends: weights are gathered in bfloat16 and gradients summed in 32 bits. None: as they are.
        save_distributed_checkpoint: whether each process writes its share; otherwise the first one puts all together and writes a file.
        timeout_minutes: how long one process waits for another that does not answer, before all end with an error.

    Raises:
        ValueError: for a size that is not positive or an unknown ``gather_dtype``; when a run starts, if the sizes do not make up the
            number of devices, or the network cannot be spread.
    """

    def __init__(
        self,
        tensor_parallel_size: int = 1,
        data_parallel_size: int | Literal["auto"] = "auto",
        blocks: str | list[str] | None = None,
        activation_checkpointing: bool = False,
        gather_dtype: Literal["bf16", "fp16"] | None = None,
        save_distributed_checkpoint: bool = True,
        timeout_minutes: float = 10.0,
    ) -> None:
        for name, size in (("tensor_parallel_size", tensor_parallel_size), ("data_parallel_size", data_parallel_size)):
            if size != "auto" and size < 1:
                raise ValueError(f"ShardedStrategy got {name}={size}, expected 1 or more.")
        if gather_dtype is not None and gather_dtype not in GATHER_DTYPES:
            raise ValueError(f"ShardedStrategy got gather_dtype={gather_dtype!r}; it knows {', '.join(GATHER_DTYPES)}, or None.")
        if timeout_minutes <= 0:
            raise ValueError(f"ShardedStrategy got timeout_minutes={timeout_minutes}, expected more than 0.")
        super().__init__(
            data_parallel_size=data_parallel_size,
            tensor_parallel_size=tensor_parallel_size,
            save_distributed_checkpoint=save_distributed_checkpoint,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.blocks = blocks
        self.activation_checkpointing = activation_checkpointing
        self.gather_dtype = GATHER_DTYPES[gather_dtype] if gather_dtype else None
        self.skeleton: nn.Module | None = None
        self._kernels: dict[int, dict[str, Any]] = {}

    # Spreading.

    def setup_environment(self) -> None:
        """Join the other processes, and arrange them as a mesh.

        Raises:
            ValueError: if the sizes do not make up their number.
        """
        assert self.cluster_environment is not None
        processes = self.num_nodes * self.num_processes
        if self._data_parallel_size == "auto" and processes % int(self._tensor_parallel_size) == 0:
            self._data_parallel_size = processes // int(self._tensor_parallel_size)
        sizes = f"data_parallel_size={self._data_parallel_size}, tensor_parallel_size={self._tensor_parallel_size}"
        if self._data_parallel_size == "auto" or self._data_parallel_size * int(self._tensor_parallel_size) != processes:
            raise ValueError(f"ShardedStrategy got {sizes} for {processes} processes: the two multiplied must give their number.")
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Spread the module, then make its optimizers.

        Raises:
            ValueError: if it cannot be spread, saying what it would need.
        """
        assert self.model is not None
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        self.model_to_device()
        self.model = self.precision_plugin.convert_module(self.model)
        if not is_parallel(self.model):
            self._spread()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        if trainer.state.fn == TrainerFn.FITTING:
            _optimizers_to_device(self.optimizers, self.root_device)
            self._settle_kernels()

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def _spread(self) -> None:
        # Two dimensions are gathered one after the other, which torch remarks on at every norm and every save.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        same_everywhere(self._module)
        parts = parts_of(self._module)
        self.skeleton = skeleton_of(parts.get("network", next(iter(parts.values()))))
        for name, part in parts.items():
            self._spread_part(part, blocks_in(name, self.blocks))

    def _spread_part(self, network: nn.Module, blocks: list[str] | None) -> None:
        if self.device_mesh["tensor_parallel"].size() > 1:
            split_tensors(network, self.device_mesh["tensor_parallel"])
        if self.activation_checkpointing:
            recompute(network, blocks)
        data = self.device_mesh["data_parallel"]
        if data.size() > 1 or not is_parallel(network):
            shard(network, data, blocks=blocks, gather_dtype=self.gather_dtype)

    def _settle_kernels(self) -> None:
        """Let an optimizer go through a group one by one where it holds weights of several kinds, which its fused kernels do not take."""
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            if len(alike(group["params"])) > 1:
                self._kernels.setdefault(id(group), {name: group[name] for name in ("fused", "foreach") if name in group})
                group.update(dict.fromkeys(self._kernels[id(group)], False))

    def setup_precision_plugin(self) -> None:
        """As in Lightning; and gradients in shares are clipped by the norm of the whole."""
        super().setup_precision_plugin()
        plugin: Any = self.precision_plugin
        plugin.clip_grad_by_norm = lambda optimizer, clip_val: clip_to_norm(list(plugin.main_params(optimizer)), clip_val)
        plugin.clip_grad_by_value = lambda optimizer, clip_val: clip_values(list(plugin.main_params(optimizer)), clip_val)

    # Checkpoints.

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As in Lightning; but the optimizer stays as it is, and what is saved does not tell another strategy to go slowly.

        torch lets an optimizer without states make a step in order to have some, and would count it.
        """
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        fresh = not optimizer.state
        settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        state = super().optimizer_state(optimizer)
        if fresh:
            optimizer.state.clear()
            # Some count steps for a whole group.
            for group, before in zip([*optimizer.param_groups, *state.get("param_groups", ())], 2 * settings, strict=False):
                for key in set(group) - {"params", *before}:
                    del group[key]
                group.update(before)
        for saved, group in zip(state.get("param_groups", ()), optimizer.param_groups, strict=False):
            saved.update(self._kernels.get(id(group), {}))
        return state

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Take up a directory of shares, written by any number of processes, or a file of any strategy.

        Always read with ``weights_only``. CompressedCheckpointIO verifies it, and looks through a directory first: torch itself unpickles
        what describes one. With another plugin take up only directories that you trust.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        if path.is_dir():
            if hasattr(self.checkpoint_io, "load_metadata"):
                self.checkpoint_io.load_metadata(path)
            keys = list(FileSystemReader(path).read_metadata().state_dict_metadata)
            with contextlib.ExitStack() as stack:
                for number, optimizer in enumerate(self.optimizers):
                    named = zip(names_in_order(self._module, optimizer), parameters_in_order(optimizer), strict=True)
                    stack.enter_context(set_aside(named, names_with_states(keys, f"optimizer_{number}.state.")))
                tree = super().load_checkpoint(path, weights_only=True)
        else:
            tree = self.checkpoint_io.load_checkpoint(path, weights_only=True)
            self._take_up(tree)
        self._settle_kernels()
        return tree

    def _take_up(self, tree: dict[str, Any]) -> None:
        """Deal out a whole checkpoint, which every process has read."""
        options = StateDictOptions(full_state_dict=True, strict=self._module.strict_loading)
        set_model_state_dict(self._module, tree["state_dict"], options=options)
        for optimizer, state in zip(self.optimizers, tree.get("optimizer_states", ()), strict=False):
            by_name = self._by_name(optimizer, state)
            named = zip(names_in_order(self._module, optimizer), parameters_in_order(optimizer), strict=True)
            with set_aside(named, by_name["state"]):
                set_optimizer_state_dict(self._module, optimizer, by_name, options=options)

    def _by_name(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """An optimizer's state with the names of the weights for their numbers."""
        # Not every strategy counts them from 0 in the order of the groups.
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        names = dict(zip(numbers, names_in_order(self._module, optimizer), strict=True))
        groups = [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]]
        return {"state": {names[number]: values for number, values in state["state"].items()}, "param_groups": groups}


def parts_of(module: LightningModule) -> dict[str, nn.Module]:
    """The parts of a module that have weights, by name.

    Raises:
        ValueError: if the module has none, or holds weights itself: Lightning never calls the module as a whole, so that nothing would
            gather them.
    """
    parts = {name: part for name, part in module.named_children() if any(True for _ in part.parameters())}
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own or not parts:
        what = f"holds the weights {', '.join(own)} itself" if own else "has no part with weights"
        raise ValueError(
            f"{type(module).__name__} {what}, and only parts of a module can be spread over devices: put its weights into one, such as "
            "self.network. Or use the strategy ddp."
        )
    return parts


def blocks_in(part: str, names: str | list[str] | None) -> list[str] | None:
    """Names of blocks as one part of the module knows them: what begins with its name, without it, and all that name no part.

    >>> blocks_in("model", ["model.layers", "layers"]), blocks_in("model", None)
    (['layers', 'layers'], None)
    """
    if names is None:
        return None
    wanted = [names] if isinstance(names, str) else list(names)
    return [name.removeprefix(f"{part}.") for name in wanted]


def names_in_order(module: nn.Module, optimizer: Optimizer) -> list[str]:
    """The names of an optimizer's parameters in the order in which its state counts them."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(parameter)].replace("_checkpoint_wrapped_module.", "") for parameter in parameters_in_order(optimizer)]


def parameters_in_order(optimizer: Optimizer) -> list[nn.Parameter]:
    """An optimizer's parameters, counted over all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def skeleton_of(network: nn.Module) -> nn.Module:
    """A copy without memory for its parameters, to take up gathered ones; its buffers are real."""
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
    return copy.deepcopy(network, memo)
