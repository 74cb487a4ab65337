"""MusicModule with every optimizer: resumed from any version to the bit, averages shown and stored, two passes on the same batch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from musictrain.callbacks import AnomalyAlerts, EMAWeightAveraging
from musictrain.health import NonFinite
from musictrain.losses import next_token_loss
from musictrain.module import MusicModule
from musictrain.optim.two_weights import TRAINED
from tests.optim.stepped import OURS, factory, same
from tests.tiny_runs import PAD, ForeignNetwork, Resumable, fit, logged, new_module, random_batches, same_weights

pytest.importorskip("pytorch_optimizer")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RATES = {"Prodigy": 1.0, "SAM": None}
EVERY = {"max_steps": 6, "val_check_interval": 2, "check_val_every_n_epoch": None, "gradient_clip_val": 0.5, "max_epochs": -1}


class Keep(Callback):
    """Checkpoints at a step, and at a validation; and the weights after every step."""

    def __init__(self, step: int = 3, validation: int = 4) -> None:
        self.step, self.validation, self.weights, self.validated = step, validation, {}, {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.weights[trainer.global_step] = [each.detach().clone() for each in pl_module.parameters()]
        if trainer.global_step == self.step:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "after a step.ckpt")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.validated[trainer.global_step] = [each.detach().clone() for each in pl_module.parameters()]
        if trainer.global_step == self.validation:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "in a validation.ckpt")


def module(name: str, dropout: float = 0.3, **options: Any) -> MusicModule:
    rate = RATES.get(name, 0.01)
    return new_module(ForeignNetwork(dropout=dropout), optimizer=factory(name, **({} if rate is None else {"lr": rate})), **options)


def train(folder: Path, of: MusicModule, **options: Any) -> Any:
    return fit(folder, of, valid=random_batches(2, seed=4), **{**EVERY, **options})


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "32-true") for name in OURS), ("ScheduleFreeAdamW", "bf16-mixed"), ("SAM", "bf16-mixed")]
)
def test_a_run_resumed_from_a_step_or_from_a_validation_ends_in_the_same_bits(name: str, precision: Any, tmp_path: Path) -> None:
    whole = module(name)
    train(tmp_path / "whole", whole, callbacks=[Keep()], precision=precision)
    for kept in ("after a step", "in a validation"):
        resumed = module(name)
        train(tmp_path / kept, resumed, ckpt_path=tmp_path / "whole" / f"{kept}.ckpt", precision=precision)
        assert same_weights(whole, resumed), kept
        assert logged(tmp_path / kept, "train/loss")[5] == logged(tmp_path / "whole", "train/loss")[5]
        assert logged(tmp_path / kept, "val/loss")[5] == logged(tmp_path / "whole", "val/loss")[5]
    assert bool(all(each.isfinite().all() for each in whole.parameters()))


# Two weights.


def mean_nats(of: MusicModule, weights: dict[str, torch.Tensor]) -> float:
    other = ForeignNetwork(dropout=0.0)
    other.load_state_dict({name.removeprefix("network."): each for name, each in weights.items()})
    results = [next_token_loss(other(b["tokens"][:, :-1]), b["tokens"][:, 1:], pad_id=PAD) for b in random_batches(2, seed=4)]
    return float(sum(r.nll_sum for r in results) / sum(r.num_tokens for r in results))


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MusicModule, Keep, Any]:
    """A schedule-free run."""
    folder, kept, of = tmp_path_factory.mktemp("averaged"), Keep(), module("ScheduleFreeAdamW")
    return folder, of, kept, train(folder, of, callbacks=[kept])


def test_what_is_validated_is_the_average_which_is_what_a_version_holds(averaged: Any) -> None:
    folder, of, _, _ = averaged
    version = torch.load(folder / "in a validation.ckpt", weights_only=True)
    assert logged(folder, "val/loss")[3] == pytest.approx(mean_nats(of, version["state_dict"]), rel=1e-6)
    numbers = [number for group in version["optimizer_states"][0]["param_groups"] for number in group["params"]]
    assert len(numbers) == len(version["state_dict"])
    assert all(TRAINED in version["optimizer_states"][0]["state"][number] for number in numbers)
    loaded = module("ScheduleFreeAdamW")
    loaded.load_state_dict(version["state_dict"])
    assert same(dict(loaded.state_dict()), dict(version["state_dict"]))


def test_the_average_is_between_the_trained_weights_and_the_point_beyond_them(averaged: Any) -> None:
    folder, _, kept, _ = averaged
    version = torch.load(folder / "in a validation.ckpt", weights_only=True)
    state, beta = version["optimizer_states"][0], 0.9
    assert all(group["train_mode"] is True for group in state["param_groups"])
    assert not any(map(torch.equal, kept.validated[4], kept.weights[4]))
    # y = beta x + (1 - beta) z, by its definition.
    found = sorted(float((beta * x).sum()) for x in kept.validated[4])
    points = [(each[TRAINED], each["z"]) for each in state["state"].values()]
    expected = sorted(float((y - (1 - beta) * z).sum()) for y, z in points)
    assert found == pytest.approx(expected, abs=1e-4)


def test_validations_do_not_touch_the_training(averaged: Any, tmp_path: Path) -> None:
    _, _, kept, _ = averaged
    alone, again = module("ScheduleFreeAdamW"), Keep(step=-1, validation=-1)
    fit(tmp_path, alone, **{**EVERY, "limit_val_batches": 0}, callbacks=[again])
    assert all(all(map(torch.equal, kept.weights[step], again.weights[step])) for step in range(1, 7))


def test_at_the_end_the_module_is_the_average_and_stays_it_in_a_validation(averaged: Any) -> None:
    _, of, kept, trainer = averaged
    end = [each.detach().clone() for each in of.parameters()]
    assert not any(map(torch.equal, end, kept.weights[6]))
    assert all(map(torch.equal, end, kept.validated[6]))
    trainer.validate(of, Resumable(random_batches(2, seed=4)), verbose=False)
    assert all(map(torch.equal, end, of.parameters()))


def test_a_further_average_works_and_is_advised_against(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = module("ScheduleFreeAdamW")
    train(tmp_path / "whole", whole, callbacks=[EMAWeightAveraging(decay=0.5), Keep()])
    resumed = module("ScheduleFreeAdamW")
    train(tmp_path / "again", resumed, ckpt_path=tmp_path / "whole" / "after a step.ckpt", callbacks=[EMAWeightAveraging(decay=0.5)])
    assert same_weights(whole, resumed)
    assert "leave out EMAWeightAveraging" in caplog.text


# Two passes.


class Hooks(Callback):
    """Counts what a step calls, and remembers the masks of its dropout."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.masks: list[torch.Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.network.dropout.register_forward_hook(self._see)

    def _see(self, dropout: Any, inputs: Any, output: torch.Tensor) -> None:
        if dropout.training:
            self.masks.append(output.detach() == 0)

    def on_before_backward(self, *_: Any) -> None:
        self.calls.append("backward")

    def on_after_backward(self, *_: Any) -> None:
        self.calls.append("gradients")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.calls.append("step")


