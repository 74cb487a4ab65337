"""What is told of an optimizer, what is refused, and how groups come to it."""

from __future__ import annotations

import functools
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import musictrain.optim
from musictrain.optim import AdamW, Constant, WarmupCosine, optimizer_of
from musictrain.optim.making import advice_on, check_trainer, describe_optimizer, optimizer_in_short
from musictrain.optim.optimizers import has_fused_kernel, tensors_of
from tests.optim.stepped import factory, network

pytest.importorskip("pytorch_optimizer")


def test_the_table_says_which_weights_muon_moves_and_which_adamw() -> None:
    of = network(num_layers=2)
    lines = describe_optimizer(optimizer_of(of, factory("Muon", lr=0.02, adamw_lr=0.003)), of).splitlines()
    assert [line.split(",")[0].split()[:2] for line in lines[::2]] == [["matrices", "14"], ["decay", "1"], ["no_decay", "6"]]
    assert "learning rate 0.02, weight decay 0.1" in lines[0]
    assert "learning rate 0.003, weight decay 0.1" in lines[2]
    assert "learning rate 0.003, weight decay 0" in lines[4]
    assert lines[1].startswith("    by Muon: 2 blocks.*.attention.query.weight (8 x 8), 2 blocks.*.attention.key.weight (8 x 8), ")
    assert lines[3] == "    by AdamW: head.weight (13 x 8)"
    assert "2 blocks.*.attention_norm.weight (8)" in lines[5]


def test_one_line_says_who_moves_how_much_and_how_fast() -> None:
    of = network(num_layers=2)
    both = optimizer_in_short(optimizer_of(of, factory("Muon", lr=0.02, adamw_lr=0.003)))
    matrices = sum(each.numel() for name, each in of.named_parameters() if "blocks" in name and each.ndim == 2)
    rest = sum(each.numel() for each in of.parameters()) - matrices
    assert both == f"Muon for {matrices:,} parameters in hidden matrices, AdamW for {rest:,}; learning rate 0.003 to 0.02"
    assert optimizer_in_short(optimizer_of(of, factory("AdamW", lr=0.02))) == "AdamW; learning rate 0.02"


def test_of_other_optimizers_the_groups_are_told_alone() -> None:
    of = network()
    assert len(describe_optimizer(optimizer_of(of, AdamW), of).splitlines()) == 2


def test_layers_that_learn_slower_do_so_under_muon_too() -> None:
    of = network(num_layers=2)
    optimizer = optimizer_of(of, factory("Muon", lr=0.02, adamw_lr=0.01), layer_decay=0.5)
    rates = {name: group["lr"] for group in optimizer.param_groups for name, each in of.named_parameters() if each is group["params"][0]}
    assert rates["blocks.1.attention.query.weight"] == pytest.approx(2 * rates["blocks.0.attention.query.weight"]) == pytest.approx(0.01)
    assert all(group["use_muon"] is group["name"].startswith("matrices") for group in optimizer.param_groups)


REFUSED: dict[str, tuple[Any, str]] = {
    "one rate for all": (
        lambda of: optimizer_of(of, factory("Prodigy"), layer_decay=0.5),
        "Prodigy finds one learning rate .* layer_decay",
    ),
    "no rate": (lambda of: optimizer_of(of, package("AliG")), "AliG has no learning rate"),
    "the package's SAM": (
        lambda of: optimizer_of(of, functools.partial(package("SAM"), base_optimizer=torch.optim.SGD)),
        "take musictrain.optim.SAM",
    ),
    "SAM over two weights": (lambda of: optimizer_of(of, factory("SAM", base=factory("ScheduleFreeAdamW"))), "SAM cannot have the base"),
    "out of range": (
        lambda of: optimizer_of(of, factory("Lion", lr=-1.0)),
        r"\(-1.0 > 0\). It comes from NegativeLRError of pytorch-optimizer",
    ),
}


