"""RMSNorm by the short way against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from musictrain.models.norm import RMSNorm


def outputs_and_gradients(norm: nn.Module, x: Tensor) -> list[Tensor]:
    weight = torch.linspace(-1.0, 2.0, x.shape[-1])
    norm.load_state_dict({"weight": weight})
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * torch.arange(y.numel()).reshape(y.shape).cos()).sum().backward()
    return [y, x.grad, norm.weight.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(3, 5, 16), (7, 16), (1, 1, 16)])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 0.0, 1e4], ids=["unit", "near-eps", "zero", "large"])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], scale: float) -> None:
    x = scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = outputs_and_gradients(RMSNorm(16), x), outputs_and_gradients(nn.RMSNorm(16, eps=1e-6), x)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5 * reference.abs().max().item())


def test_gradient_of_a_transposed_stream() -> None:
    x = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(0))
    gradients = []
    for norm in (RMSNorm(16), nn.RMSNorm(16, eps=1e-6)):
        leaf = x.clone().requires_grad_()
        (norm(leaf.transpose(0, 1)).transpose(0, 1) * x.cos()).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_torchs(dtype: torch.dtype) -> None:
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(RMSNorm(16).to(dtype)(x), nn.RMSNorm(16, eps=1e-6).to(dtype)(x))
