"""A MusicModule that learns from a stored version: what it minimises, what it logs and keeps, and what is no part of it."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.callbacks import EMAWeightAveraging as LightningEMA
from torch import Tensor

from musictrain.callbacks import EMAWeightAveraging
from musictrain.models import Decoder
from musictrain.optim import Constant, WarmupCosine
from tests.distillation.teachers import SMALL, soft_loss, store_teacher, student, teacher_of
from tests.tiny_runs import PAD, ForeignNetwork, Resumable, fit, logged, new_module, random_batches, same_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
SGD = {"optimizer": lambda params: torch.optim.SGD(params, lr=0.5)}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No word from Lightning, no seed left by another test."""
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return store_teacher(tmp_path / "teacher.ckpt")


def still() -> Decoder:
    torch.manual_seed(1)
    return Decoder(**SMALL, dropout=0.0)


def both(network: torch.nn.Module, teacher: Path, batch: dict[str, Tensor], temperature: float = 2.0) -> tuple[Tensor, Tensor]:
    """Hard and soft loss of a batch by the textbook."""
    read, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    logits = network(read)
    hard = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)
    with torch.no_grad():
        told = teacher_of(teacher)(read)
    return hard, soft_loss(logits, told, targets != PAD, temperature)


# What is minimised


@pytest.mark.parametrize("options", [{}, {"micro_batches": 2}, {"accumulate_grad_batches": 2}])
def test_a_step_is_that_of_the_textbook(tmp_path, teacher, options):
    batches = random_batches(2, rows=4)
    network, expected = still(), still()
    gathers = options.get("accumulate_grad_batches", 1)
    module = student(teacher, network, temperature=2.0, weight=0.7, options={**SGD, "micro_batches": options.get("micro_batches", 1)})
    fit(tmp_path / "run", module, batches, max_steps=1, accumulate_grad_batches=gathers)
    used = batches[:gathers]
    counts = [int((batch["tokens"][:, 1:] != PAD).sum()) for batch in used]
    losses = [0.3 * hard + 0.7 * 4 * soft for hard, soft in (both(expected, teacher, batch) for batch in used)]
    (sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)).backward()
    with torch.no_grad():
        for each in expected.parameters():
            each -= 0.5 * each.grad
    for one, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_hard_and_soft_loss_and_the_weight_are_logged(tmp_path, teacher):
    batches, network = random_batches(2), still()
    module = student(teacher, network, weight=0.5, weight_schedule=WarmupCosine(warmup_steps=0, final_fraction=0.0))
    module.optimizer_factory.make = lambda params: torch.optim.SGD(params, lr=0.0)
    fit(tmp_path, module, batches, max_steps=2, log_every_n_steps=2)
    hard, soft = zip(*(both(still(), teacher, batch) for batch in batches), strict=True)
    counts = [int((batch["tokens"][:, 1:] != PAD).sum()) for batch in batches]

    def mean(values: Any) -> Any:
        total = sum(float(value.detach()) * count for value, count in zip(values, counts, strict=True)) / sum(counts)
        return pytest.approx(total, rel=1e-4)

    assert logged(tmp_path, "train/loss") == {1: mean(hard)}
    assert logged(tmp_path, "train/soft_loss") == {1: mean(soft)}
    assert logged(tmp_path, "train/soft_weight") == {1: pytest.approx(0.25)}


def test_with_weight_0_it_is_the_training_without(tmp_path, teacher):
    batches = random_batches()
    torch.manual_seed(1)
    plain = new_module(Decoder(**SMALL, dropout=0.2), label_smoothing=0.1)
    distilled = student(teacher, weight=0.0, options={"label_smoothing": 0.1})
    fit(tmp_path / "plain", plain, batches, max_epochs=2)
    fit(tmp_path / "distilled", distilled, batches, max_epochs=2)
    assert same_weights(plain, distilled)
    assert logged(tmp_path / "distilled", "train/soft_loss") == {}


def test_the_teacher_reads_the_music_as_it_is_while_tokens_are_hidden_from_the_student(tmp_path, teacher):
    batch = random_batches(1, rows=3)[0]
    batch["hidden"] = torch.rand(3, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    module = student(teacher, still(), weight=1.0, options=SGD)
    fit(tmp_path, module, [batch], max_steps=1)
    read = batch["tokens"][:, :-1]
    logits, told = still()(read.masked_fill(batch["hidden"], PAD)), teacher_of(teacher)(read)
    expected = float(soft_loss(logits, told, batch["tokens"][:, 1:] != PAD, 2.0).detach())
    assert logged(tmp_path, "train/soft_loss")[0] == pytest.approx(expected, rel=1e-4)


# What is no part of the student


def test_the_teacher_is_neither_saved_nor_trained_nor_counted_and_learns_nothing(tmp_path, teacher):
    module = student(teacher)
    trainer = fit(tmp_path / "run", module, max_epochs=1, callbacks=[EMAWeightAveraging(decay=0.5)])
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert set(saved["state_dict"]) == {f"network.{name}" for name in Decoder(**SMALL).state_dict()}
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in Decoder(**SMALL).parameters())
    assert same_weights(module.distilling.teacher.network, teacher_of(teacher))
    assert not any(p.requires_grad or p.grad is not None for p in module.distilling.teacher.network.parameters())
    assert not module.distilling.teacher.network.training
    assert copy.deepcopy(module).distilling.teacher is module.distilling.teacher


