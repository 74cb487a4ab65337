"""Dead and saturated units, and the entropy of what a network predicts: seen by forward hooks that are there on looked-at steps alone.

Conventions:

- A unit is a channel, the last axis of what a layer puts out. It is dead if its value is the same at every place of the batch, as that of
  a ReLU that never opens, and of a layer whose weights are zero.
- It is saturated if at all but a hundredth of the places it lies within a hundredth of its range from one of the ends: of tanh, sigmoid,
  and the recurrent layers that end in tanh.
- Predictions are what looks like logits (batch, time, vocab) of tokens (batch, time), put out by the module or one of its own parts.

At most 1,024 places of a batch are looked at, evenly spaced. What is compiled has its hooks inside, and is not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

MOST_PLACES = 1024
NEAR = 0.01
SHARE = 0.99
RANGES: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-1.0, 1.0),
    nn.Sigmoid: (0.0, 1.0),
    nn.Hardtanh: (-1.0, 1.0),
    nn.Hardsigmoid: (0.0, 1.0),
    nn.Softsign: (-1.0, 1.0),
    nn.RNN: (-1.0, 1.0),
    nn.LSTM: (-1.0, 1.0),
    nn.GRU: (-1.0, 1.0),
}
LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.modules.conv._ConvNd,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    *RANGES,
)


class LayerWatch:
    """Looks at what layers put out between :meth:`look` and :meth:`read`.

    Args:
        module: whose layers; any.
        pad_id: what is predicted where this is read means nothing; None: it always means something.

    Attributes:
        names: of all that it can measure.
    """

    def __init__(self, module: nn.Module, pad_id: int | None = None) -> None:
        self._module, self._pad_id = module, pad_id
        hidden = set(_compiled_parts(module))
        self._layers: list[tuple[str, nn.Module]] = [
            (name, each) for name, each in module.named_modules() if isinstance(each, LAYERS) and each not in hidden
        ]
        heads = [module, *module.children()]
        self._heads = [each for each in heads if each not in hidden and not isinstance(each, nn.Embedding)]
        with_ends = [name for name, each in self._layers if isinstance(each, tuple(RANGES))]
        self.names = ("entropy", *(f"dead/{name}" for name, _ in self._layers), *(f"saturated/{name}" for name in with_ends))
        self._hooks: list[Any] = []
        self._seen: dict[str, list[Tensor]] = {}
        self._entropy: Tensor | None = None

    def look(self) -> None:
        """From the next forward pass on; twice is once."""
        if self._hooks:
            return
        self._seen, self._entropy = {}, None
        self._hooks = [layer.register_forward_hook(self._hook_of(name, layer)) for name, layer in self._layers]
        self._hooks += [head.register_forward_hook(self._on_prediction) for head in self._heads]

    def stop(self) -> None:
        """Take the hooks away."""
        while self._hooks:
            self._hooks.pop().remove()

    def read(self) -> dict[str, float]:
        """``dead/<layer>``, ``saturated/<layer>`` and ``entropy`` since :meth:`look`, on this rank; waits for the device."""
        self.stop()
        keys, values = list(self._seen), [torch.stack(seen) for seen in self._seen.values()]
        # Of several passes a unit is as alive as in the liveliest.
        lowest = [value.amin(0).double().cpu() for value in values]
        told = dict(zip(keys, (float(value) for value in lowest), strict=True))
        if self._entropy is not None:
            told["entropy"] = float(self._entropy)
        self._seen, self._entropy = {}, None
        return told

    def untrained(self) -> frozenset[str]:
        """What is measured of layers that nobody means to train in the step whose gradients are there: frozen, or held back.

        A layer without weights of its own goes by the part of the module that it stands in.
        """
        idle = [name for name, layer in self._layers if not any(each.grad is not None for each in self._weights_of(name, layer))]
        return frozenset(f"{state}/{name}" for name in idle for state in ("dead", "saturated"))

    def _weights_of(self, name: str, layer: nn.Module) -> list[nn.Parameter]:
        while not (found := list(layer.parameters())) and name:
            name = name.rpartition(".")[0]
            layer = self._module.get_submodule(name)
        return found

    def _hook_of(self, name: str, layer: nn.Module) -> Any:
        bounds = next((each for kind, each in RANGES.items() if isinstance(layer, kind)), None)

        @torch.no_grad()
        def on_output(_: nn.Module, __: Any, output: Any) -> None:
            places = _places(output)
            if places is None:
                return
            dead = (places.amax(0) == places.amin(0)).float().mean()
            self._seen.setdefault(f"dead/{name}", []).append(dead)
            if bounds is not None:
                self._seen.setdefault(f"saturated/{name}", []).append(_saturated(places, *bounds))

        return on_output

    @torch.no_grad()
    def _on_prediction(self, _: nn.Module, arguments: Any, output: Any) -> None:
        tokens = arguments[0] if arguments and isinstance(arguments[0], Tensor) else None
        if tokens is None or tokens.is_floating_point() or tokens.ndim != 2 or not isinstance(output, Tensor):
            return
        if output.ndim == 3 and output.shape[:2] == tokens.shape and output.is_floating_point() and output.shape[2] > 1:
            whole: Tensor = getattr(output, "full_tensor", lambda: output)()
            read = whole if self._pad_id is None else whole[tokens != self._pad_id]
            # The outermost comes last, and counts.
            self._entropy = entropy_of(read) if read.numel() else None


def entropy_of(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions in nats, over at most 1,024 of (..., vocab); a scalar.

    >>> round(float(entropy_of(torch.zeros(2, 3, 8))), 4)
    2.0794
    """
    rows = logits.detach().reshape(-1, logits.shape[-1])
    logs = rows[:: -(-max(1, len(rows)) // MOST_PLACES)].float().log_softmax(-1)
    return -(logs.exp() * logs.clamp(min=-1e4)).sum(-1).mean()


def _places(output: Any) -> Tensor | None:
    """What a layer put out as (places, channels); None for what has no places to compare."""
    first = output[0] if isinstance(output, tuple) and output else output
    first = getattr(first, "data", None) if type(first).__name__ == "PackedSequence" else first
    if not isinstance(first, Tensor) or first.ndim < 2 or not first.is_floating_point():
        return None
    local: Tensor = getattr(first, "to_local", lambda: first)()
    rows = local.detach().reshape(-1, local.shape[-1])
    return rows[:: -(-len(rows) // MOST_PLACES)] if len(rows) > 1 else None


def _saturated(places: Tensor, low: float, high: float) -> Tensor:
    margin = NEAR * (high - low)
    at_end = (places < low + margin) | (places > high - margin)
    return (at_end.float().mean(0) >= SHARE).float().mean()


def _compiled_parts(module: nn.Module) -> Iterator[nn.Module]:
    """Every part of what torch.compile has made its own."""
    for each in module.modules():
        if each._compiled_call_impl is not None or type(each).__name__ == "OptimizedModule":
            yield from each.modules()
