"""A tiny network, gradients by number, and optimizers that step on them: without a Trainer, so that hundreds of steps take a moment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import musictrain.optim
from musictrain.checkpoints import CompressedCheckpointIO
from musictrain.models import Decoder

VOCAB = 13
OURS = ("AdamW", "Muon", "Lion", "SOAP", "Adafactor", "ADOPT", "Prodigy", "ScheduleFreeAdamW", "SAM")


def factory(name: str, **options: Any) -> Callable[[Iterable], Any]:
    """What makes one of musictrain.optim's optimizers."""
    if name == "SOAP":
        options = {"precondition_frequency": 2, **options}
    return functools.partial(getattr(musictrain.optim, name), **options)


def network(seed: int = 1, **options: Any) -> Decoder:
    """One block of 8 channels, none of whose weights is zero; the same for the same seed."""
    torch.manual_seed(seed)
    made = Decoder(VOCAB, **{"d_model": 8, "num_layers": 1, "num_heads": 2, "dropout": 0.0, "tie_embeddings": False, **options})
    for parameter in made.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)
    return made


def give_gradients(of: nn.Module, number: int) -> None:
    """Those of a number, the same for the same shapes."""
    generator = torch.Generator().manual_seed(number)
    for parameter in of.parameters():
        parameter.grad = 0.1 * torch.randn(parameter.shape, generator=generator)


def step(of: nn.Module, optimizer: Any, numbers: Iterable[int]) -> None:
    """One step for each number, with random numbers that depend on it alone."""
    for number in numbers:
        torch.manual_seed(number)

        def closure(number: int = number) -> torch.Tensor:
            give_gradients(of, number)
            return torch.tensor(float(number))

        assert float(optimizer.step(closure)) == number


def through_a_file(folder: Path, of: nn.Module, optimizer: Any) -> dict[str, Any]:
    """What a checkpoint holds of both, written by our plugin and read back with ``weights_only``."""
    path, io = folder / "v000001_step000003.ckpt", CompressedCheckpointIO(background=False)
    io.save_checkpoint({"state_dict": of.state_dict(), "optimizer_states": [optimizer.state_dict()], "global_step": 3}, path)
    return io.load_checkpoint(path)


def same(one: Any, other: Any) -> bool:
    """Equal trees, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