def package(name: str) -> Any:
    import pytorch_optimizer

    return getattr(pytorch_optimizer, name)


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_with_what_to_do(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        make(network())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon came with torch 2.9")
def test_torchs_muon_alone_is_refused_with_ours() -> None:
    with pytest.raises(ValueError, match=r"takes matrices alone.*musictrain\.optim\.Muon"):
        optimizer_of(network(), torch.optim.Muon)


class ModelParallelStrategy:
    """Called as Lightning's, which is all that is looked at."""


class FSDPStrategy:
    """The same."""


def trainer(strategy: Any = object, batches: int = 1, scaler: Any = None, callbacks: Any = ()) -> Any:
    plugin = SimpleNamespace(scaler=scaler)
    return SimpleNamespace(strategy=strategy(), accumulate_grad_batches=batches, precision_plugin=plugin, callbacks=list(callbacks))


@pytest.mark.parametrize("name", ["SOAP", "Adafactor", "Prodigy", "SAM"])
def test_weights_in_shares_are_refused_to_what_needs_them_whole(name: str) -> None:
    optimizer = optimizer_of(network(), factory(name))
    with pytest.raises(ValueError, match=f"{name} cannot train under ModelParallelStrategy, where weights lie in shares"):
        check_trainer(optimizer, trainer(ModelParallelStrategy), Constant())
    check_trainer(optimizer, trainer(), Constant())


@pytest.mark.parametrize("name", ["Muon", "ScheduleFreeAdamW"])
def test_flattened_weights_are_refused_to_what_needs_their_shape(name: str) -> None:
    optimizer = optimizer_of(network(), factory(name))
    check_trainer(optimizer, trainer(ModelParallelStrategy), Constant())
    with pytest.raises(ValueError, match="lays them end to end"):
        check_trainer(optimizer, trainer(FSDPStrategy), Constant())


def test_two_passes_are_refused_with_gathered_batches_and_with_a_scaler() -> None:
    sam, adamw = optimizer_of(network(), factory("SAM")), optimizer_of(network(), AdamW)
    with pytest.raises(ValueError, match=r"gathers 4 batches.*accumulate_grad_batches to 1"):
        check_trainer(sam, trainer(batches=4), Constant())
    with pytest.raises(ValueError, match=r"gradient scaler.*bf16-mixed"):
        check_trainer(sam, trainer(scaler=object()), Constant())
    check_trainer(adamw, trainer(batches=4, scaler=object()), Constant())


def test_advice_is_given_where_settings_do_not_go_together_and_nowhere_else() -> None:
    free, prodigy = optimizer_of(network(), factory("ScheduleFreeAdamW")), optimizer_of(network(), factory("Prodigy"))
    assert "musictrain.optim.Constant" in advice_on(free, WarmupCosine())[0]
    assert "leave out EMAWeightAveraging" in advice_on(free, Constant(), is_averaged=True)[0]
    assert "lr=0.002 multiplies it" in advice_on(optimizer_of(network(), factory("Prodigy", lr=0.002)), WarmupCosine())[0]
    quiet = [(free, Constant(5), False), (prodigy, WarmupCosine(), True), (optimizer_of(network(), AdamW), WarmupCosine(), True)]
    assert [advice_on(optimizer, schedule, is_averaged=averaged) for optimizer, schedule, averaged in quiet] == [[], [], []]


def test_advice_is_a_warning_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    averaging = type("EMAWeightAveraging", (type("WeightAveraging", (), {}),), {})()
    check_trainer(optimizer_of(network(), factory("ScheduleFreeAdamW")), trainer(callbacks=[averaging]), Constant())
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# AdamW's kernel.


def test_adamw_is_fused_where_there_is_a_kernel_and_goes_without_where_there_is_none() -> None:
    assert AdamW(network().parameters()).defaults["fused"] is True
    assert AdamW(network().parameters(), fused=False).defaults["fused"] is False
    waves = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = AdamW([{"params": [waves]}, {"params": list(network().parameters())}], lr=0.1)
    assert optimizer.defaults["fused"] is None
    waves.grad = torch.ones_like(waves)
    optimizer.step()
    assert bool((waves.detach() != 1).all())
    assert not has_fused_kernel(torch.ones(1, device="meta"))


def test_parameters_are_found_in_all_that_an_optimizer_takes() -> None:
    one, two, three = (nn.Parameter(torch.ones(each)) for each in (1, 2, 3))
    assert [len(each) for each in tensors_of([one, ("two", two), {"params": three}, {"params": [("one", one), two]}])] == [1, 2, 3, 1, 2]


# The package.


def test_nobody_imports_the_package_who_does_not_use_it() -> None:
    code = "import sys, musictrain.optim as o; assert 'pytorch_optimizer' not in sys.modules; o.Lion; sys.modules['pytorch_optimizer']"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_where_it_is_missing_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("musictrain.optim.library", "musictrain.optim.sharpness"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("Muon", "SAM"):
        monkeypatch.delitem(vars(musictrain.optim), name, raising=False)
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    for name in ("Muon", "SAM"):
        with pytest.raises(ImportError, match=f"musictrain.optim.{name} needs the package pytorch-optimizer: pip install"):
            getattr(musictrain.optim, name)


def test_a_name_that_is_not_there_is_told_what_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Lyon'.*Lion"):
        _ = musictrain.optim.Lyon
