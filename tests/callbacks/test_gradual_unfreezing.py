"""GradualUnfreezing: until its step a weight is as if frozen, from then on as if it never had been; and nothing else remembers it."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from torch import Tensor, nn

from musictrain.callbacks import GradualUnfreezing, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.dashboard.event_reading import EventReader
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import SAM, SOAP, AdamW, Constant, Lion, Muon, ScheduleFreeAdamW, WarmupCosine
from musictrain.runs import RunFolder
from tests.tiny_runs import PAD, VOCAB, Resumable, fit, logged, random_batches, same_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
SCHEDULE = {"embedding": 5, "blocks.0": 3}
RUN = {"max_steps": 8, "max_epochs": -1, "gradient_clip_val": 0.05, "accumulate_grad_batches": 2}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


def decoder() -> Decoder:
    """Two layers with an untied head, always the same, that do something from the first step on."""
    torch.manual_seed(2)
    network = Decoder(VOCAB, d_model=8, num_layers=2, num_heads=2, dropout=0.2, tie_embeddings=False, max_context=16)
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)
    return network


def module(**options: Any) -> MusicModule:
    return MusicModule(decoder(), functools.partial(AdamW, lr=0.02), WarmupCosine(2), pad_id=PAD, layer_decay=0.8, **options)


class Witness(Callback):
    """Remembers the weights before every optimizer step, and which of them had a gradient when it was made."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.trained: list[set[str]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        def note(*_: Any) -> None:
            named = list(pl_module.network.named_parameters())
            self.weights.append({name: each.detach().clone() for name, each in named})
            self.trained.append({name.split(".attention")[0].split(".feed")[0] for name, each in named if each.grad is not None})

        trainer.optimizers[0].register_step_post_hook(note)


def test_a_weight_is_left_alone_until_its_step_and_trains_from_then_on(tmp_path: Path) -> None:
    seen, trained = Witness(), module()
    start = {name: each.detach().clone() for name, each in trained.network.named_parameters()}
    fit(tmp_path, trained, callbacks=[seen, GradualUnfreezing(SCHEDULE)], **RUN)
    rest = {"blocks.1", "norm.weight", "head.weight"}
    watched = GradualUnfreezing(SCHEDULE)
    assert [watched.training_stage(step) for step in range(1, 9)] == [0.0] * 3 + [1.0] * 2 + [2.0] * 3
    assert seen.trained == [rest] * 3 + [rest | {"blocks.0"}] * 2 + [rest | {"blocks.0", "embedding.weight"}] * 3
    for done, weights in enumerate(seen.weights, start=1):
        changed = {name for name in start if not torch.equal(weights[name], start[name])}
        assert ("embedding.weight" in changed) == (done > 5)
        assert any(name.startswith("blocks.0") for name in changed) == (done > 3)


