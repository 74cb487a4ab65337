"""The trace of a real fit is what Chrome opens, and bounded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel

from musictrain.models import Decoder
from musictrain.strategies.trace import TraceProfiler
from tests.tiny_runs import VOCAB, fit, new_module, new_trainer, random_batches

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def events(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["traceEvents"]


def named(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in found if event.get("name") == name and event.get("ph") == "X"]


def test_a_few_steps_in_the_middle_are_written_into_the_run_folder(tmp_path):
    profiler = TraceProfiler(wait=2, warmup=1, steps=2)
    network = Decoder(VOCAB, 8, 2, 2, max_context=8)
    trainer = fit(tmp_path, new_module(network), random_batches(9), max_epochs=1, profiler=profiler)
    path = Path(str(trainer.log_dir)) / "trace" / "rank_0-batch_000005.trace.json"
    assert [path] == profiler.files
    found = events(path)
    assert len(named(found, "aten::embedding")) == 2, "one for each traced step"
    assert len(named(found, "aten::scaled_dot_product_attention")) == 2 * 2, "one for each layer"
    assert named(found, "[LightningModule]MusicModule.optimizer_step")
    assert named(found, "[_TrainingEpochLoop].train_dataloader_next")
    assert any("Input Dims" in event.get("args", {}) for event in named(found, "aten::mm")), "shapes are on"


def test_every_repetition_is_a_file_and_then_it_is_over(tmp_path):
    profiler = TraceProfiler(tmp_path, wait=0, warmup=1, steps=1, repeat=2)
    trainer = new_trainer(tmp_path, max_steps=8, profiler=profiler, limit_val_batches=1)
    trainer.fit(BoringModel())
    assert [path.name for path in profiler.files] == ["rank_0-batch_000002.trace.json", "rank_0-batch_000004.trace.json"]
    assert all(named(events(path), "aten::linear") for path in profiler.files)


def test_what_an_early_end_leaves_is_written(tmp_path):
    profiler = TraceProfiler(tmp_path, wait=1, warmup=0, steps=10)
    new_trainer(tmp_path, max_steps=3, profiler=profiler, limit_val_batches=0).fit(BoringModel())
    assert [path.name for path in profiler.files] == ["rank_0-batch_000003.trace.json"]
    assert named(events(profiler.files[0]), "aten::linear")


def test_a_fit_that_is_too_short_says_so(tmp_path, caplog):
    profiler = TraceProfiler(tmp_path)
    with caplog.at_level(logging.WARNING, logger="musictrain"):
        new_trainer(tmp_path, max_steps=3, profiler=profiler, limit_val_batches=0).fit(BoringModel())
    assert "No trace was written: the fit had 3 batches, and 12 go by first" in caplog.text
    assert not list(tmp_path.rglob("*.trace.json"))


def test_memory_is_in_it_if_asked_for(tmp_path):
    paths = []
    for memory in (False, True):
        profiler = TraceProfiler(tmp_path / str(memory), wait=0, warmup=1, steps=1, memory=memory)
        new_trainer(tmp_path, max_steps=3, profiler=profiler, limit_val_batches=0).fit(BoringModel())
        paths += profiler.files
    assert [any(event.get("name") == "[memory]" for event in events(path)) for path in paths] == [False, True]


def test_validation_alone_is_not_traced(tmp_path):
    profiler = TraceProfiler(tmp_path, wait=0, warmup=0)
    new_trainer(tmp_path, profiler=profiler).validate(BoringModel())
    assert profiler.files == []


def test_an_error_in_training_does_not_keep_the_next_fit_from_being_traced(tmp_path):
    class Breaks(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise RuntimeError("broken")
            return super().training_step(batch, batch_idx)

    profiler = TraceProfiler(tmp_path, wait=0, warmup=1, steps=5)
    trainer = new_trainer(tmp_path, max_steps=4, profiler=profiler)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(Breaks())
    new_trainer(tmp_path, max_steps=4, profiler=profiler).fit(BoringModel())
    assert [path.name for path in profiler.files] == ["rank_0-batch_000004.trace.json"]


def test_training_learns_the_same(tmp_path):
    states = []
    for profiler in (None, TraceProfiler(tmp_path, wait=0, warmup=1, steps=1)):
        module = new_module()
        fit(tmp_path, module, max_epochs=1, profiler=profiler)
        states.append(module.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("options", [{"wait": -1}, {"steps": 0}, {"repeat": 0}])
def test_numbers_that_are_too_small_are_refused(options):
    with pytest.raises(ValueError, match="at least one batch must be traced"):
        TraceProfiler(**options)
