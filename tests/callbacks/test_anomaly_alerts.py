"""Faults that are put into tiny trainings are found at their step, named, and answered as configured; healthy ones are left alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

from musictrain.callbacks import AnomalyAlerts
from musictrain.health import GradientSpike, LossSpike, NonFinite
from tests.callbacks.sick_runs import (
    MACHINE,
    AtStep,
    PlainModule,
    Quiet,
    fit,
    heard,
    music_module,
    number_batches,
    set_gradient,
    set_weight,
    steps_of,
    token_batches,
    weights_of,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class KeepWeights(Callback):
    """Copies of the weights after every step."""

    def __init__(self) -> None:
        self.after: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.after.append(weights_of(pl_module))


# Values that are not finite.


def test_a_batch_with_nan_is_left_out_and_named_in_anybodys_module() -> None:
    batches = number_batches(12)
    batches[6][3, 2] = math.nan
    module, kept = PlainModule(), KeepWeights()
    with heard() as alerts:
        fit(module, batches, AnomalyAlerts(**MACHINE), kept)
    assert steps_of(alerts, "non_finite") == [7]
    assert alerts[0]["where"] == "numbers.layers.0.weight" or alerts[0]["of"] == "loss"
    assert "left out" in alerts[0]["did"]
    assert all(map(torch.equal, kept.after[5], kept.after[6]))
    assert not any(map(torch.equal, kept.after[6], kept.after[7]))
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())


class Normed(PlainModule):
    """With running statistics, which a forward changes without any optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers.layers.insert(1, torch.nn.BatchNorm1d(16))


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_that_is_left_out_leaves_nothing_in_running_statistics(accumulated: int) -> None:
    batches = number_batches(8)
    batches[4][3, 2] = math.nan
    module, clean = Normed(), Normed()
    fit(module, batches, Quiet(non_finite=NonFinite()), steps=8 // accumulated, accumulate_grad_batches=accumulated)
    sound = [batch for place, batch in enumerate(batches) if place // accumulated != 4 // accumulated]
    fit(clean, sound, steps=8 // accumulated - 1, accumulate_grad_batches=accumulated)
    assert int(module.numbers.layers[1].num_batches_tracked) == 8 - accumulated
    assert all(map(torch.equal, module.state_dict().values(), clean.state_dict().values()))


@pytest.mark.parametrize("name", ["network.first.weight", "network.head.bias"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_gradient_that_is_not_finite_is_found_in_its_step_and_by_its_parameter(name: str, value: float) -> None:
    module, kept = music_module(), KeepWeights()
    with heard() as alerts:
        fit(module, token_batches(8), AtStep([5], set_gradient(name, value), "on_after_backward"), Quiet(non_finite=NonFinite()), kept)
    assert steps_of(alerts, "non_finite") == [5]
    assert alerts[0]["parameter"] == name
    assert f"first in {name}" in alerts[0]["message"]
    assert all(map(torch.equal, kept.after[3], kept.after[4]))


def test_moments_of_the_optimizer_stay_as_they_were_when_an_update_is_left_out() -> None:
    module, moments = music_module(), []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            state = trainer.optimizers[0].state_dict()["state"]
            moments.append({key: {name: torch.as_tensor(value).clone() for name, value in one.items()} for key, one in state.items()})

    poison = AtStep([4], set_gradient("network.first.weight", math.nan), "on_after_backward")
    trainer = fit(module, token_batches(6), poison, Quiet(non_finite=NonFinite()), Look())
    assert trainer.global_step == 6
    for key, one in moments[2].items():
        assert all(torch.equal(value, moments[3][key][name]) for name, value in one.items())
    assert any(not torch.equal(value, moments[4][key][name]) for key, one in moments[3].items() for name, value in one.items())


def test_a_weight_that_is_infinite_is_named_and_not_met_with_what_cannot_help() -> None:
    module, alerts_on = music_module(), AnomalyAlerts(**MACHINE)
    with heard() as alerts:
        trainer = fit(module, token_batches(20), AtStep([9], set_weight("network.second.weight", math.inf)), alerts_on)
    told = [alert for alert in alerts if alert["kind"] == "non_finite"]
    assert [alert["step"] for alert in told] == [9]
    assert told[0]["of"] == "weights"
    assert told[0]["parameter"] == "network.second.weight"
    # A plain Trainer cannot go back, and says how it could.
    assert trainer.global_step == 9
    assert alerts_on.stopped_by_guard
    assert "musictrain.rolling_back.fit" in alerts_on.stop_reason
    assert "The run is stopped." in told[0]["did"]


def test_an_update_is_made_all_the_same_where_only_to_alert_is_asked_for() -> None:
    module = music_module()
    with heard() as alerts:
        poison = AtStep([3], set_gradient("network.first.weight", math.nan), "on_after_backward")
        fit(module, token_batches(3), poison, Quiet(non_finite=NonFinite(action="alert")))
    assert steps_of(alerts, "non_finite") == [3]
    assert not bool(module.network.first.weight.isfinite().all())


@pytest.mark.parametrize("lr_steps", [1, 50])
def test_after_some_attempts_comes_what_is_stronger_and_it_is_said(lr_steps: int) -> None:
    module, alerts_on = music_module(), Quiet(non_finite=NonFinite(action="skip", attempts=2), lr_factor=0.5, lr_steps=lr_steps)
    poison = AtStep(range(5, 99), set_gradient("network.first.weight", math.nan), "on_after_backward")
    with heard() as alerts:
        trainer = fit(module, token_batches(30), poison, alerts_on)
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())
    assert [alert["step"] for alert in alerts] == [5, 7, 9]
    assert "(1 of 2)" in alerts[0]["did"]
    assert alerts[1]["did"].startswith(f"Leaving out updates did not help: for {lr_steps} steps the learning rate is multiplied by 0.5")
    assert "The run is stopped." in alerts[2]["did"]
    assert trainer.global_step == 9


# Spikes.


def test_a_learning_rate_that_is_a_hundredfold_is_found_soon() -> None:
    def raise_rate(trainer: Any, pl_module: Any) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] *= 100
        trainer.optimizers[0].param_groups[1]["lr"] *= 100

    with heard() as alerts:
        # The schedule lays the rate anew after every step.
        fit(music_module(), token_batches(160), AtStep(range(101, 121), raise_rate), AnomalyAlerts(**MACHINE, every_n_steps=5))
    found = {alert["kind"]: alert["step"] for alert in reversed(alerts)}
    assert 101 <= min(found.values()) <= 106
    assert found.keys() & {"loss_spike", "gradient_spike", "updates"}


def test_a_gradient_spike_can_be_left_out_and_the_weights_do_not_feel_it() -> None:
    def blow_up(trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.grad *= 1e4

    module, kept = music_module(), KeepWeights()
    with heard() as alerts:
        alerts_on = Quiet(gradient_spike=GradientSpike(action="skip"))
        fit(module, token_batches(60), AtStep([50], blow_up, "on_after_backward"), alerts_on, kept)
    assert steps_of(alerts, "gradient_spike") == [50]
    assert all(map(torch.equal, kept.after[48], kept.after[49]))
    assert not any(map(torch.equal, kept.after[49], kept.after[50]))


def test_a_spoiled_batch_is_told_with_its_loss() -> None:
    batches = token_batches(60)
    batches[54]["tokens"] = torch.randint(0, 12, (4, 13), generator=torch.Generator().manual_seed(9))
    with heard() as alerts:
        fit(music_module(0.03), batches, Quiet(loss_spike=LossSpike(sudden=4.0)))
    assert steps_of(alerts, "loss_spike") == [55]
    assert alerts[0]["loss"] == alerts[0]["value"] > 1.5 * alerts[0]["normal"]


class Stages(Callback):
    """Tells that something else is trained from a step on."""

    def training_stage(self, step: int) -> float:
        return float(step >= 55)


@pytest.mark.parametrize("told", [False, True])
def test_a_jump_of_which_a_callback_tells_is_no_spike(told: bool) -> None:
    def more_weights(trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.grad *= 1e4

    with heard() as alerts:
        jump = AtStep(range(55, 99), more_weights, "on_after_backward")
        fit(music_module(), token_batches(60), jump, Quiet(gradient_spike=GradientSpike()), *([Stages()] if told else []))
    assert steps_of(alerts, "gradient_spike") == ([] if told else [55])


# Layers, memory.


def test_a_layer_that_dies_is_named() -> None:
    def kill(trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.network.second.weight.zero_()

    with heard() as alerts:
        fit(music_module(), token_batches(40), AtStep(range(21, 99), kill), AnomalyAlerts(**MACHINE, every_n_steps=2))
    dead = [alert for alert in alerts if alert["kind"] == "layers"]
    assert dead
    assert 22 <= dead[0]["step"] <= 26
    assert dead[0]["layer"] == "network.second"


def test_a_callback_that_leaks_is_found() -> None:
    leaked = []
    steps = range(15, 200)
    leak = AtStep(steps, lambda *_: leaked.append(torch.ones(2**20)))  # 4 MiB
    with heard() as alerts:
        fit(music_module(), token_batches(90), leak, Quiet(memory={}, every_n_steps=1))
    assert steps_of(alerts, "memory")


# What is healthy.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [lambda: (music_module(), token_batches), lambda: (PlainModule(), number_batches)])
def test_a_healthy_training_is_left_alone(seed: int, make: Any) -> None:
    module, batches = make()
    with heard() as alerts:
        fit(module, batches(150, seed=seed), AnomalyAlerts(**MACHINE, every_n_steps=5))
    assert alerts == []


@pytest.mark.parametrize("accumulate", [1, 3])
def test_not_a_bit_of_a_healthy_training_changes(accumulate: int) -> None:
    ends = []
    for callbacks in ((), (AnomalyAlerts(every_n_steps=2),)):
        module = music_module(token_dropout=0.1, token_dropout_kind="unigram")
        fit(module, token_batches(24), *callbacks, steps=24 // accumulate, accumulate_grad_batches=accumulate, gradient_clip_val=0.5)
        ends.append(weights_of(module))
    assert all(map(torch.equal, *ends))


def test_nothing_is_left_behind() -> None:
    module = music_module()
    trainer = fit(module, token_batches(4), AnomalyAlerts(every_n_steps=3))
    assert not any(each._forward_hooks for each in module.modules())
    assert not trainer.optimizers[0]._optimizer_step_post_hooks
    assert "_clip_gradients" not in vars(trainer.precision_plugin)
    assert not {"_on_before_fetch", "_broadcast_sigterm_tensor"} & vars(trainer.fit_loop.epoch_loop).keys()


# Mixed precision.


def test_gradients_that_overflow_in_16_bits_are_the_loss_scalers_business() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    precision, watch, scales = MixedPrecision("16-mixed", "cpu", scaler=scaler), Quiet(non_finite=NonFinite(), loss_scale={}), []

    class Look(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            assert watch._latest is not None
            scales.append(watch._latest.values["loss_scale"])

    module = PlainModule()
    with heard() as alerts:
        overflow = AtStep([4], set_gradient("numbers.layers.0.weight", math.inf), "on_after_backward")
        fit(module, number_batches(8), overflow, watch, Look(), plugins=[precision])
    assert alerts == []
    assert scales == [2.0**10] * 4 + [2.0**9] * 4
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())


def test_a_loss_that_is_nan_is_told_whatever_scales_it() -> None:
    batches = number_batches(8)
    batches[3][0, 0] = math.nan
    module = PlainModule()
    with heard() as alerts:
        precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))
        fit(module, batches, Quiet(non_finite=NonFinite()), plugins=[precision])
    assert [(alert["step"], alert["of"]) for alert in alerts] == [(4, "loss")]
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())


def test_the_loss_is_that_of_the_batch_whatever_scales_it() -> None:
    losses = []
    for plugins in ([], [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))]):
        watch = Quiet(loss_spike=LossSpike())
        fit(PlainModule(), number_batches(1), watch, plugins=plugins)
        assert watch._latest is not None
        losses.append((watch._latest.values["loss"], watch._latest.values["gradient_norm"]))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
