"""The distillation loss against torch's own kl_div, the law that padding never counts, and what it holds in memory at its peak."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from musictrain import distillation_loss as module
from musictrain import losses
from musictrain.distillation_loss import TopTokens, distillation_loss
from musictrain.losses import next_token_loss
from musictrain.micro_batches import in_parts

PAD = 0


def random_case(batch: int = 3, time: int = 5, vocab: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = (3 * torch.randn(batch, time, vocab, generator=generator) for _ in range(2))
    return logits.requires_grad_(), teacher, torch.randint(1, vocab, (batch, time), generator=generator)


def asking(opinion: Tensor | TopTokens):
    return lambda rows: opinion[rows] if isinstance(opinion, Tensor) else TopTokens(*(part[rows] for part in opinion))


def top_of(teacher: Tensor, k: int, temperature: float) -> TopTokens:
    likeliest = (teacher / temperature).log_softmax(-1).sort(-1, descending=True)
    return TopTokens(likeliest.indices[..., :k], likeliest.values[..., :k], likeliest.values[..., k:].logsumexp(-1))


def naive(logits: Tensor, teacher: Tensor, targets: Tensor, temperature: float, weight: float, smoothing: float = 0.0) -> Tensor:
    hard = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing)
    counted = targets != PAD
    soft = F.kl_div((logits / temperature).log_softmax(-1)[counted], (teacher / temperature).softmax(-1)[counted], reduction="batchmean")
    return (1 - weight) * hard + weight * temperature**2 * soft


def gradient_of(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("values", [1, 14, 2**18])
@pytest.mark.parametrize("rows_at_once", [1, 2**22])
@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.5), (2.5, 0.9), (0.5, 1.0), (4.0, 0.0)])
def test_loss_and_gradient_equal_torchs_own(monkeypatch, values, rows_at_once, temperature, weight):
    monkeypatch.setitem(losses.CHUNK_VALUES, "cpu", values)
    monkeypatch.setitem(module.TEACHER_VALUES, "cpu", rows_at_once)
    logits, teacher, targets = random_case()
    targets[1, 2:] = PAD
    expected = naive(logits, teacher, targets, temperature, weight, smoothing=0.1)
    options = {"pad_id": PAD, "temperature": temperature, "weight": weight, "label_smoothing": 0.1}
    result = distillation_loss(logits, targets, asking(teacher), **options)
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(gradient_of(result.loss, logits), gradient_of(expected, logits))


def test_with_weight_0_it_is_the_next_token_loss_z_loss_included():
    logits, teacher, targets = random_case()
    options = {"pad_id": PAD, "label_smoothing": 0.2, "z_loss": 0.01}
    plain = next_token_loss(logits, targets, **options)
    result = distillation_loss(logits, targets, asking(teacher), temperature=2.0, weight=0.0, **options)
    torch.testing.assert_close(tuple(result[:3]), tuple(plain))
    torch.testing.assert_close(gradient_of(result.loss, logits), gradient_of(plain.loss, logits))


def test_the_sums_are_plain_nats_whatever_the_options():
    logits, teacher, targets = random_case()
    result = distillation_loss(logits, targets, asking(teacher), pad_id=PAD, temperature=2.0, weight=0.7, label_smoothing=0.3, z_loss=0.1)
    torch.testing.assert_close(result.nll_sum, next_token_loss(logits, targets, pad_id=PAD).nll_sum)
    soft = F.kl_div((logits / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="sum")
    torch.testing.assert_close(result.soft_sum, soft.detach())
    assert not any(each.requires_grad for each in (result.nll_sum, result.soft_sum))


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it():
    logits, _, targets = random_case()
    result = distillation_loss(logits, targets, asking(logits.detach()), pad_id=PAD, temperature=2.0, weight=1.0)
    assert result.soft_sum == 0
    assert torch.equal(gradient_of(result.loss, logits), torch.zeros_like(logits))


@settings(max_examples=30, deadline=None)
@given(padded=st.integers(0, 14), weight=st.floats(0, 1), top=st.booleans(), seed=st.integers(0, 2**16))
def test_what_stands_at_padding_changes_nothing(padded, weight, top, seed):
    logits, teacher, targets = random_case(seed=seed)
    mask = torch.randperm(15, generator=torch.Generator().manual_seed(seed)).reshape(3, 5) < padded
    targets = targets.masked_fill(mask, PAD)
    wild = logits.detach().masked_fill(mask[..., None], torch.nan).requires_grad_()
    told = top_of(teacher, 3, 2.0) if top else teacher
    odd = TopTokens(told.tokens, told.log_probabilities, told.rest.masked_fill(mask, torch.nan)) if top else teacher.clone()
    if not top:
        odd[mask] = torch.nan
    options = {"pad_id": PAD, "temperature": 2.0, "weight": weight, "label_smoothing": 0.1, "z_loss": 0.01}
    tame_result, wild_result = (
        distillation_loss(logits, targets, asking(told), **options),
        distillation_loss(wild, targets, asking(odd), **options),
    )
    for tame, odd_one in zip(tame_result, wild_result, strict=True):
        assert torch.equal(tame, odd_one)
    assert torch.equal(gradient_of(tame_result.loss, logits), gradient_of(wild_result.loss, wild))
    assert tame_result.num_tokens == 15 - padded


def test_a_batch_of_padding_alone_has_loss_zero_and_gradient_zero():
    logits, teacher, targets = random_case()
    result = distillation_loss(logits, torch.full_like(targets, PAD), asking(teacher), pad_id=PAD, temperature=2.0, weight=0.5)
    assert result.loss == 0
    assert torch.equal(gradient_of(result.loss, logits), torch.zeros_like(logits))


def test_what_the_teacher_rules_out_with_minus_infinity_costs_nothing():
    logits, teacher, targets = random_case()
    teacher[..., 3], teacher[..., 5] = -torch.inf, -1e4
    with torch.no_grad():
        logits[0, 0, 3] = -torch.inf
    result = distillation_loss(logits, targets.clamp(max=2), asking(teacher), pad_id=PAD, temperature=2.0, weight=0.5)
    assert result.loss.isfinite()
    assert gradient_of(result.loss, logits).isfinite().all()


# A teacher that names its likeliest tokens


@pytest.mark.parametrize("k", [1, 3, 6])
def test_of_a_top_k_teacher_all_other_tokens_are_one_event(k):
    logits, teacher, targets = random_case()
    targets[2, 1:] = PAD
    told = top_of(teacher, k, 2.0)
    student = (logits / 2).log_softmax(-1).gather(2, told.tokens)
    merged = torch.cat((student, (1 - student.exp().sum(-1, keepdim=True)).log()), -1)
    outcomes = torch.cat((told.log_probabilities, told.rest[..., None]), -1)
    soft = (outcomes.exp() * (outcomes - merged)).sum(-1)[targets != PAD].mean()
    hard = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)
    expected = 0.25 * hard + 0.75 * 4 * soft
    result = distillation_loss(logits, targets, asking(told), pad_id=PAD, temperature=2.0, weight=0.75)
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(gradient_of(result.loss, logits), gradient_of(expected, logits))


def test_all_tokens_named_are_the_teacher_whole():
    logits, teacher, targets = random_case()
    options = {"pad_id": PAD, "temperature": 2.0, "weight": 0.75}
    named = distillation_loss(logits, targets, asking(top_of(teacher, 7, 2.0)), **options)
    whole = distillation_loss(logits, targets, asking(teacher), **options)
    torch.testing.assert_close(named.loss, whole.loss)
    torch.testing.assert_close(gradient_of(named.loss, logits), gradient_of(whole.loss, logits))


# How it is computed


def test_the_teacher_is_asked_for_few_rows_at_a_time_and_once_for_each(monkeypatch):
    monkeypatch.setitem(module.TEACHER_VALUES, "cpu", 2 * 5 * 7)
    logits, teacher, targets = random_case(batch=5)
    asked = []

    def ask(rows: slice) -> Tensor:
        assert not torch.is_grad_enabled()
        asked.append((rows.start, rows.stop))
        return teacher[rows]

    distillation_loss(logits, targets, ask, pad_id=PAD, temperature=2.0, weight=0.5)
    assert asked == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("parts", [2, 3, 9])
def test_in_parts_loss_sums_and_gradient_are_those_of_the_whole(parts):
    logits, teacher, targets = random_case(batch=5)
    targets[1, 1:], targets[4] = PAD, PAD

    def loss_of(logits: Tensor, targets: Tensor, teacher: Tensor):
        return distillation_loss(logits, targets, asking(teacher), pad_id=PAD, temperature=2.0, weight=0.6)

    whole, divided = loss_of(logits, targets, teacher), in_parts(loss_of, parts, logits, targets, teacher)
    torch.testing.assert_close(tuple(divided), tuple(whole))
    torch.testing.assert_close(gradient_of(divided.loss, logits), gradient_of(whole.loss, logits))


def test_bfloat16_logits_of_both_are_summed_in_32_bits():
    logits, teacher, targets = random_case()
    half = logits.detach().bfloat16().requires_grad_()
    full = half.detach().float().requires_grad_()
    options = {"pad_id": PAD, "temperature": 2.0, "weight": 0.5}
    result = distillation_loss(half, targets, asking(teacher.bfloat16()), **options)
    expected = distillation_loss(full, targets, asking(teacher.bfloat16().float()), **options)
    assert torch.equal(result.loss, expected.loss)
    torch.testing.assert_close(gradient_of(result.loss, half), gradient_of(expected.loss, full).bfloat16())


def test_logits_that_do_not_lie_in_a_row_have_the_same_gradient():
    logits, teacher, targets = random_case(time=6)
    told, options = asking(teacher[:, 1:]), {"pad_id": PAD, "temperature": 2.0, "weight": 0.5}
    sliced, copied = (distillation_loss(each, targets[:, 1:], told, **options) for each in (logits[:, 1:], logits[:, 1:].clone()))
    assert torch.equal(gradient_of(sliced.loss, logits), gradient_of(copied.loss, logits))


def test_a_large_vocabulary_costs_no_more_than_the_gradient_and_the_teachers_logits_of_some_rows(monkeypatch):
    vocab, rows, time = 4096, 8, 128
    monkeypatch.setitem(module.TEACHER_VALUES, "cpu", 2 * time * vocab)
    logits = torch.zeros(rows, time, vocab, requires_grad=True)
    targets = torch.ones(rows, time, dtype=torch.int64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        told = lambda rows: torch.ones(rows.stop - rows.start, time, vocab)  # noqa: E731
        distillation_loss(logits, targets, told, pad_id=PAD, temperature=2.0, weight=0.5, label_smoothing=0.1, z_loss=1e-4).loss.backward()
    sizes = sorted((event.cpu_memory_usage for event in profile.events() if not event.cpu_children), reverse=True)
    whole = logits.numel() * 4
    assert sizes[:5] == [whole, *[whole // 4] * 4]
    assert sizes[5] <= 4 * losses.CHUNK_VALUES["cpu"] < whole // 8
    assert peak_of(profile) <= whole + whole // 4 + 10 * 4 * losses.CHUNK_VALUES["cpu"]


def peak_of(profile: torch.profiler.profile) -> int:
    """Bytes held at once at most, beyond what was there before."""
    held = highest = 0
    changes = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    assert highest > 0
    return highest


# What cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0, expected more than 0"),
        ({"weight": 1.5}, r"weight is 1.5, expected the soft part's share of the loss, in \[0, 1\]"),
        ({"label_smoothing": 2.0}, "label_smoothing is 2.0"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    logits, teacher, targets = random_case()
    with pytest.raises(ValueError, match=message):
        distillation_loss(logits, targets, asking(teacher), **{"pad_id": PAD, "temperature": 2.0, "weight": 0.5, **options})


def test_a_teacher_of_another_vocabulary_is_named():
    logits, teacher, targets = random_case()
    with pytest.raises(ValueError, match=r"answered with \(3, 5, 6\) to rows whose logits are \(3, 5, 7\)"):
        distillation_loss(logits, targets, asking(teacher[..., 1:]), pad_id=PAD, temperature=2.0, weight=0.5)
