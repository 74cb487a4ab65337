"""The next-token loss against torch's own cross-entropy, and the law that padding never counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musictrain import losses
from musictrain.losses import next_token_loss, token_nll

PAD = 0


def random_case(batch: int = 3, time: int = 5, vocab: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, time, vocab, generator=generator)
    return logits.requires_grad_(), torch.randint(1, vocab, (batch, time), generator=generator)


def gradient_of(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("chunk_values", [1, 14, 2**18])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradient_equal_torchs_cross_entropy(monkeypatch, chunk_values, smoothing):
    monkeypatch.setitem(losses.CHUNK_VALUES, "cpu", chunk_values)
    logits, targets = random_case()
    targets[1, 2:] = PAD
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing)
    result = next_token_loss(logits, targets, pad_id=PAD, label_smoothing=smoothing)
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(gradient_of(result.loss, logits), gradient_of(expected, logits))


def test_every_target_counts_without_a_padding_token():
    logits, targets = random_case()
    targets[0] = 0
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    result = next_token_loss(logits, targets, pad_id=None)
    torch.testing.assert_close(result.loss, expected)
    assert result.num_tokens == targets.numel()


def test_z_loss_is_the_mean_squared_log_partition_and_so_is_its_gradient():
    logits, targets = random_case()
    targets[2, 1:] = PAD
    counted = targets != PAD
    expected = F.cross_entropy(logits[counted], targets[counted], label_smoothing=0.2) + 0.01 * logits.logsumexp(-1)[counted].pow(2).mean()
    result = next_token_loss(logits, targets, pad_id=PAD, label_smoothing=0.2, z_loss=0.01)
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(gradient_of(result.loss, logits), gradient_of(expected, logits))


def test_nll_sum_is_the_plain_likelihood_whatever_the_options():
    logits, targets = random_case()
    plain = next_token_loss(logits, targets, pad_id=PAD)
    adorned = next_token_loss(logits, targets, pad_id=PAD, label_smoothing=0.3, z_loss=0.1)
    assert torch.equal(plain.nll_sum, adorned.nll_sum)
    assert not plain.nll_sum.requires_grad
    torch.testing.assert_close(plain.nll_sum / plain.num_tokens, plain.loss)


@settings(max_examples=30, deadline=None)
@given(padded=st.integers(0, 14), smoothing=st.floats(0, 1), z_loss=st.floats(0, 1), seed=st.integers(0, 2**16))
def test_what_stands_at_padding_changes_nothing(padded, smoothing, z_loss, seed):
    logits, targets = random_case(seed=seed)
    mask = torch.randperm(15, generator=torch.Generator().manual_seed(seed)).reshape(3, 5) < padded
    targets = targets.masked_fill(mask, PAD)
    wild = logits.detach().masked_fill(mask[..., None], torch.nan).requires_grad_()
    options = {"pad_id": PAD, "label_smoothing": smoothing, "z_loss": z_loss}
    tame_result, wild_result = next_token_loss(logits, targets, **options), next_token_loss(wild, targets, **options)
    assert torch.equal(tame_result.loss, wild_result.loss)
    assert torch.equal(tame_result.nll_sum, wild_result.nll_sum)
    assert torch.equal(gradient_of(tame_result.loss, logits), gradient_of(wild_result.loss, wild))
    assert tame_result.num_tokens == 15 - padded


def test_a_batch_of_padding_alone_has_loss_zero_and_gradient_zero():
    logits, targets = random_case()
    result = next_token_loss(logits, torch.full_like(targets, PAD), pad_id=PAD, label_smoothing=0.1, z_loss=0.1)
    assert result.loss == 0
    assert result.num_tokens == 0
    assert torch.equal(gradient_of(result.loss, logits), torch.zeros_like(logits))


def test_the_gradient_scales_with_the_loss_and_survives_a_second_backward():
    logits, targets = random_case()
    loss = next_token_loss(logits, targets, pad_id=PAD).loss
    once = torch.autograd.grad(loss, logits, retain_graph=True)[0].clone()
    thrice = torch.autograd.grad(3 * loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(thrice, 3 * once)
    assert torch.equal(torch.autograd.grad(loss, logits)[0], once)


def test_bfloat16_logits_are_summed_in_32_bits():
    logits, targets = random_case()
    half = logits.detach().bfloat16().requires_grad_()
    full = half.detach().float().requires_grad_()
    result, expected = next_token_loss(half, targets, pad_id=PAD), next_token_loss(full, targets, pad_id=PAD)
    assert result.loss.dtype == torch.float32
    assert torch.equal(result.loss, expected.loss)
    torch.testing.assert_close(gradient_of(result.loss, half), gradient_of(expected.loss, full).bfloat16())


def test_a_large_vocabulary_is_never_copied_whole():
    """Beside the logits' gradient, what the loss allocates at once is a few chunks, not a few times the logits."""
    vocab = 4096
    logits = torch.zeros(1, 512, vocab, requires_grad=True)
    targets = torch.ones(1, 512, dtype=torch.int64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        next_token_loss(logits, targets, pad_id=PAD, label_smoothing=0.1, z_loss=1e-4).loss.backward()
    sizes = sorted((event.cpu_memory_usage for event in profile.events() if not event.cpu_children), reverse=True)
    whole = logits.numel() * 4
    assert sizes[0] == whole
    assert sizes[1] <= 4 * losses.CHUNK_VALUES["cpu"] < whole


def test_token_nll_is_what_the_loss_sums():
    logits, targets = random_case()
    targets[0, 3:] = PAD
    nll = token_nll(logits, targets, pad_id=PAD)
    result = next_token_loss(logits, targets, pad_id=PAD)
    torch.testing.assert_close(nll.nansum(), result.nll_sum)
    assert torch.equal(nll.isnan(), targets == PAD)
    assert not nll.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [({"label_smoothing": 1.5}, "label_smoothing is 1.5, expected a share"), ({"z_loss": -1.0}, "z_loss is -1.0, expected a weight")],
)
def test_an_option_out_of_range_is_refused(options, message):
    logits, targets = random_case()
    with pytest.raises(ValueError, match=message):
        next_token_loss(logits, targets, pad_id=PAD, **options)


@pytest.mark.parametrize("function", [next_token_loss, token_nll])
def test_shapes_that_do_not_fit_are_named(function):
    logits, targets = random_case()
    with pytest.raises(ValueError, match=r"\(3, 5, 7\) do not fit targets of shape \(3, 4\)"):
        function(logits, targets[:, 1:], pad_id=PAD)
