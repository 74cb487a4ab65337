"""In which precision a device computes: what ``auto`` stands for, and what is refused, each with its reason."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")
MATMUL_PRECISIONS = ("highest", "high", "medium")
# Of the error of products in plain 32 bits: what a faster way may add and still count as 32 bits.
MOST_ERROR = 4.0


@dataclass(frozen=True)
class Device:
    """What the choice depends on.

    Args:
        kind: ``cpu``, ``cuda`` or ``mps``.
        bf16: whether it multiplies bfloat16 in hardware.
        name: for people.
    """

    kind: str
    bf16: bool
    name: str = ""


def device_at_hand(kind: str) -> Device:
    """This machine's device of a kind."""
    if kind == "cuda":  # Not run here.
        # Without emulation: before Ampere bfloat16 is slower than 32 bits.
        return Device(kind, torch.cuda.get_device_capability()[0] >= 8 or torch.version.hip is not None, torch.cuda.get_device_name())
    return Device(kind, kind == "cpu" and _cpu_multiplies_bf16(), "CPU" if kind == "cpu" else kind.upper())


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "arm_bf16", "bf16"))


def choose_precision(device: Device) -> tuple[str, str]:
    """The precision that ``auto`` stands for on a device, and why."""
    if device.bf16:
        return "bf16-mixed", f"{device.name} multiplies bfloat16 in hardware; weights stay in 32 bits"
    if device.kind == "cuda":
        return "16-mixed", f"{device.name} has no bfloat16; float16 with a gradient scaler, weights stay in 32 bits"
    return "32-true", f"{device.name} has no bfloat16 in hardware"


def check_precision(precision: str, device: Device) -> None:
    """Refuse a precision that a device cannot train in.

    Raises:
        ValueError: with the reason and what to use instead.
    """
    better = choose_precision(device)[0]
    if device.kind == "cpu" and precision in ("16-mixed", "16-true"):
        raise ValueError(
            f"--trainer.precision {precision} needs a GPU: a CPU computes float16 hundreds of times slower than bfloat16. Use {better}, "
            "or auto."
        )
    if device.kind == "mps" and precision == "64-true":
        raise ValueError(f"--trainer.precision {precision} is not known to {device.name}, which has no 64 bits. Use {better}, or auto.")


def choose_matmul_precision(device: Device, precision: str) -> tuple[str, str]:
    """How products of 32-bit matrices are computed where ``auto`` is asked for, and why.

    On a GPU ``high`` means TF32. On a CPU ``medium`` lets another library multiply, twice as fast on some, in bfloat16 on others: it is
    measured here on one product and taken only where its error stays that of 32 bits.
    """
    if precision != "32-true":
        return "highest", f"products are in {precision} anyway"
    if device.kind == "cuda":  # Not run here.
        return "high", "TF32 where the GPU has it"
    if device.kind != "cpu":
        return "highest", f"{device.name} knows no other"
    added = matmul_error("medium") / matmul_error("highest")
    if added <= MOST_ERROR:
        return "medium", f"its error is {added:.1f} times that of highest here, and products are up to twice as fast"
    return "highest", f"medium would have {added:.0f} times the error here"


@functools.cache
def matmul_error(setting: str, size: int = 256) -> float:
    """Root mean square error of one product of 32-bit matrices under a setting of ``torch.set_float32_matmul_precision``."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator, dtype=torch.float64) for _ in range(2))
    left, right = left.float(), right.float()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        product = left @ right
    finally:
        torch.set_float32_matmul_precision(before)
    return float((product.double() - left.double() @ right.double()).square().mean().sqrt())
