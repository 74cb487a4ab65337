"""What a device can do at best, in FLOP/s, found by a short matrix product where no table knows it."""

from __future__ import annotations

import functools
import time

import torch

SIZES = (256, 512, 1024, 2048)
SECONDS_PER_SIZE = 0.07


def dtype_of(precision: str) -> torch.dtype:
    """The type of number that matrix products run in: of ``bf16-mixed`` bfloat16, of ``32-true`` float32.

    >>> dtype_of("bf16-mixed"), dtype_of("32-true"), dtype_of("16-mixed")
    (torch.bfloat16, torch.float32, torch.float16)
    """
    head = str(precision).split("-")[0]
    return {"64": torch.float64, "16": torch.float16, "bf16": torch.bfloat16, "transformer": torch.bfloat16}.get(head, torch.float32)


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best square matrix product of 256 to 2,048 rows, within half a second; measured once per process.

    With the threads and the matmul precision as they are: where these change, it is measured again. Other programs and ranks on the
    same cores lower it.
    """
    return _measured(device, dtype, torch.get_num_threads(), torch.get_float32_matmul_precision())


@functools.cache
def _measured(device: torch.device, dtype: torch.dtype, threads: int, matmul_precision: str) -> float:
    # A generator of its own: the random numbers of the run stay as they are.
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for size in SIZES:
            left, right = (torch.rand(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
            seconds = _product_seconds(left, right)  # the first one prepares the kernel
            end = time.perf_counter() + SECONDS_PER_SIZE
            while time.perf_counter() < end:
                seconds = _product_seconds(left, right)
                best = max(best, 2 * size**3 / seconds)
            if 8 * seconds > 2 * SECONDS_PER_SIZE:
                break  # twice the size takes eight times as long
    return best


def _product_seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait(left.device)
    start = time.perf_counter()
    left @ right
    _wait(left.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).synchronize()
