"""Every optimizer on two processes: both keep the same weights, a resume ends in the same bits, and shares move as whole weights do."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

import musictrain.optim
from musictrain.checkpoints.weights import read_tree
from tests.checkpoints.strategy_runs import RANKS, train, version_at
from tests.optim.stepped import same
from tests.strategies.ranks import run_ranks

pytest.importorskip("pytorch_optimizer")
pytestmark = pytest.mark.slow
IN_SHARES = ("Muon", "Lion", "ADOPT", "ScheduleFreeAdamW")
WHOLE = ("SOAP", "Adafactor", "Prodigy")
OF = {"single": (*IN_SHARES, "SAM"), "ddp": (*IN_SHARES, *WHOLE, "SAM"), "fsdp": IN_SHARES, "tp": ("Muon", "ScheduleFreeAdamW")}
VALIDATIONS = {"limit_val_batches": 1, "val_check_interval": 2}


def made(groups: Any, lr: float, name: str) -> Any:
    """One of musictrain.optim's; SAM has the learning rate of what it is put on."""
    if name == "SAM":
        return musictrain.optim.SAM(groups, base=functools.partial(musictrain.optim.AdamW, lr=lr))
    return getattr(musictrain.optim, name)(groups, lr=lr)


class SumUp(Callback):
    """Whether the sum of all weights is the same on every rank, to the bit."""

    def on_train_end(self, trainer, pl_module) -> None:
        total = torch.stack([each.detach().double().sum() for each in pl_module.parameters()]).sum()
        every = trainer.strategy.all_gather(total).flatten()
        assert bool((every == every[0]).all()), every


def every(folder: Path, kind: str) -> None:
    for name in OF[kind]:
        make = functools.partial(made, name=name)
        alike = [SumUp()] if kind == "ddp" else []
        train(folder / name / kind, kind, *alike, optimizer=make, **VALIDATIONS)
        train(folder / name / f"{kind} again", kind, optimizer=make, ckpt_path=version_at(folder / name / kind, 2), **VALIDATIONS)
        if kind == "fsdp":
            train(folder / name / "from one", kind, optimizer=make, ckpt_path=version_at(folder / name / "single", 2), **VALIDATIONS)


def all_kinds(folder: Path) -> None:
    for kind in OF:
        run_ranks(RANKS[kind], every, folder, kind)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """All runs, in ranks forked from one program."""
    folder = tmp_path_factory.mktemp("runs")
    script = (
        "import sys; from pathlib import Path; from tests.optim.test_optimizers_over_ranks import all_kinds; all_kinds(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], cwd=repository, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in OF.items() for name in names])
def test_a_run_resumed_ends_in_the_same_bits(kind: str, name: str, runs: Path) -> None:
    whole, again = (read_tree(version_at(runs / name / each, 4)) for each in (kind, f"{kind} again"))
    assert same(dict(whole["state_dict"]), dict(again["state_dict"]))
    assert same(whole["optimizer_states"][0]["state"], again["optimizer_states"][0]["state"])


@pytest.mark.parametrize("name", ["Lion", "ADOPT", "ScheduleFreeAdamW"])
def test_weights_in_shares_are_moved_as_whole_ones_and_taken_up_from_them(name: str, runs: Path) -> None:
    alone = read_tree(version_at(runs / name / "single", 4))["state_dict"]
    for kind in ("fsdp", "from one"):
        shared = read_tree(version_at(runs / name / kind, 4))["state_dict"]
        assert all(torch.allclose(value, shared[key], rtol=0, atol=1e-5) for key, value in alone.items()), kind


def test_muons_steps_in_shares_differ_by_the_rounding_of_bfloat16_alone(runs: Path) -> None:
    alone = read_tree(version_at(runs / "Muon" / "single", 4))
    for kind in ("fsdp", "tp"):
        shared = read_tree(version_at(runs / "Muon" / kind, 4))
        assert all(torch.allclose(value, shared["state_dict"][key], rtol=0, atol=5e-3) for key, value in alone["state_dict"].items()), kind
        # A save before the first step has made none.
        assert [group["step"] for group in shared["optimizer_states"][0]["param_groups"]] == [4, 4]


def test_two_passes_on_two_processes_are_those_of_one(runs: Path) -> None:
    alone, shared = (read_tree(version_at(runs / "SAM" / kind, 4))["state_dict"] for kind in ("single", "ddp"))
    assert all(torch.allclose(value, shared[key], rtol=0, atol=1e-5) for key, value in alone.items())
