"""SAM: gradients are computed not where the weights are but at the worst place near by, so that training ends in flat places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import pytorch_optimizer
import torch
from torch.optim import Optimizer

from musictrain.optim.optimizers import AdamW
from musictrain.optim.standing_still import has_gradients, with_gradients
from musictrain.optim.two_weights import has_two_weights


class SAM(pytorch_optimizer.SAM):
    """Goes up the gradient by ``rho``, computes it again there, and lets another optimizer step from where it was with that one.

    Costs two passes a step. Under ``MusicModule`` both read the same batch with the same random numbers; what is logged is the loss at the
    weights themselves, and clipping and alerts see the gradient that is used. In any other Trainer the whole closure runs twice. Not with
    gathered batches, nor in 16 bits with a scaler, nor for weights in shares.

    Args:
        params: parameters or parameter groups.
        base: makes the optimizer that steps, from groups; its learning rate is the one that counts.
        rho: how far up, as the length of all weights' way together; 0.05 is usual, more for longer training.
        adaptive: whether the way is in shares of each weight's own size; ``rho`` is then some ten times larger.

    Raises:
        ValueError: if ``rho`` is negative, or the base is schedule-free.

    Source: Foret et al., Sharpness-Aware Minimization (ICLR 2021); ``adaptive`` as in Kwon et al., ASAM (ICML 2021).
    """

    whole_only: ClassVar[str] = "it needs the length of the whole gradient between two passes"

    def __init__(
        self, params: Iterable[Any], base: Callable[[Iterable], Optimizer] = AdamW, rho: float = 0.05, adaptive: bool = False
    ) -> None:
        make: Any = base
        super().__init__(list(params), base_optimizer=make, rho=rho, adaptive=adaptive)
        if has_two_weights(self.base_optimizer):
            raise ValueError(f"SAM cannot have the base {type(self.base_optimizer).__name__}: of its two weights it would know one.")
        self._step_supports_amp_scaling = False
        self._has_climbed = False

    @torch.no_grad()
    def climb(self) -> None:
        """Go to the worst place near by, as the gradients say."""
        self.first_step()

    @torch.no_grad()
    def come_down(self) -> None:
        """Go back, to the same bits; the gradients stay those from up there."""
        for parameter in (each for group in self.param_groups for each in group["params"]):
            if "old_p" in self.state.get(parameter, ()):
                parameter.copy_(self.state[parameter].pop("old_p"))
                if not self.state[parameter]:
                    del self.state[parameter]  # an optimizer that finds a state begins no new one
        self._has_climbed = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """A step; the closure, which computes gradients, runs a second time unless it has been up there by itself.

        Raises:
            ValueError: without a closure, and without having climbed before.
        """
        loss = with_gradients(closure)
        if not self._has_climbed and has_gradients(self):
            if closure is None:
                raise ValueError("SAM computes gradients twice a step: call step(closure) with what computes them.")
            self.climb()
            with_gradients(closure)
            self.come_down()
        self._has_climbed = False
        self.base_optimizer.step()
        return loss
