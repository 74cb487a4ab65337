"""AnomalyAlerts on several ranks: what one of them has is found by all, told once with its rank, and answered alike; also in shares."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader

from musictrain.health import GradientSpike, NonFinite, SlowRank
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant
from musictrain.strategies import ShardedStrategy
from tests.callbacks.sick_runs import QUIET, AtStep, PlainModule, Quiet, heard, number_batches
from tests.strategies.ranks import run_ranks
from tests.strategies.trainings import decoder

STEPS = 24
VOCAB = 40


class Data(lightning.LightningDataModule):
    """Each rank its share of the rows; some of one rank's batches are spoiled."""

    def __init__(self, batches: list[Any], spoil: Any = None) -> None:
        super().__init__()
        self.batches, self.spoil = batches, spoil

    def train_dataloader(self) -> DataLoader:
        deal = self.trainer.distributed_sampler_kwargs or {}  # type: ignore[union-attr]
        rank, ranks = deal.get("rank", 0), deal.get("num_replicas", 1)
        mine = [self._rows(batch, rank, ranks) for batch in self.batches]
        if self.spoil is not None:
            self.spoil(mine, rank)
        return DataLoader(mine, batch_size=None)

    def _rows(self, batch: Any, rank: int, ranks: int) -> Any:
        if isinstance(batch, dict):
            return {name: value[rank::ranks].clone() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        return batch[rank::ranks].clone()


class Norms(Callback):
    """The gradient norms that the alerts have seen."""

    def __init__(self, watch: Quiet) -> None:
        self.watch, self.seen = watch, []

    def on_train_batch_end(self, *_: Any) -> None:
        if self.watch._latest is not None:
            self.seen.append(self.watch._latest.values.get("gradient_norm", -1.0))


def nan_on_rank_1(batches: list[Any], rank: int) -> None:
    if rank == 1:
        batches[4][0, 0] = math.nan


def spike_on_rank_0(batches: list[Any], rank: int) -> None:
    if rank == 0:
        batches[19][:, 8] += 1e4


def sleepy(trainer: Any, pl_module: Any) -> None:
    time.sleep(0.03 if trainer.global_rank == 1 else 0.002)


def poison_a_share(trainer: Any, pl_module: Any) -> None:
    gradient = pl_module.network.blocks[1].feed_forward.up.weight.grad
    if trainer.global_rank == trainer.world_size - 1:
        getattr(gradient, "to_local", lambda: gradient)().view(-1)[-1] = math.nan


def tokens(count: int) -> list[dict[str, Any]]:
    drawn = torch.randint(1, VOCAB, (count, 4, 17), generator=torch.Generator().manual_seed(3))
    piece = torch.arange(4)
    return [{"tokens": rows, "number": number, "piece": piece, "start": piece} for number, rows in enumerate(drawn)]


def train(out: Path, strategy: Any, devices: int, case: str, **options: Any) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    spike = GradientSpike(action="skip", least=6, window=8, level=4)
    harms: list[Any] = []
    spoil = {"nan": nan_on_rank_1, "spike": spike_on_rank_0}.get(case)
    if case == "slow":
        watch, harms = Quiet(slow_rank=SlowRank(patience=2), every_n_steps=2), [AtStep(range(99), sleepy)]
    elif case == "shares":
        watch = Quiet(non_finite=NonFinite(), updates={}, layers={}, entropy={}, every_n_steps=4)
        harms = [AtStep([7], poison_a_share, "on_before_optimizer_step")]
    else:
        watch = Quiet(non_finite=NonFinite(), gradient_spike=spike, data={}, loss_spike={}, every_n_steps=4)
    own = case == "shares"
    module: Any = MusicModule(decoder(), functools.partial(AdamW, lr=1e-2), Constant()) if own else PlainModule()
    norms = Norms(watch)
    limits = {"devices": devices, "max_steps": STEPS, "max_epochs": -1, "use_distributed_sampler": False, **QUIET, **options}
    trainer = lightning.Trainer(strategy=strategy(), callbacks=[*harms, watch, norms], **limits)
    with heard() as alerts:
        trainer.fit(module, Data(tokens(STEPS) if own else number_batches(STEPS), spoil))
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))
    weights = {name: value.double().sum().item() for name, value in state.items()}
    told = {"alerts": alerts, "state": watch.state_dict(), "weights": weights, "norms": norms.seen}
    out.with_suffix(f".{trainer.global_rank}.json").write_text(json.dumps(told))


