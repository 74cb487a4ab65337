"""Batches that do not fit into memory are worked on in parts, for the same gradient."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from musictrain.losses import next_token_loss
from musictrain.micro_batches import MicroBatches, in_parts, is_out_of_memory
from musictrain.runs.alerts import alert_of
from tests.tiny_runs import PAD, ForeignNetwork, fit, new_module, random_batches, same_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No word from Lightning, no seed left by another test."""
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


class FullOnTheWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits: Tensor, room: int) -> Tensor:
        ctx.room = room
        return logits.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if len(gradient) > ctx.room:
            raise torch.OutOfMemoryError(FULL)
        return gradient, None


class Small(ForeignNetwork):
    """Has room for the activations of so many rows, on the way ``there`` or ``back``."""

    def __init__(self, room: int, where: str = "there", dropout: float = 0.5) -> None:
        super().__init__(dropout=dropout)
        self.room, self.where = room, where
        self.asked: list[int] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.asked.append(len(tokens))
        if self.where == "there" and self.training and len(tokens) > self.room:
            raise torch.OutOfMemoryError(FULL)
        # In front of the embedding's end and behind the head's: part of the gradient is gathered when memory runs out.
        logits = super().forward(tokens)
        return FullOnTheWayBack.apply(logits, self.room) if self.where == "back" and self.training else logits


class Reader(Callback):
    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_batch_end(self, trainer, module, *_) -> None:
        self.weights.append(module.network.head.weight.detach().clone())


def loss_of(network: nn.Module):
    return lambda tokens, targets: next_token_loss(network(tokens), targets, pad_id=PAD, label_smoothing=0.1, z_loss=1e-3)


def gradients(network: nn.Module, tokens: Tensor, parts: int) -> tuple[list[Tensor], list[float]]:
    network.zero_grad()
    result = in_parts(loss_of(network), parts, tokens[:, :-1], tokens[:, 1:])
    result.loss.backward()
    return [each.grad.clone() for each in network.parameters()], [float(each.detach()) for each in result]


# The law: the same gradient


@given(rows=st.integers(1, 7), parts=st.integers(1, 9), seed=st.integers(0, 5))
def test_the_gradient_in_parts_is_that_of_the_whole(rows, parts, seed):
    tokens = random_batches(1, rows=rows, time=6, seed=seed)[0]["tokens"]
    network = ForeignNetwork(dropout=0.0)
    whole, told = gradients(network, tokens, 1)
    divided, told_in_parts = gradients(network, tokens, parts)
    assert told_in_parts == pytest.approx(told, rel=1e-5)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, divided, strict=True))


def test_rows_of_nothing_but_padding_weigh_nothing():
    tokens = torch.full((4, 7), PAD)
    tokens[0] = torch.arange(1, 8)
    whole, divided = (gradients(ForeignNetwork(dropout=0.0), tokens, parts)[0] for parts in (1, 4))
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(whole, divided, strict=True))
    empty, told = gradients(ForeignNetwork(dropout=0.0), torch.full((4, 7), PAD), 2)
    assert told == [0.0, 0.0, 0.0]
    assert not any(each.any() for each in empty)


def test_what_is_kept_for_the_way_back_shrinks_with_the_parts():
    def kept(parts: int) -> int:
        held: list[int] = []
        tokens = random_batches(1, rows=8, time=64)[0]["tokens"]
        with saved_tensors_hooks(lambda tensor: held.append(tensor.numel()) or tensor, lambda tensor: tensor):
            in_parts(loss_of(ForeignNetwork()), parts, tokens[:, :-1], tokens[:, 1:])
        return sum(held)

    assert kept(4) < kept(1) / 4


# A run that runs out of memory


@pytest.mark.parametrize("where", ["there", "back"])
def test_a_batch_that_does_not_fit_is_split_and_the_run_goes_on(tmp_path, caplog, where):
    batches = random_batches(4, rows=5)
    whole, small = new_module(ForeignNetwork(dropout=0.0)), new_module(Small(2, where, dropout=0.0))
    with caplog.at_level(logging.INFO, logger="musictrain"):
        fit(tmp_path / "whole", whole, batches, max_epochs=2)
        fit(tmp_path / "small", small, batches, max_epochs=2)
    for one, other in zip(whole.parameters(), small.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)
    alerts = [told for record in caplog.records if (told := alert_of(record))]
    assert [each["parts"] for each in alerts] == [2, 4]
    assert all(each["kind"] == "memory_full" and each["step"] == 1 for each in alerts)
    assert alerts[0]["message"].startswith("A training batch of 5 rows does not fit into memory at step 1 (CUDA out of memory.")
    assert "--model.init_args.micro_batches 4" in alerts[1]["advice"]


@pytest.mark.parametrize("where", ["there", "back"])
@pytest.mark.parametrize("options", [{}, {"token_dropout": 0.3}], ids=["dropout", "token dropout"])
def test_a_split_run_draws_what_one_in_parts_from_the_start_draws(tmp_path, where, options):
    batches = random_batches(4, rows=4)
    begun, split = new_module(Small(2), micro_batches=2, **options), new_module(Small(2, where), **options)
    fit(tmp_path / "begun", begun, batches, max_epochs=2)
    fit(tmp_path / "split", split, batches, max_epochs=2)
    assert same_weights(begun, split)


