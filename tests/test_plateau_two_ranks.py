"""A plateau on two ranks: both reduce at the same validation, though the watched value differs and only one of them logs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from musictrain.optim import Constant, Plateau
from tests.tiny_runs import Resumable, new_module, new_trainer, random_batches


class ScoreOfTheFirst(Callback):
    """A score that the first rank alone logs, as samples are scored there alone."""

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        score = [0.1, 0.2, 0.2, 0.2][module.global_step // 2 - 1]
        if trainer.is_global_zero:
            module.log("val/score", score, rank_zero_only=True)


class Rates(Callback):
    """What the learning rate was at each step, on each rank, and whether the weights are the same at the end."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_end(self, trainer: Any, module: Any) -> None:
        total = float(sum(parameter.detach().double().sum() for parameter in module.parameters()))
        told = json.dumps({"rates": self.rates, "weights": total})
        (Path(trainer.default_root_dir) / f"rank{trainer.global_rank}.json").write_text(told, encoding="utf-8")


def run(folder: Path) -> None:
    rule = Plateau(monitor="val/score", mode="max", patience=0, factor=0.5)
    module = new_module(optimizer=lambda params: torch.optim.SGD(params, lr=1.0), schedule=Constant(), plateau=rule)
    ranks = {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False, "logger": False}
    trainer = new_trainer(folder, callbacks=[ScoreOfTheFirst(), Rates()], max_epochs=1, val_check_interval=2, **ranks)
    train = Resumable(random_batches(8))
    train.trainer = trainer
    trainer.fit(module, train, Resumable(random_batches(2, seed=9)))


@pytest.mark.slow
def test_both_ranks_reduce_after_the_same_validation(tmp_path: Path, repository: Path) -> None:
    words = [sys.executable, "-m", "tests.test_plateau_two_ranks", str(tmp_path)]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    assert first == second
    assert first["rates"] == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5]


if __name__ == "__main__":
    run(Path(sys.argv[1]))