def test_building_a_teacher_takes_no_chance_from_anybody(tmp_path, teacher):
    states = []

    class Look(Callback):
        def on_fit_start(self, *args: Any) -> None:
            states.append(torch.get_rng_state())

    for module in (student(teacher), new_module(Decoder(**SMALL))):
        torch.manual_seed(5)
        fit(tmp_path / str(len(states)), module, max_steps=1, callbacks=[Look()])
    assert torch.equal(*states)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_the_teacher_computes_in_its_own_precision_whatever_the_students_is(tmp_path, teacher, precision):
    seen = []

    def look(module: Any, inputs: Any, output: Tensor) -> None:
        seen.append((output.dtype, torch.is_autocast_enabled("cpu"), torch.get_default_dtype()))

    batches = random_batches(1)
    module = student(teacher, still(), precision=precision)
    module.distilling.setup = _hooked(module.distilling.setup, module, look)
    fit(tmp_path, module, batches, max_steps=1)
    number = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    weights = torch.float32 if precision.endswith("mixed") else number
    assert seen == [(number, precision.endswith("mixed"), weights)]
    assert torch.get_default_dtype() == torch.float32
    assert {p.dtype for p in module.distilling.teacher.network.parameters()} == {weights}
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def _hooked(setup: Any, module: Any, look: Any) -> Any:
    def with_hook(*args: Any) -> None:
        setup(*args)
        module.distilling.teacher.network.register_forward_hook(look)

    return with_hook


# Over time


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, teacher, options):
    settings = {"weight_schedule": WarmupCosine(warmup_steps=1, final_fraction=0.0), "hidden": {"blocks.0": "blocks.1"}}
    whole, half, resumed = (student(teacher, **settings) for _ in range(3))
    batches = random_batches(8)
    fit(tmp_path / "whole", whole, batches, max_steps=6, log_every_n_steps=2, **options)
    keep = ModelCheckpoint(dirpath=tmp_path, filename="three", every_n_train_steps=3)
    stopped = {"max_steps": 6, "callbacks": [keep, Stop(3)], "enable_checkpointing": True}
    with pytest.raises(RuntimeError, match="enough"):
        fit(tmp_path / "half", half, batches, log_every_n_steps=2, **stopped, **options)
    fit(tmp_path / "resumed", resumed, batches, max_steps=6, log_every_n_steps=2, ckpt_path=tmp_path / "three.ckpt", **options)
    assert same_weights(whole, resumed)
    for key in ("train/soft_loss", "train/hidden_loss", "train/soft_weight"):
        whole_rows, later = logged(tmp_path / "whole", key), logged(tmp_path / "resumed", key)
        assert later == {step: value for step, value in whole_rows.items() if step in later}
        assert later


