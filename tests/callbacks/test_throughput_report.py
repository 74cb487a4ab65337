"""ThroughputReport in real Trainers, on a clock that only moves when something is being done."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from torch import Tensor, nn

import musictrain.callbacks.throughput_report
from musictrain.callbacks import RunLogger, RunRecorder, ThroughputReport
from musictrain.speed import PHASES, phase
from musictrain.speed.phase_clock import WallTicker
from tests.tiny_runs import PAD, VOCAB, ForeignNetwork, fit, logged, new_module, new_trainer, random_batches

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
COSTS = {
    "data": 1.0,
    "forward": 2.0,
    "backward": 4.0,
    "optimizer": 8.0,
    "validation": 16.0,
    "saving": 32.0,
    "sampling": 64.0,
    "other": 128.0,
}


class Work:
    """Moves the clock by what each kind of work costs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def do(self, what: str) -> None:
        self.now += COSTS[what]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    monkeypatch.setattr(musictrain.callbacks.throughput_report, "ticker_for", lambda device: WallTicker(work))
    return work


class Network(ForeignNetwork):
    """Forward and backward take their time."""

    vocab_size = VOCAB

    def __init__(self, work: Work) -> None:
        super().__init__(dropout=0.0)
        self.work = work

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("it is tied to its clock")

    def forward(self, tokens: Tensor) -> Tensor:
        self.work.do("forward" if self.training else "validation")
        logits = super().forward(tokens)
        if self.training:
            logits.register_hook(lambda gradient: self.work.do("backward"))
        return logits


class SGD(torch.optim.SGD):
    """So does the step."""

    work: Work

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        # Before: torch may hook its own step too, which then ends inside of this one.
        result = closure() if closure is not None else None
        self.work.do("optimizer")
        super().step()
        return result


class Loader:
    """So does loading."""

    def __init__(self, work: Work, batches: list[Any], cost: str = "data") -> None:
        self.work, self.batches, self.cost, self.trainer = work, batches, cost, None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.work.do(self.cost)
            yield batch


class Others(Callback):
    """What other callbacks do: sampling in validation, saving with and without a word, and something nobody knows."""

    def __init__(self, work: Work, folder: Path) -> None:
        self.work, self.folder = work, folder

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        with phase("sampling"):
            self.work.do("sampling")

    def on_save_checkpoint(self, *args: Any) -> None:
        self.work.do("saving")

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.work.do("other")
        if trainer.global_step == 2:
            trainer.save_checkpoint(self.folder / "a.ckpt")


@pytest.mark.parametrize("others_first", [False, True])
def test_every_moment_is_counted_where_it_belongs(work, tmp_path, others_first):
    report, others = ThroughputReport(every_n_steps=2), Others(work, tmp_path)
    module = new_module(Network(work), optimizer=lambda params: SGD(params, lr=0.1))
    SGD.work = work
    callbacks = [others, report] if others_first else [report, others]
    fit(tmp_path, module, Loader(work, random_batches(4)), random_batches(3), max_epochs=1, callbacks=callbacks)
    # 4 batches of the first three, 4 steps, 3 batches of validation, one save, one sampling, 4 times what no one knows.
    expected = {"data": 4.0, "forward": 8.0, "backward": 16.0, "optimizer": 32.0, "validation": 48.0, "saving": 32.0, "sampling": 64.0}
    total = sum(expected.values()) + 4 * COSTS["other"]
    summary = report.summary()
    assert work.now == total
    for name, seconds in expected.items():
        assert summary[f"{name}_share"] == pytest.approx(seconds / total), name
    assert sum(summary[f"{name}_share"] for name in PHASES) == pytest.approx(1.0)