def test_both_passes_draw_the_same_numbers_and_callbacks_see_one(tmp_path: Path) -> None:
    hooks = Hooks()
    fit(tmp_path, module("SAM", dropout=0.5), max_steps=3, callbacks=[hooks])
    assert hooks.calls == ["backward", "gradients", "step"] * 3
    assert len(hooks.masks) == 6
    assert all(torch.equal(first, second) for first, second in zip(hooks.masks[::2], hooks.masks[1::2], strict=True))
    assert not torch.equal(hooks.masks[0], hooks.masks[2])


def test_what_is_logged_is_the_loss_at_the_weights_and_its_tokens_count_once(tmp_path: Path) -> None:
    fit(tmp_path / "sam", module("SAM", dropout=0.0), max_steps=2)
    fit(tmp_path / "adamw", module("AdamW", dropout=0.0), max_steps=2)
    assert logged(tmp_path / "sam", "train/loss")[0] == logged(tmp_path / "adamw", "train/loss")[0]
    assert logged(tmp_path / "sam", "train/tokens") == logged(tmp_path / "adamw", "train/tokens")


def test_a_step_is_that_of_the_papers_rule(tmp_path: Path) -> None:
    sgd = functools.partial(torch.optim.SGD, lr=0.5)
    of = new_module(ForeignNetwork(dropout=0.0), optimizer=factory("SAM", base=sgd, rho=0.1))
    fit(tmp_path, of, max_steps=1)
    by_hand, batch = ForeignNetwork(dropout=0.0), random_batches()[0]["tokens"]

    def gradients() -> list[torch.Tensor]:
        by_hand.zero_grad()
        next_token_loss(by_hand(batch[:, :-1]), batch[:, 1:], pad_id=PAD).loss.backward()
        return [parameter.grad.clone() for parameter in by_hand.parameters()]

    before, up = [each.detach().clone() for each in by_hand.parameters()], gradients()
    length = torch.cat([each.flatten() for each in up]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(by_hand.parameters(), up, strict=True):
            parameter += 0.1 * gradient / length
    for parameter, start, gradient in zip(of.network.parameters(), before, gradients(), strict=True):
        torch.testing.assert_close(parameter.detach(), start - 0.5 * gradient, rtol=1e-5, atol=1e-6)


def test_gathered_batches_are_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SAM goes through a step's batch twice, and this step gathers 2 batches"):
        fit(tmp_path, module("SAM"), max_steps=1, accumulate_grad_batches=2)


class Poison(Callback):
    """A gradient that is not a number, in one step."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == 3:
            next(pl_module.parameters()).grad.fill_(float("nan"))


OFF = {name: {"action": "off"} for name in ("throughput", "data_wait", "memory", "slow_rank")}


@pytest.mark.parametrize("name", ["SAM", "ScheduleFreeAdamW", "Prodigy", "Muon"])
def test_an_update_that_is_left_out_leaves_weights_and_state_as_they_were(name: str, tmp_path: Path) -> None:
    kept, states = Keep(step=-1, validation=-1), []

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            state = trainer.optimizers[0].state_dict()
            rates = [group.pop("lr") for group in state["param_groups"]]
            assert rates
            states.append(torch.utils._pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, state))

    alerts = AnomalyAlerts(**OFF, non_finite=NonFinite(action="skip"))
    fit(tmp_path, module(name), max_steps=6, max_epochs=-1, callbacks=[Poison(), alerts, kept, Look()])
    assert all(map(torch.equal, kept.weights[3], kept.weights[4]))
    assert same(states[2], states[3])
    assert not all(map(torch.equal, kept.weights[4], kept.weights[6]))