class Stop(Callback):
    """Ends a fit in the batch after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("enough")


def test_a_teacher_with_other_weights_than_then_is_refused_unless_it_is_named_anew(tmp_path, teacher, caplog):
    keep = ModelCheckpoint(dirpath=tmp_path, filename="two", every_n_train_steps=2)
    fit(tmp_path / "first", student(teacher), max_steps=2, callbacks=[keep], enable_checkpointing=True)
    store_teacher(teacher, seed=4)
    with pytest.raises(ValueError, match="whose weights have changed since"):
        fit(tmp_path / "again", student(teacher), max_steps=4, ckpt_path=tmp_path / "two.ckpt")
    other = store_teacher(tmp_path / "other.ckpt", seed=4)
    module = student(other)
    fit(tmp_path / "other", module, max_steps=4, ckpt_path=tmp_path / "two.ckpt")
    assert f"Resumed with the teacher {other} (was {teacher}, teacher.ckpt)" in caplog.text
    teacher.unlink()
    with pytest.raises(ValueError, match=r"There is no teacher\. No run '.*teacher\.ckpt'"):
        fit(tmp_path / "gone", student(teacher), max_steps=4, ckpt_path=tmp_path / "two.ckpt")


def test_a_fit_in_a_plain_trainer_has_no_run_to_write_its_descent_into(tmp_path, teacher):
    fit(tmp_path / "run", student(teacher), max_steps=1)
    assert not list(tmp_path.rglob("lineage.json"))


# Hidden states


def test_hidden_states_are_matched_by_a_projection_that_is_trained(tmp_path, teacher):
    module = student(teacher, still(), weight=0.0, hidden={"blocks.0": "blocks.1"}, hidden_weight=2.0, options=SGD)
    batch = random_batches(1)[0]
    fit(tmp_path, module, [batch], max_steps=1)
    seen: dict[str, Tensor] = {}
    read, counted = batch["tokens"][:, :-1], batch["tokens"][:, 1:] != PAD
    for name, network, layer in (("student", still(), "blocks.0"), ("teacher", teacher_of(teacher), "blocks.1")):
        network.get_submodule(layer).register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
        network(read)
    (first,) = student_projections(teacher)
    first.requires_grad_()
    told = seen["teacher"].detach()
    distance = ((seen["student"].detach() @ first.T - told).pow(2).sum(-1) / told.pow(2).sum(-1))[counted].mean()
    assert logged(tmp_path, "train/hidden_loss")[0] == pytest.approx(float(distance.detach()), rel=1e-5)
    (2.0 * distance).backward()
    torch.testing.assert_close(module.hidden_matching.projections[0].weight.detach(), first.detach() - 0.5 * first.grad)


def student_projections(teacher: Path) -> list[Tensor]:
    """What a new student begins with."""
    module = student(teacher, still(), hidden={"blocks.0": "blocks.1"})
    module.hidden_matching.make([(4, 8)], seed=0)
    return [each.weight.detach().clone() for each in module.hidden_matching.projections]


def test_projections_are_averaged_with_the_weights(tmp_path, teacher):
    module = student(teacher, hidden={"blocks.0": "blocks.1"}, options=SGD)
    trainer = fit(tmp_path, module, valid=random_batches(1), max_steps=3, callbacks=[LightningEMA(decay=0.5), SaveInTheEnd()])
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    name = "hidden_matching.projections.0.weight"
    assert list(saved["state_dict"]) == list(saved["current_model_state"]) == list(module.state_dict())
    assert not torch.equal(saved["state_dict"][name], saved["current_model_state"][name])
    assert trainer.global_step == 3


class SaveInTheEnd(Callback):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "end.ckpt")


def test_a_checkpoint_with_projections_is_measured_without_a_teacher(tmp_path, teacher):
    module = student(teacher, hidden={"blocks.0": "blocks.1"})
    trainer = fit(tmp_path / "run", module, max_steps=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    teacher.unlink()
    measures = (student(teacher, hidden={"blocks.0": "blocks.1"}), new_module(Decoder(**SMALL)))
    values = [trainer.validate(each, Resumable(random_batches(2)), ckpt_path=tmp_path / "end.ckpt", verbose=False) for each in measures]
    assert values[0] == values[1]


def test_layers_that_recompute_their_activations_are_matched_alike(tmp_path, teacher):
    options = [{"activation_checkpointing": on} for on in (False, True)]
    modules = [student(teacher, still(), hidden={"blocks.0": "blocks.1"}, options={**SGD, **each}) for each in options]
    for number, module in enumerate(modules):
        fit(tmp_path / str(number), module, max_steps=2)
    for one, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


# What cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0, expected more than 0"),
        ({"weight": -0.1}, "weight is -0.1"),
        ({"hidden_weight": 0.0}, "hidden_weight is 0.0, expected more than 0"),
        ({"top_k": 0}, "top_k is 0, expected at least 1 token"),
        ({"precision": "bf16"}, "cannot compute in precision='bf16'. Did you mean"),
        ({"top_k": 3, "hidden": {"a": "b"}}, "leave out either `top_k` or `hidden`"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings, message):
    with pytest.raises(ValueError, match=message):
        student("anything", **settings)


def test_no_teacher_at_all_is_refused():
    with pytest.raises(ValueError, match="got no teacher"):
        student(" ")


def test_a_compiled_network_has_no_hidden_states_to_match():
    with pytest.raises(ValueError, match="leave out `compile` or `hidden`"):
        student("anything", hidden={"a": "b"}, options={"compile": True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": {"blocks.7": "blocks.1"}}, "Decoder has no layer 'blocks.7' to match hidden states of"),
        ({"hidden": {"blocks.0": "blocks.5"}}, "Decoder has no layer 'blocks.5' to match hidden states of"),
        ({"hidden": {"rotary": "blocks.0"}}, "expected (1, 8, channels): states are matched token by token"),
        ({"weight_schedule": WarmupCosine()}, "WarmupCosine needs the number of optimizer steps"),
        ({"top_k": 3}, "top_k keeps opinions by the pieces and places of a token store"),
    ],
)
def test_what_a_run_cannot_do_is_said_before_its_first_step(tmp_path, teacher, settings, message):
    import re

    module = student(teacher, options={"schedule": Constant()}, **settings)
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(tmp_path, module, max_epochs=-1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"vocab_size": 12}, "predicts over 12 tokens, and the student over 11"), ({"vocab_size": None}, "The network in .* cannot be built")],
)
def test_a_teacher_of_another_vocabulary_is_refused(tmp_path, sizes, message):
    path = store_teacher(tmp_path / "other.ckpt", vocab_size=12)
    if sizes["vocab_size"] is None:
        stored = torch.load(path, weights_only=True)
        stored["hyper_parameters"]["network"]["class_path"] = "musictrain.Decodr"
        torch.save(stored, path)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "run", student(path), max_steps=1)


def test_networks_of_any_kind_teach_and_learn(tmp_path, teacher):
    module = student(teacher, ForeignNetwork(), hidden={"recurrent": "blocks.1"})
    fit(tmp_path, module, max_steps=2)
    assert module.hidden_matching.projections[0].weight.shape == (8, 6)
