"""AnomalyAlerts with roll_back: the run is the one that never met the batch, to the bit; where it cannot go back it stops and says so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from musictrain.health import GradientSpike, LossSpike, NonFinite, Updates
from musictrain.runs import RunFolder
from musictrain.runs.records import read_records
from musictrain.runs.rollbacks import FILE_NAME, read_rollbacks
from musictrain.runs.status import read_status
from tests.callbacks.sick_runs import Quiet, heard
from tests.rolling_back.going_back import fit, never_met
from tests.tiny_runs import new_module

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class SickBatches(Callback):
    """Batches by number whose gradients are multiplied by something."""

    def __init__(self, factors: dict[int, float]) -> None:
        self.factors, self._factor, self.seen = factors, 1.0, []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(int(batch["number"]))
        self._factor = self.factors.get(self.seen[-1], 1.0)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            if self._factor != 1.0 and parameter.grad is not None:
                parameter.grad *= self._factor


def test_nan_in_a_batch_is_gone_back_from_and_the_batch_passed_over(tmp_path: Path) -> None:
    run, clean = RunFolder(tmp_path / "sick"), RunFolder(tmp_path / "clean")
    module, other, sick = new_module(), new_module(), SickBatches({7: math.nan})
    with heard() as alerts:
        watch = Quiet(non_finite=NonFinite(action="roll_back"))
        trainer = fit(run, module, sick, watch)
    assert trainer.global_step == 12
    assert [(alert["kind"], alert["step"]) for alert in alerts] == [("non_finite", 8)]
    assert "goes back to the last good version" in alerts[0]["did"]
    # Afterwards step 8 is made of another batch.
    assert "`musictrain replay sick --step 8 --attempt 1`" in alerts[0]["advice"]
    # The last version is that of step 6.
    assert sick.seen == [*range(8), 6, 8, 9, 10, 11, 12]
    never_met(clean, other, (7, 7))
    assert all(map(torch.equal, module.state_dict().values(), other.state_dict().values()))
    records = list(read_records(run.events))
    events = [event["event"] for event in records]
    assert events.index("alert") < events.index("rolled_back")
    assert records[events.index("rolled_back")]["kind"] == "non_finite"
    assert not watch.stopped_by_guard


class HighRate(Callback):
    """The learning rate is far too high from one batch on, in the first fit."""

    def __init__(self, batch: int) -> None:
        self.batch, self._fits = batch, 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._fits += 1

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if self._fits == 1 and trainer.global_step >= self.batch:
            optimizer.param_groups[0]["lr"] = 10.0


def test_what_was_saved_between_two_looks_is_not_gone_back_to(tmp_path: Path) -> None:
    # Looks at steps 5 and 10, versions at 6 and 9 and after: that of step 9 is spoiled already, as that of step 6 might be.
    module = new_module()
    watch = Quiet(updates=Updates(action="roll_back", least=1), every_n_steps=5)
    with heard() as alerts:
        trainer = fit(RunFolder(tmp_path), module, HighRate(7), watch)
    assert trainer.global_step == 12
    assert [(alert["kind"], alert["step"]) for alert in alerts] == [("updates", 10)]
    (back,) = read_rollbacks(tmp_path / FILE_NAME)
    assert (back.kind, back.step, back.trusted) == ("updates", 10, 5)
    assert (back.to, back.first, back.last) == (4, 5, 9)
    assert max(float(weight.abs().max()) for weight in module.parameters()) < 5.0


class Overshoots(Callback):
    """The update that one batch makes spoils all weights."""

    def __init__(self, batch: int) -> None:
        self.batch, self._now = batch, -1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._now = int(batch["number"])

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.data.mul_(-20.0 if self._now == self.batch else 1.0)


@pytest.mark.parametrize(("patience", "passed"), [(1, (9, 10)), (3, (9, 12))])
def test_a_spike_is_gone_back_from_to_before_the_update_that_made_it(patience: int, passed: tuple[int, int], tmp_path: Path) -> None:
    # Batch 9 spoils the weights in step 10, whose loss is as usual; that of step 11 is not. There is a version of every step.
    run, clean = RunFolder(tmp_path / "sick"), RunFolder(tmp_path / "clean")
    module, other, sick = new_module(), new_module(), Overshoots(9)
    only_patience: dict[str, float] = {"sudden": 1e9, "together": 1e9, "persistent": 0.0}
    spike = LossSpike(action="roll_back", least=6, window=8, level=4, threshold=2.0, patience=patience, **only_patience)
    with heard() as alerts:
        fit(run, module, sick, Quiet(loss_spike=spike), max_steps=20, saving={"every_n_train_steps": 1})
    assert [(alert["kind"], alert["step"], alert["began"]) for alert in alerts] == [("loss_spike", 10 + patience, 11)]
    (back,) = read_rollbacks(run.path / FILE_NAME)
    assert (back.trusted, back.to, (back.first, back.last)) == (9, 9, passed)
    never_met(clean, other, passed, max_steps=20)
    assert all(map(torch.equal, module.state_dict().values(), other.state_dict().values()))


def test_two_bad_batches_are_gone_back_from_one_after_the_other(tmp_path: Path) -> None:
    module, sick = new_module(), SickBatches({5: math.inf, 9: math.nan})
    with heard() as alerts:
        fit(RunFolder(tmp_path), module, sick, Quiet(non_finite=NonFinite(action="roll_back")))
    assert len(alerts) == 2
    assert sick.seen == [*range(6), 4, 6, 7, 8, 9, 10, 11, 12, 13]
    assert all(bool(weight.isfinite().all()) for weight in module.parameters())


def test_where_it_may_not_go_back_again_the_run_stops_and_says_why(tmp_path: Path) -> None:
    watch = Quiet(non_finite=NonFinite(action="roll_back"))
    with heard() as alerts:
        trainer = fit(RunFolder(tmp_path), new_module(), SickBatches({5: math.nan, 8: math.nan}), watch, most=1)
    assert trainer.global_step < 12
    assert watch.stopped_by_guard
    assert "may 1 times" in watch.stop_reason
    assert alerts[-1]["did"].endswith("The run is stopped.")
    status = read_status(RunFolder(tmp_path).status)
    assert status is not None
    assert status.state == "stopped"


def test_a_spike_that_is_left_out_too_often_is_gone_back_from(tmp_path: Path) -> None:
    # Steps at a hundredth of the rate do not help against a batch either.
    watch = Quiet(gradient_spike=GradientSpike(action="skip", attempts=1, least=4, window=8, level=4), lr_steps=1)
    sick = SickBatches(dict.fromkeys((12, 13, 14), 1e6))
    with heard() as alerts:
        trainer = fit(RunFolder(tmp_path), new_module(), sick, watch, max_steps=20)
    assert trainer.global_step == 20
    began = [alert["did"].split(":")[0] for alert in alerts]
    assert began[1:] == ["Leaving out updates did not help", "A lower learning rate did not help"]
    assert {12, 13, 14}.isdisjoint(sick.seen[-5:])
