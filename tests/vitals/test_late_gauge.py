"""What a gauge tells late is what another tells at once, and updates that are not finite are not made meanwhile: on the CPU."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback

from musictrain.health import LossSpike, NonFinite
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant
from musictrain.vitals import LateGauge, Ranks
from tests.callbacks.sick_runs import AtStep, Learner, PlainModule, Quiet, fit, heard, number_batches, set_gradient, token_batches

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Late(Quiet):
    """As on a device that the host runs ahead of."""

    _gauges: ClassVar = {"cpu": LateGauge}


class Seen(Callback):
    """Everything that the detectors are shown before updates."""

    def __init__(self, watch: Quiet) -> None:
        self.vitals: list[Any] = []
        answer = watch._answer

        def noting(trainer: Any, vitals: Any, optimizer: Any = None) -> None:
            if "gradient_norm" in vitals.values or "non_finite/gradients" in vitals.values:
                self.vitals.append(vitals)
            answer(trainer, vitals, optimizer)

        watch._answer = noting  # type: ignore[method-assign]


def trained(kind: type[Quiet], *harms: Callback, fused: bool = True, **options: Any) -> tuple[Any, list[Any], list[dict[str, Any]]]:
    module = MusicModule(Learner(), functools.partial(AdamW, lr=0.01, fused=fused), Constant())
    watch = kind(non_finite=NonFinite(attempts=9), entropy={}, updates={}, every_n_steps=4)
    seen = Seen(watch)
    with heard() as alerts:
        fit(module, token_batches(24), *harms, watch, seen, **options)
    return module, seen.vitals, alerts


@pytest.mark.parametrize("accumulate", [1, 2])
def test_late_and_at_once_see_the_same_numbers(accumulate: int) -> None:
    options = {"steps": 24 // accumulate, "accumulate_grad_batches": accumulate}
    (_, at_once, _), (_, late, _) = trained(Quiet, **options), trained(Late, **options)
    assert [vitals.step for vitals in late] == [vitals.step for vitals in at_once]
    for one, other in zip(at_once, late, strict=True):
        assert one.values.keys() == other.values.keys()
        assert [other.values[name] for name in one.values] == pytest.approx(list(one.values.values()), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("fused", [True, False])
def test_an_update_that_is_not_finite_is_not_made_though_it_is_told_later(fused: bool) -> None:
    before: list[torch.Tensor] = []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            before.append(pl_module.network.second.weight.detach().clone())

    harm = AtStep([6], set_gradient("network.first.weight", math.nan), "on_after_backward")
    module, _, alerts = trained(Late, harm, Look(), fused=fused)
    assert [(alert["kind"], alert["step"], alert["parameter"]) for alert in alerts] == [("non_finite", 6, "network.first.weight")]
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())
    if fused:
        assert torch.equal(before[4], before[5])
    assert not torch.equal(before[5], before[6])


def test_in_anybodys_module_too() -> None:
    batches = number_batches(12)
    batches[4][0, 0] = math.nan
    module, watch = PlainModule(), Late(non_finite=NonFinite(), every_n_steps=4)
    module.numbers.layers.insert(1, norm := torch.nn.BatchNorm1d(16))
    with heard() as alerts:
        fit(module, batches, watch)
    assert [alert["step"] for alert in alerts] == [5]
    assert all(bool(each.isfinite().all()) for each in (*module.parameters(), *module.buffers()))
    assert norm.num_batches_tracked == 11


def test_what_can_no_longer_be_left_out_is_told_to_be_so() -> None:
    batches = token_batches(60)
    batches[53]["tokens"] = torch.randint(0, 12, (4, 13), generator=torch.Generator().manual_seed(9))
    with heard() as alerts:
        module = MusicModule(Learner(), functools.partial(AdamW, lr=0.03), Constant())
        fit(module, batches, Late(loss_spike=LossSpike(sudden=4.0, action="skip"), every_n_steps=4))
    assert [alert["step"] for alert in alerts] == [54]
    assert alerts[0]["did"] == "It is too late to leave out the update. Training goes on as it is."


def test_steps_that_nobody_has_heard_of_are_in_the_state() -> None:
    watch, states = Late(non_finite=NonFinite(), every_n_steps=4), []

    class Look(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            states.append(watch.state_dict()["open_step"])

    module = MusicModule(Learner(), functools.partial(AdamW, lr=0.01), Constant())
    fit(module, token_batches(8), watch, Look())
    assert [len(state.get("pending", ())) for state in states] == [1, 2, 3, 0] * 2
    gauge = LateGauge(module, torch.optim.SGD(module.parameters(), lr=0.1), Ranks())
    gauge.load_state_dict(states[2])
    assert gauge.state_dict() == states[2]


def test_no_mark_is_left_on_the_optimizer() -> None:
    module = MusicModule(Learner(), functools.partial(AdamW, lr=0.01), Constant())
    trainer = fit(module, token_batches(5), Late(non_finite=NonFinite(), every_n_steps=4))
    assert not {"found_inf", "grad_scale"} & vars(trainer.optimizers[0]).keys()
    assert not trainer.optimizers[0]._optimizer_step_post_hooks
