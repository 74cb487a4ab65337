"""MusicModule, MusicDataModule and Decoder together: the road that ``fit`` takes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision

from musictrain import Decoder, MusicDataModule, MusicModule
from musictrain.callbacks import AccumulationSchedule, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.resume_report import GRADIENTS
from musictrain.checkpoints.storing import load
from musictrain.optim import Constant, WarmupCosine
from tests.tiny_runs import logged, new_trainer, same_weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
RUN = {"max_steps": 7, "val_check_interval": 2, "check_val_every_n_epoch": None, "accumulate_grad_batches": 2, "log_every_n_steps": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four voices that move in parallel by random steps."""
    random = np.random.default_rng(0)

    def piece() -> list[list[int]]:
        steps = np.repeat(random.integers(-2, 3, 10).cumsum(), 4)
        return (np.array([72, 67, 60, 48]) + steps[:, None]).tolist()

    path = tmp_path_factory.mktemp("corpus") / "tiny.json"
    path.write_text(json.dumps({"train": [piece() for _ in range(6)], "valid": [piece() for _ in range(2)]}))
    return path


def new_data(corpus: Path, **options: Any) -> MusicDataModule:
    return MusicDataModule(str(corpus), **{"window": 32, "batch_size": 3, **options})


def new_decoder(data: MusicDataModule, **options: Any) -> Decoder:
    torch.manual_seed(0)
    return Decoder(data.vocab_size, **{"d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.3, "max_context": 64, **options})


def test_a_run_resumed_from_any_of_its_checkpoints_ends_in_the_same_bits(corpus, tmp_path):
    data = new_data(corpus)
    keep = {"dirpath": tmp_path / "versions", "save_top_k": -1, "filename": "{step}"}
    whole = MusicModule(new_decoder(data), schedule=WarmupCosine(warmup_steps=2))
    trainer = new_trainer(tmp_path, enable_checkpointing=True, callbacks=[ModelCheckpoint(every_n_train_steps=2, **keep)], **RUN)
    trainer.fit(whole, data)
    versions = sorted((tmp_path / "versions").iterdir())
    assert len(versions) >= 3
    for version in versions:
        resumed = MusicModule(new_decoder(data), schedule=WarmupCosine(warmup_steps=2))
        new_trainer(tmp_path / version.stem, **RUN).fit(resumed, new_data(corpus), ckpt_path=version)
        assert same_weights(resumed, whole), version.name
        lines = logged(tmp_path / version.stem, "train/loss")
        assert lines.items() <= logged(tmp_path, "train/loss").items()


@pytest.mark.parametrize("packing", [True, False])
def test_accumulated_batches_train_like_one_large_batch(corpus, tmp_path, packing):
    weights = {}
    for accumulation in (1, 3):
        data = new_data(corpus, batch_size=6 // accumulation, window=24, packing=packing)
        sgd = MusicModule(new_decoder(data, dropout=0.0), lambda params: torch.optim.SGD(params, lr=0.3), Constant())
        options = {"max_epochs": 2, "accumulate_grad_batches": accumulation, "limit_val_batches": 0, "gradient_clip_val": 0.5}
        new_trainer(tmp_path / str(accumulation), **options).fit(sgd, data)
        weights[accumulation] = sgd.network.state_dict()
        padded = [int((data.train_plan().batch(k)["tokens"] == data.tokenizer.pad_id).sum()) for k in range(6)]
        assert len(set(padded)) == 1 if packing else len(set(padded)) > 1
    assert all(torch.allclose(tensor, weights[3][name], rtol=0, atol=1e-6) for name, tensor in weights[1].items())
    for key in ("train/loss", "train/gradient_norm", "train/tokens"):
        assert logged(tmp_path / "3", key) == pytest.approx(logged(tmp_path / "1", key), rel=1e-5)


def test_a_scaler_of_half_precision_scales_nothing_that_is_clipped_or_logged(corpus, tmp_path):
    half = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=256.0))
    for name, plugins in (("single", None), ("half", [half])):
        data = new_data(corpus, batch_size=2, window=24, packing=False)
        sgd = MusicModule(new_decoder(data, dropout=0.0), lambda params: torch.optim.SGD(params, lr=0.1), Constant())
        options = {"max_steps": 2, "accumulate_grad_batches": 3, "limit_val_batches": 0, "gradient_clip_val": 0.5, "plugins": plugins}
        new_trainer(tmp_path / name, **options).fit(sgd, data)
    for key in ("train/gradient_norm", "train/loss"):
        assert logged(tmp_path / "half", key) == pytest.approx(logged(tmp_path / "single", key), rel=0.02)


def test_validation_counts_every_token_note_and_beat_of_the_pieces_once(corpus, tmp_path):
    data = new_data(corpus)
    network = new_decoder(data)
    torch.nn.init.zeros_(network.embedding.weight if network.head is None else network.head.weight)
    (values,) = new_trainer(tmp_path).validate(MusicModule(network), data, verbose=False)
    pieces = data.store.pieces("valid")
    nats = math.log(data.vocab_size) * sum(int(data.store.length[piece]) - 1 for piece in pieces)
    assert values["val/loss"] == pytest.approx(math.log(data.vocab_size))
    assert values["val/nats_per_note"] == pytest.approx(nats / sum(len(piece.notes) for piece in data.corpus.split("valid")))
    assert values["val/bits_per_beat"] == pytest.approx(nats / math.log(2) / (2 * 10))


@pytest.mark.parametrize("option", ["window", "valid_window"])
def test_windows_beyond_the_decoders_context_are_refused_before_it_starts(corpus, tmp_path, option):
    data = new_data(corpus, **{option: 128})
    with pytest.raises(ValueError, match="Decoder reads at most 64 tokens, but the data's windows have 128"):
        new_trainer(tmp_path, max_steps=1).fit(MusicModule(new_decoder(data)), data)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_window_that_was_begun_is_finished_with_batches_of_another_size(corpus, tmp_path, scheduled):
    def fit(folder, batch_size, accumulation, **options):
        data = new_data(corpus, batch_size=batch_size, window=24, packing=False)
        module = MusicModule(new_decoder(data, dropout=0.0), lambda params: torch.optim.SGD(params, lr=0.3), Constant())
        versions = VersionedCheckpoint(folder / "versions", newest=99, every_n_minutes=0)
        schedule = [AccumulationSchedule(global_batch_tokens={0: 12 * 24, 4: 24 * 24})] if scheduled else []
        own = {} if scheduled else {"accumulate_grad_batches": accumulation}
        every = {"max_steps": 6, "check_val_every_n_epoch": None, "enable_checkpointing": True, "val_check_interval": 4, **own}
        new_trainer(folder, callbacks=[versions, *schedule], **every).fit(module, data, **options)
        return module.network.state_dict(), list_versions(folder / "versions")

    whole, versions = fit(tmp_path / "whole", 4, 3)
    inside = [version.path for version in versions if GRADIENTS in load(version.path)]
    assert len(inside) >= 2
    for number, path in enumerate(inside[:2]):
        finished, _ = fit(tmp_path / str(number), 2, 6, ckpt_path=path)
        assert all(torch.allclose(tensor, whole[name], rtol=0, atol=1e-6) for name, tensor in finished.items()), path.name
