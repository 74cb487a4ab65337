"""Optimizers that compute gradients at some weights and give others as their result: the schedule-free ones, whose result is an average.

Conventions: the *trained* weights are those that gradients are computed at; the *average* is what is validated, sampled from, stored as a
version's weights and left in the module at the end. An optimizer of this kind has methods ``train`` and ``eval`` that turn one into the
other, and says in its groups' ``train_mode`` which are there. Turning forth and back loses the last bits, so here the trained weights are
put aside and taken back; a checkpoint keeps them in the optimizer's state, beside the averaged point ``z``, and a run goes on from them to
the bit. Whoever loads a checkpoint without its optimizer has the average.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from musictrain.optim.standing_still import StandsStill, own

TRAINED = "trained_weights"
"""Key of a parameter's state in a checkpoint."""

# What activation checkpointing and torch.compile put into names, and no state_dict has.
WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


def has_two_weights(optimizer: Optimizer) -> bool:
    """Whether the optimizer's result is not what gradients are computed at."""
    switches = callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
    return switches and all("train_mode" in group for group in optimizer.param_groups)


def keeps_two_weights(optimizer: Optimizer) -> bool:
    """Whether it behaves as ``TwoWeights``."""
    return callable(getattr(optimizer, "show_average", None))


class TwoWeights(StandsStill):
    """To be put before such an optimizer's class; trains from the start, and shows the average when asked to."""

    _aside: list[tuple[Tensor, Tensor]] | None = None

    @property
    def shows_average(self) -> bool:
        """Whether the parameters are the average now."""
        return self._aside is not None

    @torch.no_grad()
    def show_average(self) -> None:
        """Let the parameters be the average."""
        if self._aside is not None:
            return
        aside = [(each, each.detach().clone()) for each in self._moved()]
        self.eval()  # type: ignore[attr-defined]
        for parameter in [each for each, state in self.state.items() if not state]:
            del self.state[parameter]  # looked at and so made; torch takes a state for a sign that there was a step
        # No step is taken before the trained weights are back: for whoever asks, nothing has changed.
        self._set_mode()
        self._aside = aside

    @torch.no_grad()
    def show_trained(self) -> None:
        """Let the parameters be those that gradients are computed at, the same bits as before."""
        aside, self._aside = self._aside, None
        for parameter, trained in aside or ():
            parameter.copy_(trained)

    def averages(self) -> dict[int, Tensor]:
        """The averages by the ``id`` of their parameters; where nothing was trained yet there is none."""
        shown = self.shows_average
        self.show_average()
        assert self._aside is not None
        found = {id(parameter): parameter.detach().clone() for parameter, _ in self._aside}
        if not shown:
            self.show_trained()
        return found

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """As the optimizer's own.

        Raises:
            RuntimeError: if the parameters are the average.
        """
        if self.shows_average:
            raise RuntimeError(f"{type(self).__name__} was asked for a step from the average: call show_trained() first.")
        self._set_mode()
        return StandsStill.step(self, closure)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's own, and the trained weights of every parameter."""
        state: dict[str, Any] = own(self).state_dict()
        trained = {id(parameter): weights for parameter, weights in self._aside or ()}
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        kept = dict(state["state"])
        for number, parameter in zip(numbers, parameters, strict=True):
            if "z" in kept.get(number, ()):
                kept[number] = {**kept[number], TRAINED: trained.get(id(parameter), parameter.detach()).clone()}
        return {**state, "state": kept}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back a state; the parameters become the trained weights in it."""
        state = {number: {key: each for key, each in of_one.items() if key != TRAINED} for number, of_one in state_dict["state"].items()}
        own(self).load_state_dict({**state_dict, "state": state})
        self._aside = None
        self._set_mode()
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            if TRAINED in state_dict["state"].get(number, ()):
                parameter.copy_(state_dict["state"][number][TRAINED])

    def _moved(self) -> list[Tensor]:
        return [each for group in self.param_groups for each in group["params"] if "z" in self.state.get(each, ())]

    def _set_mode(self) -> None:
        for group in self.param_groups:
            group["train_mode"] = True


class Shown:
    """What a module knows of its optimizer's two weights; nothing where there are not two. A copy of the module knows nothing.

    Args:
        optimizer: any.
    """

    def __init__(self, optimizer: Optimizer | None = None) -> None:
        self._of: Any = optimizer if optimizer is not None and keeps_two_weights(optimizer) else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Shown:
        return Shown()

    def average(self) -> None:
        """Show the average from now on."""
        if self._of is not None:
            self._of.show_average()

    def trained(self) -> None:
        """Show the trained weights from now on."""
        if self._of is not None:
            self._of.show_trained()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the module's weights are the average."""
        is_mine = self._of is not None and not self._of.shows_average
        self.average()
        try:
            yield
        finally:
            if is_mine:
                self.trained()

    def put_into(self, state_dict: dict[str, Any], module: nn.Module, prefix: str = "") -> dict[str, Any]:
        """A module's ``state_dict`` with the average in it; changes and gives back the same object."""
        averages = {} if self._of is None else self._of.averages()
        for name, parameter in module.named_parameters(remove_duplicate=False) if averages else ():
            if id(parameter) in averages:
                state_dict[prefix + _clean(name)] = averages[id(parameter)]
        return state_dict


def _clean(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