@pytest.mark.parametrize("clip", [{"gradient_clip_val": 0.05}, {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value"}])
def test_until_then_training_is_that_of_a_network_with_frozen_weights_to_the_bit(clip: dict[str, Any], tmp_path: Path) -> None:
    held, frozen = module(), module(frozen=["embedding", "blocks.0"])
    fit(tmp_path / "held", held, callbacks=[GradualUnfreezing(SCHEDULE)], **{**RUN, **clip, "max_steps": 3})
    fit(tmp_path / "frozen", frozen, **{**RUN, **clip, "max_steps": 3})
    assert same_weights(held.network, frozen.network)
    assert logged(tmp_path / "held", "train/gradient_norm") == logged(tmp_path / "frozen", "train/gradient_norm")


def test_a_schedule_of_zeros_changes_nothing(tmp_path: Path) -> None:
    free, plain = module(), module()
    fit(tmp_path, free, callbacks=[GradualUnfreezing({"*": 0}, warmup_steps=3)], **RUN)
    fit(tmp_path, plain, **RUN)
    assert same_weights(free, plain)


def test_a_run_that_goes_on_from_a_step_is_the_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    def callbacks(folder: Path) -> list[Callback]:
        return [VersionedCheckpoint(folder, every_n_train_steps=1, newest=20), GradualUnfreezing(SCHEDULE, warmup_steps=3)]

    whole = module()
    fit(tmp_path, whole, callbacks=callbacks(tmp_path / "whole"), enable_checkpointing=True, **RUN)
    versions = [version for version in list_versions(tmp_path / "whole") if version.step in (2, 3, 4, 6)]
    assert len(versions) == 4
    for version in versions:
        parted, place = module(), tmp_path / f"from_{version.step}"
        fit(place, parted, ckpt_path=version.path, callbacks=callbacks(place / "versions"), enable_checkpointing=True, **RUN)
        assert same_weights(parted, whole), f"not after going on from step {version.step}"


def test_updates_of_what_has_just_begun_grow_to_their_size(tmp_path: Path) -> None:
    class Lines(lightning.LightningModule):
        """Two weights whose gradients are 1."""

        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
            for part in (self.low, self.high):
                nn.init.zeros_(part.weight)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.low.weight.sum() + self.high.weight.sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    places: list[tuple[float, float]] = []

    class Note(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            places.append((pl_module.low.weight.item(), pl_module.high.weight.item()))

    callbacks = [Note(), GradualUnfreezing({"low": 2}, warmup_steps=3)]
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    lightning.Trainer(max_steps=6, max_epochs=-1, callbacks=callbacks, enable_model_summary=False, **options).fit(Lines(), [0] * 6)
    assert [low for low, _ in places] == pytest.approx([0.0, 0.0, -0.25, -0.75, -1.5, -2.5])
    assert [high for _, high in places] == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]


def test_of_several_patterns_the_last_one_counts(tmp_path: Path) -> None:
    seen = Witness()
    fit(tmp_path, module(), callbacks=[seen, GradualUnfreezing({"*": 3, "head": 0, "blocks.1": 1})], **{**RUN, "max_steps": 4})
    every = {"embedding.weight", "blocks.0", "blocks.1", "norm.weight", "head.weight"}
    assert seen.trained == [{"head.weight"}, {"head.weight", "blocks.1"}, {"head.weight", "blocks.1"}, every]


def test_it_is_told_in_the_log_the_events_and_on_the_page_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def go(steps: int, **options: Any) -> None:
        callbacks = [RunRecorder(), VersionedCheckpoint(every_n_train_steps=3, after_validation=False), GradualUnfreezing(SCHEDULE)]
        choice = {**RUN, "max_steps": steps, "logger": False, "log_every_n_steps": 2, "enable_checkpointing": True}
        fit(tmp_path, module(), callbacks=callbacks, **choice, **options)

    with caplog.at_level(logging.INFO, "musictrain"):
        go(4)
        go(8, ckpt_path="last")
    run = RunFolder(tmp_path)
    events = [json.loads(line) for line in run.events.read_text().splitlines()]
    told = [{key: each[key] for key in ("step", "patterns")} for each in events if each["event"] == "unfrozen"]
    assert told == [{"step": 3, "patterns": "blocks.0"}, {"step": 5, "patterns": "embedding"}]
    reader = EventReader(run)
    reader.read()
    assert [(each["step"], each["text"]) for each in reader.actions] == [
        (3, "Begins to train: blocks.0"),
        (5, "Begins to train: embedding"),
    ]
    assert "blocks.0 trains from step 3 on." in caplog.text
    assert "From step 5 on embedding train too: 100.0 % of the weights." in caplog.text
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    shares = {row["step"]: row["train/trained_share"] for row in rows if "train/trained_share" in row}
    embedding, block, every = (
        sum(each.numel() for each in part.parameters()) for part in (decoder().embedding, decoder().blocks[0], decoder())
    )
    assert shares == pytest.approx({2: 1 - (embedding + block) / every, 4: 1 - embedding / every, 6: 1.0, 8: 1.0})


def test_another_schedule_than_that_of_the_checkpoint_is_said(caplog: pytest.LogCaptureFixture) -> None:
    callback = GradualUnfreezing(SCHEDULE)
    callback.load_state_dict(GradualUnfreezing(SCHEDULE).state_dict())
    callback.load_state_dict({})  # a checkpoint from before there was the callback
    assert caplog.text == ""
    callback.load_state_dict(GradualUnfreezing({"embedding": 7}, 2).state_dict())
    assert "the checkpoint was trained by {'embedding': 7} with 2" in caplog.text


@pytest.mark.parametrize(
    ("schedule", "frozen", "said"),
    [
        ({"blocks.2": 3}, [], r"GradualUnfreezing names 'blocks.2', which stands for no weight of Decoder. Did you mean 'blocks.[01]'\?"),
        ({"embedding": 3}, ["embedding"], "names 'embedding', but embedding.weight does not train at all.*out of `frozen`"),
        ({"*": 3, "head": 7}, [], "holds back every weight, so that nothing would train before step 3.*such as the head"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(schedule: Any, frozen: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        fit(tmp_path, module(frozen=frozen), callbacks=[GradualUnfreezing(schedule)], **RUN)


@pytest.mark.parametrize("step", [-1, 2.5, True, "3"])
def test_steps_that_are_none_are_refused(step: Any) -> None:
    with pytest.raises(ValueError, match="expected after how many optimizer steps"):
        GradualUnfreezing({"head": step})


def test_lightnings_own_callback_ends_a_run_with_a_schedule_by_steps(tmp_path: Path) -> None:
    """Why there is one of ours: a group that is added to the optimizer has no place in a LambdaLR."""

    class Tuned(MusicModule):
        @property
        def backbone(self) -> nn.Module:
            return self.network.blocks

    tuned = Tuned(decoder(), functools.partial(AdamW, lr=0.02), WarmupCosine(2), pad_id=PAD)
    loader = Resumable(random_batches())
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=tmp_path, callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=1)],
    )  # fmt: skip
    with pytest.raises(ValueError, match="zip"):
        trainer.fit(tuned, loader)


def test_a_warm_up_of_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps=-1, expected 0 or more"):
        GradualUnfreezing(warmup_steps=-1)


def test_updates_of_a_schedule_free_optimizer_cannot_grow(tmp_path: Path) -> None:
    free = MusicModule(decoder(), ScheduleFreeAdamW, Constant(), pad_id=PAD)
    with pytest.raises(ValueError, match=r"ScheduleFreeAdamW keeps a second copy of the weights.*Set warmup_steps to 0"):
        fit(tmp_path, free, callbacks=[GradualUnfreezing(SCHEDULE, warmup_steps=2)], max_steps=1)


@pytest.mark.parametrize("make", [Muon, SOAP, Lion, ScheduleFreeAdamW, SAM])
def test_every_optimizer_leaves_alone_what_is_held_back(make: Any, tmp_path: Path) -> None:
    held = MusicModule(decoder(), functools.partial(make, **({} if make is SAM else {"lr": 0.02})), Constant(), pad_id=PAD)
    fit(tmp_path, held, callbacks=[GradualUnfreezing(SCHEDULE)], max_steps=3)
    before = decoder().state_dict()
    changed = {name for name, value in held.network.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".attention")[0].split(".feed")[0] for name in changed} == {"blocks.1", "norm.weight", "head.weight"}