def test_a_resumed_run_remembers_the_parts(tmp_path):
    batches = random_batches(4, rows=4)
    whole, stopped, resumed = (new_module(Small(2)) for _ in range(3))
    fit(tmp_path / "whole", whole, batches, max_epochs=3)
    keep = ModelCheckpoint(dirpath=tmp_path, filename="five", every_n_train_steps=5)
    fit(tmp_path / "stopped", stopped, batches, max_steps=5, callbacks=[keep], enable_checkpointing=True)
    fit(tmp_path / "resumed", resumed, batches, max_epochs=3, ckpt_path=tmp_path / "five.ckpt")
    assert same_weights(whole, resumed)
    assert 4 not in resumed.network.asked, "tried whole again"


def test_a_window_of_several_batches_is_split_too(tmp_path):
    batches = random_batches(6, rows=4)
    whole, small = new_module(ForeignNetwork(dropout=0.0)), new_module(Small(2, dropout=0.0))
    for name, module in (("whole", whole), ("small", small)):
        fit(tmp_path / name, module, batches, max_epochs=2, accumulate_grad_batches=3)
    for one, other in zip(whole.parameters(), small.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_on_the_way_back_a_begun_window_cannot_be_begun_again(tmp_path, caplog):
    first, *others = random_batches(3, rows=4)
    first = {name: value[:2] for name, value in first.items()}
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        fit(tmp_path, new_module(Small(2, "back")), [first, *others], max_epochs=1, accumulate_grad_batches=3)
    alerts = [told for record in caplog.records if (told := alert_of(record))]
    assert "micro_batches 2" in alerts[0]["advice"]


def test_validation_is_split_for_itself(tmp_path, caplog):
    class SmallWhenMeasuring(ForeignNetwork):
        def forward(self, tokens: Tensor) -> Tensor:
            if not self.training and len(tokens) > 1:
                raise torch.OutOfMemoryError(FULL)
            return super().forward(tokens)

    batches = random_batches(2, rows=4)
    small, whole = new_module(SmallWhenMeasuring()), new_module()
    losses = [
        fit(tmp_path / str(n), each, batches, batches, max_epochs=1).callback_metrics["val/loss"] for n, each in enumerate((small, whole))
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)
    assert "valid_batch_size" in caplog.text
    assert small._micro_batches.parts == 1


def test_a_single_row_that_does_not_fit_ends_the_run_with_advice(tmp_path, caplog):
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        fit(tmp_path, new_module(Small(0)), random_batches(1, rows=3), max_epochs=1)
    assert "Not even one row fits: take a shorter window or a smaller network." in caplog.text


def test_any_other_error_is_left_alone(tmp_path):
    class Broken(ForeignNetwork):
        def forward(self, tokens: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fit(tmp_path, new_module(Broken()), max_epochs=1)


def test_less_than_one_part_is_refused():
    with pytest.raises(ValueError, match="micro_batches is 0"):
        MicroBatches(0)


HUNGRY = """
import resource, sys
import torch
from torch import nn
from tests.tiny_runs import PAD, ForeignNetwork, fit, new_module, random_batches

class Hungry(ForeignNetwork):
    "Keeps 48 MB of activations for each row."
    def forward(self, tokens):
        hidden = super().forward(tokens)
        wide = hidden.mean((1, 2)).reshape(-1, 1).expand(-1, 4 * 1024 * 1024)
        for _ in range(3):
            wide = torch.exp(wide * 1e-9)
        return hidden + wide.mean(1)[:, None, None]

torch.set_num_threads(1)
batches = random_batches(2, rows=8)
fit("{folder}/warm", new_module(), batches, max_epochs=1)
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + 420 * 2**20,) * 2)
module = new_module(Hungry(dropout=0.0))
fit("{folder}/hungry", module, batches, max_epochs=1)
print("parts", module._micro_batches.parts)
"""


TWO_RANKS = """
import sys
from pathlib import Path
import torch
from tests.test_micro_batches import Small
from tests.test_module_two_ranks import EverySecond, SaveAtTheEnd
from tests.tiny_runs import new_module, new_trainer, random_batches

class SmallOnTheSecond(Small):
    "The second rank has no room for three rows."
    def forward(self, tokens):
        self.room = 2 if torch.distributed.is_initialized() and torch.distributed.get_rank() == 1 else 99
        return super().forward(tokens)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, room in (("split", SmallOnTheSecond(2, dropout=0.0)), ("whole", Small(99, dropout=0.0))):
        options = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False, "max_steps": 4, "callbacks": [SaveAtTheEnd()]}
        trainer = new_trainer(folder / name, **options)
        train = EverySecond(random_batches(8, rows=4))
        train.trainer = trainer
        trainer.fit(new_module(room), train)
"""


@pytest.mark.slow
def test_one_rank_that_runs_out_of_memory_trains_what_two_would_and_the_other_learns_of_it(tmp_path, repository):
    command = [sys.executable, "-c", TWO_RANKS, str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    split, whole = (torch.load(tmp_path / name / "end.ckpt", weights_only=True) for name in ("split", "whole"))
    # The first rank saved it, and had room enough.
    assert (split["musictrain_micro_batches"], whole["musictrain_micro_batches"]) == ({"parts": 2}, {"parts": 1})
    for name, weights in whole["state_dict"].items():
        assert torch.allclose(weights, split["state_dict"][name], atol=1e-4), name
    assert done.stderr.count("does not fit into memory") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")
def test_a_machine_that_really_has_no_more_memory_to_give(tmp_path):
    script = HUNGRY.replace("{folder}", str(tmp_path))
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False)
    assert told.returncode == 0, told.stderr
    assert int(told.stdout.split()[-1]) in (2, 4, 8)
    assert "does not fit into memory" in told.stderr


def test_the_hosts_own_error_is_known():
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(torch.OutOfMemoryError(FULL))
    assert not is_out_of_memory(RuntimeError("Expected all tensors to be on the same device"))