def test_accumulated_batches_are_reported_by_the_step(work, tmp_path):
    report = ThroughputReport()
    SGD.work = work
    module = new_module(Network(work), optimizer=lambda params: SGD(params, lr=0.1))
    fit(tmp_path, module, Loader(work, random_batches(8)), max_epochs=1, accumulate_grad_batches=2, log_every_n_steps=2, callbacks=[report])
    rates = logged(tmp_path, "speed/steps_per_second")
    seconds = 4 * (1 + 2 + 4) + 2 * 8
    assert rates == pytest.approx({1: 2 / seconds, 3: 2 / seconds})
    assert set(rates) == set(logged(tmp_path, "train/loss")), "beside the loss of the same step"


def test_music_is_counted_as_the_module_counts_it(tmp_path):
    report = ThroughputReport(every_n_steps=2)
    module = new_module(ForeignNetwork())
    batches = random_batches(5)
    fit(tmp_path, module, batches, max_epochs=1, callbacks=[report])
    summary, tokens = report.summary(), logged(tmp_path, "train/tokens")[4]
    assert tokens == sum(int((batch["tokens"][:, 1:] != PAD).sum()) for batch in batches)
    assert summary["tokens_per_second"] / summary["steps_per_second"] == pytest.approx(tokens / 5)
    assert summary["notes_per_second"] / summary["steps_per_second"] == pytest.approx(4.0)
    assert "pieces_per_second" not in summary
    assert summary["mfu"] > 0
    assert summary["memory_peak_mib"] > 10
    assert list(logged(tmp_path, "speed/tokens_per_second")) == [1, 3, 4], "and the last step, though it is no second one"


def test_it_changes_nothing_about_what_is_learned(tmp_path):
    modules = [new_module(ForeignNetwork()) for _ in range(2)]
    for module, callbacks in zip(modules, ([], [ThroughputReport(every_n_steps=1)]), strict=True):
        fit(tmp_path, module, max_epochs=1, callbacks=callbacks)
    one, other = (module.state_dict() for module in modules)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model", [BoringModel, ManualOptimBoringModel])
def test_a_module_without_tokens_is_timed_too(tmp_path, model):
    report = ThroughputReport(every_n_steps=1)
    trainer = new_trainer(tmp_path, max_steps=3, callbacks=[report], limit_val_batches=1)
    trainer.fit(model())
    summary = report.summary()
    assert not {"tokens_per_second", "mfu"} & set(summary)
    assert summary["forward_share"] > 0
    assert summary["optimizer_share"] > 0
    assert list(logged(tmp_path, "speed/data_wait")) == [0, 1, 2]
    assert "save_checkpoint" not in vars(trainer), "everything is given back"
    assert "_on_before_fetch" not in vars(trainer.fit_loop.epoch_loop)


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"max_steps": 2, "logger": False, "log_every_n_steps": 0}, {"max_epochs": 0}])
def test_it_is_silent_where_there_is_nothing_to_report(tmp_path, options):
    report = ThroughputReport()
    trainer = new_trainer(tmp_path, callbacks=[report], **options)
    trainer.fit(BoringModel())
    trainer.validate(BoringModel())
    assert logged(tmp_path, "speed/data_wait") == {}
    assert ("data_wait" in report.summary()) == ("max_steps" in options), "a fit that never reports is summed up all the same"


