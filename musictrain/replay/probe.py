"""Hooks that listen to one step and change no bit of it: what the network answers, and which tensor is the first that is not finite.

Conventions: nothing is drawn, nothing is written into; hooks on tensors only look. The order is that of computation: weights a layer is
about to use, its output, the loss, gradients on the way back, the optimizer's state, the weights after the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from musictrain.losses import token_nll
from musictrain.replay.found import NotFinite, WorkedBatch, count_not_finite


class FirstNotFinite:
    """Remembers the first tensor that is not finite.

    Minus infinity alone does not count in an activation, unless nothing else is found: it is what masks are made of.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self._found: NotFinite | None = None
        self._masked: NotFinite | None = None
        self.went_wrong = False

    @property
    def found(self) -> NotFinite | None:
        """The first one; None if all were finite."""
        return self._found or (self._masked if self.went_wrong else None)

    def look(self, stage: str, name: str, tensor: Tensor) -> None:
        """Look at the next tensor."""
        if self._found is not None or not (values := count_not_finite(tensor)):
            return
        found = NotFinite(stage, name, values, tensor.numel(), self.step)
        if stage == "activation" and _only_minus_infinity(tensor):
            self._masked = self._masked or found
            return
        if stage in ("loss", "gradient of an activation", "gradient") and self._masked is not None:
            found = self._masked
        self._found, self.went_wrong = found, True


def _only_minus_infinity(tensor: Tensor) -> bool:
    values = tensor.detach()
    return not bool((torch.isnan(values) | (values == torch.inf)).any())


class AnswerEar:
    """Hears what a network answers to each batch: nats of every target, and the likeliest token.

    Args:
        network: called with tokens (rows, time), answers (rows, time, vocab).
        pad_id: the token that does not count.
        deaf: whether it is not to listen just now: to the second of two passes of a step, at other weights.
    """

    def __init__(self, network: nn.Module, pad_id: int | None, deaf: Callable[[], bool] = lambda: False) -> None:
        self.pad_id, self._deaf = pad_id, deaf
        self._parts: list[tuple[Tensor | None, Tensor]] = []
        self._targets: Tensor | None = None
        self._hook = network.register_forward_hook(self._hear)

    def begin(self, tokens: Tensor | None) -> None:
        """A batch with these tokens, (rows, time + 1), comes next."""
        self._targets, self._parts = tokens, []

    def end(self, batch: Any, loss: float) -> WorkedBatch:
        """What was heard of it. Where rows were worked on in parts, or again, the last answers count."""
        tokens, parts = self._targets, self._parts
        self._targets, self._parts = None, []
        kept = on_cpu(batch)
        nothing = WorkedBatch(kept, None, None, None, None, None, loss)
        if tokens is None or not parts:
            return nothing
        logits = torch.cat([answer for _, answer in parts])[-len(tokens) :]
        if logits.shape[:2] != (len(tokens), tokens.shape[1] - 1):
            return nothing
        reads = [read for read, _ in parts if read is not None]
        misread = torch.cat(reads)[-len(tokens) :] != tokens[:, :-1] if len(reads) == len(parts) else None
        nll = token_nll(logits, tokens[:, 1:], pad_id=self.pad_id)
        best = logits.float().log_softmax(-1).max(-1)
        counted = torch.ones_like(nll, dtype=torch.bool) if self.pad_id is None else tokens[:, 1:] != self.pad_id
        return WorkedBatch(
            kept, nll.cpu(), counted.cpu(), best.indices.cpu(), -best.values.cpu(), None if misread is None else misread.cpu(), loss
        )

    def close(self) -> None:
        """Hear no more."""
        self._hook.remove()

    def _hear(self, module: nn.Module, given: Any, answer: Any) -> None:
        if self._targets is None or self._deaf() or not isinstance(answer, Tensor) or answer.ndim != 3:
            return
        read = given[0] if given and isinstance(given[0], Tensor) and given[0].shape == answer.shape[:2] else None
        self._parts.append((read, answer.detach()))


class StepProbe:
    """Looks at every tensor of one step, from its first batch to the optimizer's step.

    Args:
        module: what is trained.
        step: number of the step.
        inside: whether to look at the outputs of its layers; hooks would have a compiled network compiled anew, to other bits.
    """

    def __init__(self, module: nn.Module, step: int, *, inside: bool = True) -> None:
        self.first = FirstNotFinite(step)
        self.before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        self._names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._hooks: list[Any] = []
        if inside:
            self._listen(module)
        else:
            for name, parameter in module.named_parameters():
                self.first.look("weight", name, parameter)

    def _listen(self, module: nn.Module) -> None:
        for name, layer in module.named_modules():
            own = {f"{name}.{each}".lstrip("."): tensor for each, tensor in layer.named_parameters(recurse=False)}
            self._hooks.append(layer.register_forward_pre_hook(functools.partial(self._before_layer, own)))
            self._hooks.append(layer.register_forward_hook(functools.partial(self._after_layer, name or type(module).__name__)))
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(functools.partial(self._gradient, name)))

    def _before_layer(self, own: Mapping[str, Tensor], layer: nn.Module, given: Any) -> None:
        for name, tensor in own.items():
            self.first.look("weight", name, tensor)

    def _after_layer(self, name: str, layer: nn.Module, given: Any, answer: Any) -> None:
        for tensor in tensors_in(answer):
            self.first.look("activation", name, tensor)
            if tensor.requires_grad:
                tensor.register_hook(self._looker("gradient of an activation", name))

    def _looker(self, stage: str, name: str) -> Callable[[Tensor], None]:
        # A hook that gives nothing back leaves the gradient as it is.
        def look(gradient: Tensor) -> None:
            self.first.look(stage, name, gradient)

        return look

    def _gradient(self, name: str, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.first.look("gradient", name, parameter.grad)

    def loss(self, loss: Tensor) -> None:
        """The loss of a batch is known."""
        self.first.look("loss", "loss", loss)

    def after_step(self, module: nn.Module, optimizers: Iterable[Any]) -> None:
        """The optimizers have made their step."""
        for optimizer in optimizers:
            for parameter, state in optimizer.state.items():
                for key, value in state.items() if isinstance(state, Mapping) else ():
                    if isinstance(value, Tensor):
                        self.first.look("optimizer", f"{self._names.get(id(parameter), 'a parameter')}: {key}", value)
        for name, parameter in module.named_parameters():
            self.first.look("weight after the step", name, parameter)

    def close(self) -> None:
        """Look no more."""
        while self._hooks:
            self._hooks.pop().remove()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in what a layer gives back, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from tensors_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_in(each)


def on_cpu(batch: Any) -> Any:
    """A copy of a batch on the CPU."""
    if isinstance(batch, Tensor):
        return batch.detach().cpu().clone()
    if isinstance(batch, Mapping):
        return {key: on_cpu(value) for key, value in batch.items()}
    return batch
