"""A teacher: a frozen network with its own precision, and where it came from."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.plugins.precision.utils import _DtypeContextManager
from torch import Tensor, nn

from musictrain.checkpoints.stored_network import StoredNetwork
from musictrain.checkpoints.weights import name_of

DTYPES = {"64": torch.float64, "32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


class Teacher:
    """A stored version's network, asked and never trained.

    No module, so that a student which holds it neither saves nor trains nor counts it, and copies of the student share it.

    Args:
        stored: the network and where it came from.
        precision: with Lightning's words: ``32-true``, ``bf16-mixed``...
    """

    def __init__(self, stored: StoredNetwork, precision: str = "32-true") -> None:
        self.stored, self.precision = stored, precision
        self.network = stored.network.requires_grad_(False).eval()
        self.fingerprint = fingerprint_of(self.network)
        self.device = torch.device("cpu")
        number, _, kind = precision.partition("-")
        self._dtype = DTYPES[number] if kind == "true" else torch.float32
        self._autocast = DTYPES[number] if kind == "mixed" else None
        self.network.to(self._dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    @property
    def name(self) -> str:
        """Run and version."""
        return self.stored.name

    def to(self, device: torch.device) -> None:
        """Work on this device from now on."""
        if device != self.device:
            self.network.to(device)
            self.device = device

    @contextlib.contextmanager
    def at_work(self) -> Iterator[nn.Module]:
        """Inside, the network may be called: without gradients, in its own precision whatever the student's is."""
        dtype = self._autocast or torch.bfloat16
        with (
            torch.no_grad(),
            _DtypeContextManager(self._dtype),
            torch.autocast(self.device.type, dtype=dtype, enabled=self._autocast is not None),
        ):
            yield self.network

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (rows, time, vocab) for tokens (rows, time)."""
        with self.at_work() as network:
            return network(tokens)  # type: ignore[no-any-return]

    def described(self) -> dict[str, Any]:
        """Who it is, as plain values for a checkpoint."""
        run = self.stored.run
        return {
            "run": None if run is None else run.name,
            "version": name_of(self.stored.path),
            "path": str(self.stored.path),
            "step": self.stored.step,
            "weights": self.fingerprint,
        }


def fingerprint_of(network: nn.Module) -> str:
    """Names and values of all weights as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
