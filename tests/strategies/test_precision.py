"""In which precision a device computes, and what is refused."""

from __future__ import annotations

import pytest
import torch

from musictrain.strategies.precision import (
    Device,
    check_precision,
    choose_matmul_precision,
    choose_precision,
    device_at_hand,
    matmul_error,
)

CPU, OLD_CPU = Device("cpu", True, "CPU"), Device("cpu", False, "CPU")
GPU, OLD_GPU = Device("cuda", True, "A100"), Device("cuda", False, "V100")
APPLE = Device("mps", False, "MPS")


@pytest.mark.parametrize(
    ("device", "precision"), [(CPU, "bf16-mixed"), (OLD_CPU, "32-true"), (GPU, "bf16-mixed"), (OLD_GPU, "16-mixed"), (APPLE, "32-true")]
)
def test_auto_depends_on_what_a_device_multiplies(device: Device, precision: str) -> None:
    chosen, reason = choose_precision(device)
    assert chosen == precision
    assert device.name in reason
    check_precision(chosen, device)


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_float16_is_refused_on_a_cpu_with_the_reason(precision: str) -> None:
    with pytest.raises(ValueError, match=f"{precision} needs a GPU.*Use bf16-mixed, or auto"):
        check_precision(precision, CPU)
    check_precision(precision, OLD_GPU)


def test_64_bits_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="64-true is not known to MPS"):
        check_precision("64-true", APPLE)
    check_precision("64-true", CPU)


def test_this_cpu_says_whether_it_multiplies_bfloat16() -> None:
    assert device_at_hand("cpu").bf16 == bool(
        torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16")
    )


def test_matrix_products_stay_exact_where_auto_makes_them_faster() -> None:
    before = torch.get_float32_matmul_precision()
    setting, reason = choose_matmul_precision(device_at_hand("cpu"), "32-true")
    assert torch.get_float32_matmul_precision() == before
    assert matmul_error(setting) <= 4 * matmul_error("highest")
    assert "error" in reason


def test_a_way_that_loses_digits_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musictrain.strategies.precision.matmul_error", lambda setting: {"highest": 1e-6, "medium": 1e-3}[setting])
    assert choose_matmul_precision(CPU, "32-true") == ("highest", "medium would have 1000 times the error here")


def test_under_mixed_precision_there_is_nothing_to_choose() -> None:
    assert choose_matmul_precision(CPU, "bf16-mixed")[0] == "highest"
    assert choose_matmul_precision(GPU, "32-true")[0] == "high"
    assert choose_matmul_precision(APPLE, "32-true")[0] == "highest"