CASES: dict[str, tuple[Any, int, str, dict[str, Any]]] = {
    "nan": (DDPStrategy, 2, "nan", {}),
    "nan-accumulated": (DDPStrategy, 2, "nan", {"accumulate_grad_batches": 2, "max_steps": STEPS // 2}),
    "spike": (DDPStrategy, 2, "spike", {}),
    "slow": (DDPStrategy, 2, "slow", {}),
    "shares-one": (lambda: "auto", 1, "shares", {}),
    "shares-ddp": (DDPStrategy, 2, "shares", {}),
    "shares-fsdp": (ShardedStrategy, 2, "shares", {}),
    "shares-tp": (functools.partial(ShardedStrategy, tensor_parallel_size=2), 2, "shares", {}),
    "bf16": (DDPStrategy, 2, "nan", {"precision": "bf16-mixed"}),
}


def run_all(folder: Path) -> None:
    for name, (strategy, devices, case, options) in CASES.items():
        options = dict(options)
        run_ranks(devices, functools.partial(train, **options), folder / name, strategy, devices, case)


@pytest.fixture(scope="module")
def told(tmp_path_factory: Any, repository: Path) -> dict[str, list[dict[str, Any]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    words = [sys.executable, "-m", "tests.callbacks.test_anomaly_alerts_ranks", str(folder)]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}.?.json"))] for name in CASES}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_rank_decides_alike_and_one_speaks(name: str, told: dict[str, list[dict[str, Any]]]) -> None:
    ranks = told[name]
    assert len(ranks) == CASES[name][1]
    assert all(json.dumps(rank["state"]) == json.dumps(ranks[0]["state"]) for rank in ranks)
    assert all(rank["weights"] == ranks[0]["weights"] for rank in ranks)
    assert all(math.isfinite(value) for value in ranks[0]["weights"].values())
    assert ranks[0]["alerts"]
    assert not any(rank["alerts"] for rank in ranks[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nan", "bf16", "nan-accumulated"])
def test_the_rank_whose_batch_it_was_is_named(name: str, told: dict[str, list[dict[str, Any]]]) -> None:
    (alert,) = told[name][0]["alerts"]
    step = 3 if name == "nan-accumulated" else 5
    assert (alert["kind"], alert["step"], alert["rank"]) == ("non_finite", step, 1)
    assert "left out" in alert["did"]


@pytest.mark.slow
def test_a_spike_of_one_rank_is_left_out_on_all(told: dict[str, list[dict[str, Any]]]) -> None:
    kinds = {alert["kind"]: alert["step"] for alert in told["spike"][0]["alerts"]}
    assert kinds["gradient_spike"] == 20


@pytest.mark.slow
def test_a_slow_rank_is_named(told: dict[str, list[dict[str, Any]]]) -> None:
    (alert,) = told["slow"][0]["alerts"]
    assert alert["kind"] == "slow_rank"
    assert alert["where"] == "rank 1"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shares-one", "shares-ddp", "shares-fsdp", "shares-tp"])
def test_a_value_in_one_ranks_share_is_found_by_its_parameter(name: str, told: dict[str, list[dict[str, Any]]]) -> None:
    (alert,) = told[name][0]["alerts"]
    assert (alert["kind"], alert["step"]) == ("non_finite", 7)
    assert alert["parameter"] == "network.blocks.1.feed_forward.up.weight"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shares-fsdp", "shares-tp"])
def test_norms_of_parameters_in_shares_are_those_of_the_whole(name: str, told: dict[str, list[dict[str, Any]]]) -> None:
    assert told[name][0]["norms"] == pytest.approx(told["shares-one"][0]["norms"], rel=1e-3)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
