"""ExactDDPStrategy: DDP whose resumed runs add up gradients in the same order as uninterrupted ones, on any number of processes.

    Trainer(strategy=ExactDDPStrategy(), devices=4)

torch's DDP sums gradients in buckets, and lays the buckets out anew after the first backward pass, in the order in which gradients came.
With three processes or more the place in a bucket says in which order the summands of a value are added, so that the first step after a
resume rounds otherwise than the same step of a run that is further on. Here the layout is settled before the first step, always alike.
Cost: one pass over the weights when a fit starts.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


class ExactDDPStrategy(DDPStrategy):
    """As Lightning's DDPStrategy, with its arguments."""

    def configure_ddp(self) -> None:
        """Wrap the module, and settle in which order its gradients lie."""
        super().configure_ddp()
        if isinstance(self.model, DistributedDataParallel):
            settle_buckets(self.model)


def settle_buckets(ddp: DistributedDataParallel) -> None:
    """Let gradients of zero arrive once, the last parameter's first, after which torch lays out the buckets for good.

    Nothing of the module is run and no random number is drawn; its gradients are none afterwards.
    """
    module: Any = ddp.module
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    own = module.__dict__.get("forward")

    def forward() -> Tensor:
        # Autograd goes back from the last summand to the first.
        return torch.stack([(parameter * 0.0).sum() for parameter in trainable]).sum()

    module.forward = forward
    try:
        ddp().backward()
        # The layout is taken up at the beginning of the next pass, which must come to its end: a step may begin with gradients that are
        # gathered and not summed yet.
        ddp().backward()
    finally:
        del module.forward
        if own is not None:
            module.forward = own
    for parameter in trainable:
        parameter.grad = None