def test_an_error_ends_it_and_another_fit_begins_anew(tmp_path):
    class Breaks(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise RuntimeError("broken")
            return super().training_step(batch, batch_idx)

    report = ThroughputReport(every_n_steps=1)
    trainer = new_trainer(tmp_path, max_steps=4, callbacks=[report])
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(Breaks())
    assert report.summary()["steps_per_second"] > 0
    with phase("saving"):
        pass  # nobody listens any more
    trainer = new_trainer(tmp_path, max_steps=1, callbacks=[report])
    trainer.fit(BoringModel())
    assert report._total is not None
    assert report._total.ranks[0].steps == 1


def test_waiting_for_data_is_complained_of_after_some_reports(work, tmp_path, caplog):
    SGD.work = work
    module = new_module(Network(work), optimizer=lambda params: SGD(params, lr=0.1))
    report = ThroughputReport(every_n_steps=1, patience=2)
    with caplog.at_level(logging.INFO, logger="musictrain"):
        fit(tmp_path, module, Loader(work, random_batches(5), cost="other"), max_epochs=1, callbacks=[report])
    waits = [record.message for record in caplog.records if record.levelno == logging.WARNING and "waits for data" in record.message]
    assert len(waits) == 1
    assert "90 % of its time" in waits[0]
    assert "data (90.1 %)" in caplog.text, "and the table says so at the end"


def test_it_writes_into_the_records_of_the_run(tmp_path):
    logger = RunLogger(tmp_path)
    fit(tmp_path, new_module(), max_epochs=1, logger=logger, callbacks=[RunRecorder(), ThroughputReport(every_n_steps=5)])
    rows = [json.loads(line) for line in (Path(str(logger.save_dir)) / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if "speed/tokens_per_second" in row]
    assert (row["step"], row["epoch"]) == (5, 0)


def test_it_can_be_named_in_yaml():
    callback = instantiate_class((), {"class_path": "musictrain.callbacks.ThroughputReport", "init_args": {"every_n_steps": 7}})
    assert callback.every_n_steps == 7


def test_your_own_peak_is_taken(tmp_path):
    summaries = []
    for peak in (0.001, 0.002):
        report = ThroughputReport(every_n_steps=1, peak_tflops=peak)
        fit(tmp_path, new_module(), max_epochs=1, callbacks=[report])
        summaries.append(report._total)
    assert [total.peak for total in summaries] == [1e9, 2e9]


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"patience": 0}, {"peak_tflops": 0.0}])
def test_numbers_that_are_not_positive_are_refused(options):
    with pytest.raises(ValueError, match="each must be positive"):
        ThroughputReport(**options)


def test_negative_shares_are_refused():
    with pytest.raises(ValueError, match="most_data_wait=-1"):
        ThroughputReport(most_data_wait=-1)


def train_two(folder: Path) -> None:
    """Two ranks, of which the second loads slowly."""
    work = Work()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    musictrain.callbacks.throughput_report.ticker_for = lambda device: WallTicker(work)  # type: ignore[assignment]
    SGD.work = work

    class Share(Loader):
        def __iter__(self):
            rank = torch.distributed.get_rank()
            for batch in self.batches[rank::2]:
                self.work.do("validation" if rank else "data")
                yield batch

        def __len__(self) -> int:
            return len(self.batches) // 2

    report = ThroughputReport(every_n_steps=2, patience=2)
    module = new_module(Network(work), optimizer=lambda params: SGD(params, lr=0.1))
    trainer = new_trainer(folder, devices=2, strategy="ddp_fork", use_distributed_sampler=False, max_epochs=1, callbacks=[report])
    trainer.fit(module, Share(work, random_batches(10)))


def test_two_ranks_are_one_report_and_the_slow_one_is_named(tmp_path, repository):
    script = (
        "import sys; from pathlib import Path; from tests.callbacks.test_throughput_report import train_two; train_two(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=repository, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "log" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["speed/straggler"]]
    busy = {0: 1.0 + 2.0 + 8.0, 1: 16.0 + 2.0 + 8.0}  # milliseconds a step without backward, in which ranks wait for one another
    seconds = (sum(busy.values()) + 2 * 4.0) / 2
    tokens = [int((batch["tokens"][:, 1:] != PAD).sum()) for batch in random_batches(10)]
    assert [int(row["step"]) for row in rows] == [1, 3, 4]
    for row, number in zip(rows, (0, 1), strict=False):
        assert float(row["speed/slowest_rank"]) == 1
        assert float(row["speed/straggler"]) == pytest.approx(busy[1] / busy[0] - 1)
        assert float(row["speed/rank_1/busy_ms_per_step"]) == pytest.approx(1000 * busy[1])
        assert float(row["speed/tokens_per_second"]) == pytest.approx(sum(tokens[4 * number : 4 * number + 4]) / (2 * seconds))
    assert done.stderr.count("holds the others up: it waits longer for data") == 1, done.stderr
