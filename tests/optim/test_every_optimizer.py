"""Laws of every optimizer that is promised: resumed to the bit, still without gradients, decay where it belongs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.optim import optimizer_of
from musictrain.optim.standing_still import StandsStill
from tests.optim.stepped import OURS, factory, give_gradients, network, same, step, through_a_file

pytest.importorskip("pytorch_optimizer")

OF_TORCH = ["ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]
NEED_MORE = {
    # What groups alone do not give.
    *("AdaLOMO", "LOMO", "AdamMini", "BSAM", "DeMo", "DistributedMuon", "FriendlySAM", "GSAM", "LBFGS", "LookSAM", "Lookahead"),
    *("OrthoGrad", "Optimizer", "BaseOptimizer", "PCGrad", "Ranger21", "SAM", "SafeFP16Optimizer", "ScheduleFreeWrapper", "TRAC", "WSAM"),
    *("A2Grad", "AliG", "AdaHessian", "SophiaH", "SparseAdam", "LoRARite", "SpectralSphere"),
}
NO_PLAIN_STATE = {"AdaShift", "Conda", "SCION", "SCIONLight", "ScalableShampoo"}
"""Their state holds objects, which no checkpoint does: it says so at the first save."""


def of_package() -> dict[str, Any]:
    import pytorch_optimizer

    kinds = {name: getattr(pytorch_optimizer, name) for name in dir(pytorch_optimizer)}
    every = {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)}
    return {name: kind for name, kind in every.items() if name not in NEED_MORE | NO_PLAIN_STATE}


def check_laws(folder: Path, make: Any) -> None:
    trained, resumed = network(), network(seed=2)
    optimizer = optimizer_of(trained, make)
    step(trained, optimizer, range(3))
    tree = through_a_file(folder, trained, optimizer)
    step(trained, optimizer, range(3, 6))

    another = optimizer_of(resumed, make)
    resumed.load_state_dict(tree["state_dict"])
    another.load_state_dict(tree["optimizer_states"][0])
    step(resumed, another, range(3, 6))
    assert same(trained.state_dict(), resumed.state_dict())
    assert same(optimizer.state_dict(), another.state_dict())
    assert not same(trained.state_dict(), tree["state_dict"])

    before = copy.deepcopy((trained.state_dict(), optimizer.state_dict()))
    optimizer.zero_grad()
    optimizer.step(lambda: torch.tensor(0.0))
    assert same(before, (trained.state_dict(), optimizer.state_dict()))


@pytest.mark.parametrize("name", OURS)
def test_ours_goes_on_to_the_bit_and_does_nothing_without_gradients(name: str, tmp_path: Path) -> None:
    check_laws(tmp_path, factory(name))


@pytest.mark.parametrize("name", OF_TORCH)
def test_so_does_torchs(name: str, tmp_path: Path) -> None:
    check_laws(tmp_path, getattr(torch.optim, name))


@pytest.mark.slow
def test_so_does_every_one_of_the_package_that_groups_suffice_for(tmp_path: Path) -> None:
    kinds = of_package()
    assert len(kinds) >= 100
    wrong = {}
    for name, kind in kinds.items():
        (tmp_path / name).mkdir()
        try:
            check_laws(tmp_path / name, kind)
        except Exception as error:
            wrong[name] = f"{type(error).__name__}: {error}"
    assert not wrong


@pytest.mark.parametrize("name", ["AdEMAMix", "Lamb", "ScheduleFreeSGD", "AdaMuon"])
def test_so_do_some_of_the_package(name: str, tmp_path: Path) -> None:
    check_laws(tmp_path, of_package()[name])


@pytest.mark.parametrize("name", ["AdamW", "Muon", "Lion", "SOAP", "Adafactor", "ADOPT", "ScheduleFreeAdamW", "SAM"])
def test_where_every_gradient_is_zero_decay_alone_moves_weights(name: str) -> None:
    decayed = {"base": factory("AdamW", lr=0.1, weight_decay=0.5)} if name == "SAM" else {"lr": 0.1, "weight_decay": 0.5}
    of = network()
    before = {key: value.detach().clone() for key, value in of.named_parameters()}
    optimizer = optimizer_of(of, factory(name, **decayed))

    def zeros() -> torch.Tensor:
        for parameter in of.parameters():
            parameter.grad = torch.zeros_like(parameter)
        return torch.tensor(0.0)

    for _ in range(3):
        optimizer.step(zeros)
    for key, value in of.named_parameters():
        spared = "norm" in key or "embedding" in key
        assert torch.equal(value, before[key]) is spared, key
        assert spared or float(value.detach().norm()) < float(before[key].norm())


@pytest.mark.parametrize("name", [*OURS, "pytorch_optimizer.Lamb"])
def test_hooks_of_a_step_are_called_once_a_step(name: str) -> None:
    make = of_package()["Lamb"] if "." in name else factory(name)
    # What makes the package's own class known to torch, whose step then calls hooks too.
    optimizer_of(network(), make)
    base = next((each for each in type(optimizer_of(network(), make)).__mro__ if each.__module__.startswith("pytorch_optimizer.")), None)
    if base is not None and name not in ("SAM", "Muon"):
        base([torch.nn.Parameter(torch.ones(2))])
    of, calls = network(), []
    optimizer = optimizer_of(of, make)
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    step(of, optimizer, range(3))
    assert len(calls) == 3


def test_an_optimizer_of_the_package_gets_the_behaviour_and_keeps_its_name() -> None:
    optimizer = optimizer_of(network(), of_package()["Lamb"])
    assert type(optimizer).__name__ == "Lamb"
    assert isinstance(optimizer, of_package()["Lamb"])
    assert type(optimizer).step is not of_package()["Lamb"].step
    assert not isinstance(optimizer_of(network(), torch.optim.Adam), StandsStill)


def test_without_its_behaviour_a_step_without_gradients_would_count() -> None:
    raw = of_package()["ScheduleFreeAdamW"]([{"params": list(network().parameters())}])
    raw.step()
    assert raw.param_groups[0]["step"] == 1


def test_muons_matrices_move_as_under_torchs_own_to_the_bit() -> None:
    torch_muon = getattr(torch.optim, "Muon", None)
    if torch_muon is None:
        pytest.skip("Muon came with torch 2.9")
    ours, theirs = network(), network()
    optimizer = optimizer_of(ours, factory("Muon", lr=0.02, weight_decay=0.1))
    numbers = {id(parameter): name for name, parameter in ours.named_parameters()}
    matrices = {numbers[id(each)] for group in optimizer.param_groups if group["use_muon"] for each in group["params"]}
    named = dict(theirs.named_parameters())
    reference = [
        torch_muon([named[name] for name in sorted(matrices)], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [each for name, each in named.items() if name == "head.weight"], "weight_decay": 0.1},
                {"params": [each for name, each in named.items() if name not in {*matrices, "head.weight"}], "weight_decay": 0.0},
            ],
            lr=0.02, betas=(0.9, 0.95),
        ),
    ]  # fmt: skip
    for number in range(6):
        give_gradients(ours, number)
        give_gradients(theirs, number)
        optimizer.step()
        for each in reference:
            each.step()
    for name, parameter in ours.named_parameters():
        if name in matrices:
            assert torch.equal(parameter, named[name]), name
        else:
            torch.testing.assert_close(parameter, named[name], rtol=1e-5, atol=1e-6)
