"""MusicModule on two ranks: the numbers logged are those of the whole data, and a resumed run is exact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from musictrain.callbacks import AccumulationSchedule
from musictrain.losses import NextTokenLoss, next_token_loss
from tests.tiny_runs import PAD, ForeignNetwork, Resumable, logged, new_module, new_trainer, random_batches


class EverySecond(Resumable):
    """This rank's share of the batches."""

    @property
    def batches(self) -> list[Any]:
        return self.all[torch.distributed.get_rank() :: 2]

    @batches.setter
    def batches(self, batches: list[Any]) -> None:
        self.all = batches


class SaveAtTheEnd(Callback):
    """Keeps the checkpoint of the ranks; the process that forked them knows only the weights."""

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "end.ckpt")


def unlike_batches() -> list[dict[str, torch.Tensor]]:
    """Batches of other rows and lengths, one after the other, for one rank and the other."""
    return [batch for pair in zip(random_batches(4, 2, 8), random_batches(4, 5, 13, seed=3), strict=True) for batch in pair]


def run(folder: Path, name: str, *, dropout: float, learning_rate: float, ckpt_path: Path | None = None, **options: Any) -> None:
    module = new_module(ForeignNetwork(dropout=dropout), optimizer=lambda params: torch.optim.SGD(params, lr=learning_rate))
    callbacks = [SaveAtTheEnd(), *([AccumulationSchedule(global_batch_tokens=2 * (2 * 8 + 5 * 13))] if name == "measured" else [])]
    ranks = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False}
    trainer = new_trainer(folder / name, callbacks=callbacks, **ranks, **options)
    train = EverySecond(unlike_batches() if name in ("unlike", "measured") else random_batches(8))
    train.trainer = trainer
    trainer.fit(module, train, EverySecond(random_batches(6, seed=9)), ckpt_path=ckpt_path)


def run_all(folder: Path) -> None:
    run(folder, "still", dropout=0.0, learning_rate=0.0, max_epochs=1, log_every_n_steps=2)
    run(folder, "unlike", dropout=0.0, learning_rate=0.5, max_epochs=1, accumulate_grad_batches=2)
    run(folder, "measured", dropout=0.0, learning_rate=0.5, max_epochs=1)
    run(folder, "whole", dropout=0.5, learning_rate=0.1, max_steps=4)
    run(folder, "half", dropout=0.5, learning_rate=0.1, max_steps=2)
    run(folder, "resumed", dropout=0.5, learning_rate=0.1, max_steps=4, ckpt_path=folder / "half" / "end.ckpt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """The folder of all runs, made in one process: torch forks ranks only where nothing was trained yet."""
    folder = tmp_path_factory.mktemp("runs")
    script = "import sys; from pathlib import Path; from tests.test_module_two_ranks import run_all; run_all(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=repository, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def results_of(batches: list[dict[str, torch.Tensor]]) -> list[NextTokenLoss]:
    network = new_module(ForeignNetwork(dropout=0.0)).network
    return [next_token_loss(network(b["tokens"][:, :-1]), b["tokens"][:, 1:], pad_id=PAD) for b in batches]


def nats_per_token(results: list[NextTokenLoss]) -> float:
    return float(sum(r.nll_sum for r in results) / sum(r.num_tokens for r in results))


def test_training_logs_the_mean_over_the_tokens_of_both_ranks(runs):
    results = results_of(random_batches(8))
    expected = {1: nats_per_token(results[:4]), 3: nats_per_token(results[4:])}
    assert logged(runs / "still", "train/loss") == pytest.approx(expected)
    assert logged(runs / "still", "train/tokens")[3] == sum(int(r.num_tokens) for r in results)


def test_validation_is_that_of_one_process(runs):
    results = results_of(random_batches(6, seed=9))
    nats = sum(float(r.nll_sum) for r in results)
    assert logged(runs / "still", "val/loss") == pytest.approx({3: nats_per_token(results)})
    assert logged(runs / "still", "val/nats_per_note") == pytest.approx({3: nats / (6 * 2 * 2)})


def test_a_step_minimises_the_mean_over_all_tokens_of_unlike_batches_on_both_ranks(runs):
    network = new_module(ForeignNetwork(dropout=0.0)).network
    for first in (0, 4):
        batches = unlike_batches()[first : first + 4]
        results = [next_token_loss(network(b["tokens"][:, :-1]), b["tokens"][:, 1:], pad_id=PAD) for b in batches]
        assert len({int(result.num_tokens) for result in results}) > 2
        network.zero_grad()
        (sum(r.loss * r.num_tokens for r in results) / sum(r.num_tokens for r in results)).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= 0.5 * parameter.grad
    trained = torch.load(runs / "unlike" / "end.ckpt", weights_only=True)["state_dict"]
    assert all(torch.allclose(tensor, trained[f"network.{name}"], rtol=0, atol=1e-6) for name, tensor in network.state_dict().items())


def test_tokens_of_a_step_are_measured_over_both_ranks(runs):
    measured, given = (torch.load(runs / name / "end.ckpt", weights_only=True) for name in ("measured", "unlike"))
    assert measured["global_step"] == given["global_step"] == 2
    assert all(torch.equal(tensor, given["state_dict"][name]) for name, tensor in measured["state_dict"].items())


def test_a_run_resumed_on_two_ranks_ends_in_the_same_bits(runs):
    whole, resumed, half = (torch.load(runs / name / "end.ckpt", weights_only=True) for name in ("whole", "resumed", "half"))
    assert all(torch.equal(tensor, resumed["state_dict"][name]) for name, tensor in whole["state_dict"].items())
    assert not all(torch.equal(tensor, half["state_dict"][name]) for name, tensor in whole["state_dict"].items())
    assert logged(runs / "resumed", "train/loss") == {step: loss for step, loss in logged(runs / "whole", "train/loss").items() if step > 1}
