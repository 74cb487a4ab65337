"""Hidden states: what named layers of two networks give, and how far the student's are from the teacher's.

The distance of a pair is the mean over the counted tokens of ``|P s - t|^2 / |t|^2``: s the student's state, t the teacher's, P a learned
projection. 0 is equal, 1 is what a student that says nothing has.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from musictrain.optim.layer_decay import LR_SCALE
from musictrain.suggestions import did_you_mean

WRAPPED = "_checkpoint_wrapped_module."
SMALLEST = 1e-6


@contextlib.contextmanager
def hidden_of(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, whatever the named modules give when the network is called stands under their names.

    The hooks are there inside the block only: what computes activations again on the way back finds none, and copies of the network hold
    none.

    Raises:
        ValueError: naming a module that the network does not have.
    """
    found: dict[str, Tensor] = {}
    modules = layers_of(network, names)

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple | list) else output

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for each in hooks:
            each.remove()


def layers_of(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of some names.

    Raises:
        ValueError: naming one that is not there, and what is.
    """
    known = {name.replace(WRAPPED, ""): module for name, module in network.named_modules() if name}
    for name in names:
        if name not in known:
            some = f"{', '.join(list(known)[:8])}{', ...' if len(known) > 8 else ''}"
            hint = did_you_mean(name, known) or f"It has {some}."
            raise ValueError(f"{type(network).__name__} has no layer {name!r} to match hidden states of. {hint}")
    return {name: known[name] for name in names}


def width_of(network: nn.Module, name: str, token: int, time: int = 8) -> int:
    """Channels of a layer, found by feeding the network one row of the same token.

    Raises:
        ValueError: if there is no such layer, or it does not give (1, time, channels).
    """
    device = next((each.device for each in network.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in network.modules()}
    with torch.no_grad(), hidden_of(network, [name]) as found:
        network.eval()(torch.full((1, time), token, dtype=torch.int64, device=device))
    for module, training in modes.items():
        module.training = training
    state = found.get(name)
    if not isinstance(state, Tensor) or state.ndim != 3 or state.shape[:2] != (1, time):
        given = tuple(state.shape) if isinstance(state, Tensor) else f"a {type(state).__name__}"
        raise ValueError(
            f"Layer {name!r} of {type(network).__name__} gives {given} for {time} tokens, expected (1, {time}, channels): states are "
            "matched token by token. Name a layer that has one for each."
        )
    return state.shape[2]


class HiddenMatching(nn.Module):
    """The projections from the student's states to the teacher's, one for each pair of layers, and the distance that is left.

    Without projections until the widths are known: from the networks when a fit begins, or from a checkpoint's own.

    Args:
        pairs: names of the student's layers and of the teacher's.
    """

    def __init__(self, pairs: Mapping[str, str]) -> None:
        super().__init__()
        self.pairs = dict(pairs)
        self.projections = nn.ModuleList()

    def make(self, widths: Sequence[tuple[int, int]], seed: int = 0) -> None:
        """Projections of these widths, unless they are there already; always the same ones for a seed, and no other chance is drawn."""
        if len(self.projections):
            return
        generator = torch.Generator().manual_seed(seed)
        for student, teacher in widths:
            layer = nn.Linear(student, teacher, bias=False, device="meta").to_empty(device="cpu")
            with torch.no_grad():
                layer.weight.normal_(0.0, student**-0.5, generator=generator)
            self.projections.append(layer)

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], counted: Tensor) -> Tensor:
        """The distance, mean over pairs and counted tokens, for states (rows, time, channels) and ``counted``, bool (rows, time).

        Raises:
            ValueError: if a layer does not give one state for each token.
        """
        distances = [
            _distance(projection(_checked(student, name, counted)), _checked(teacher, other, counted), counted)
            for projection, (name, other) in zip(self.projections, self.pairs.items(), strict=True)
        ]
        return torch.stack(distances).mean()

    def join(self, optimizer: Optimizer) -> None:
        """Let the optimizer train the projections too, in a group of their own that does not decay.

        It has the settings of a group that there is: what an optimizer fills in for a new one is not always enough to move it by, as with
        Muon, which splits weights by their groups, and SAM, whose learning rate is another's. Where some groups are treated otherwise by
        a word such as ``use_muon``, projections go with those that are not.
        """
        like = min(optimizer.param_groups, key=lambda group: (_is_special(group), -group.get(LR_SCALE, 1.0)))
        settings = {name: value for name, value in like.items() if name not in ("params", "name", LR_SCALE)}
        settings |= {"name": "projections", "weight_decay": 0.0}
        if "lr" in like:
            settings["lr"] = like["lr"] / like.get(LR_SCALE, 1.0)
        optimizer.add_param_group({"params": list(self.parameters()), **settings})

    def tensor_parallel_plan(self, size: int) -> dict[str, str]:
        """Projections stay whole."""
        return {}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take up projections of any width: who only measures knows no teacher."""
        if not len(self.projections):
            names = [f"{prefix}projections.{number}.weight" for number in range(len(self.pairs))]
            self.make([tuple(state_dict[name].shape)[::-1] for name in names if name in state_dict])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _is_special(group: Mapping[str, Any]) -> bool:
    """Whether the weights of an optimizer's group are treated otherwise than is usual."""
    return any(name.startswith("use_") and value is True for name, value in group.items())


def _checked(states: Mapping[str, Tensor], name: str, counted: Tensor) -> Tensor:
    state = states.get(name)
    if state is None or state.shape[:2] != counted.shape:
        given = "nothing" if state is None else f"{tuple(state.shape)}"
        raise ValueError(f"Layer {name!r} gave {given} for tokens of shape {tuple(counted.shape)}: expected one state for each token.")
    return state


def _distance(student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    teacher = teacher.detach().float()
    # Padding is put to 0 before anything is computed with it: nan times 0 is nan.
    gap = (student.float() - teacher).masked_fill(~counted[..., None], 0.0)
    size = teacher.pow(2).sum(-1).clamp(min=SMALLEST).masked_fill(~counted, 1.0)
    return (gap.pow(2).sum(-1) / size).sum() / counted.sum().clamp(min=1)
