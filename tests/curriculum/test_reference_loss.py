"""Windows ordered by what a stored version finds hard: its likelihood on every stretch, found again after its run has gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch.nn import functional

from musictrain.callbacks import CurriculumSchedule, RunLogger, RunRecorder, VersionedCheckpoint
from musictrain.checkpoints.reference_loss import find_reference, loss_by_stretch
from musictrain.checkpoints.stored_network import stored_network
from musictrain.data.orderings import Stretches
from musictrain.data.tokenizers import VoiceGrid
from musictrain.datamodule import MusicDataModule
from musictrain.models.decoder import Decoder
from musictrain.module import MusicModule
from musictrain.optim import Constant
from musictrain.runs import RunFolder
from tests.checkpoints.exact_runs import quiet
from tests.cli.tiny import tiny_config, write_config, write_corpus
from tests.tiny_runs import QUIET

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "frames.json", pieces=5, frames=40)


def data_of(corpus: Path, folder: Path, **changes: Any) -> MusicDataModule:
    return MusicDataModule(**{"corpus": str(corpus), "window": 32, "batch_size": 2, "cache_dir": str(folder / "cache"), **changes})


def module_of(data: MusicDataModule) -> MusicModule:
    torch.manual_seed(5)
    return MusicModule(Decoder(data.vocab_size, d_model=8, num_layers=1, num_heads=2, max_context=64), schedule=Constant())


def fit(run: RunFolder, corpus: Path, folder: Path, steps: int, *callbacks: Any, ckpt_path: Any = None, **changes: Any) -> Any:
    data = data_of(corpus, folder, **changes)
    saving = VersionedCheckpoint(run.checkpoints, every_n_train_steps=2, newest=100, every_n_minutes=0)
    options: dict[str, Any] = {**QUIET, "enable_checkpointing": True, "max_steps": steps, "max_epochs": -1, "limit_val_batches": 0}
    trainer = lightning.Trainer(
        **options, logger=RunLogger(folder=run.path), callbacks=[*callbacks, saving, RunRecorder()], default_root_dir=run.path
    )
    seen: list[torch.Tensor] = []
    module = module_of(data)
    module.on_train_batch_start = lambda batch, *_: seen.append(batch["tokens"])  # type: ignore[method-assign, assignment]
    with quiet():
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return seen


@pytest.fixture(scope="module")
def reference(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose versions can be built again."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "2026-01-01_100000-teacher-calm-fugue")
    fit(run, corpus, run.path.parent, 4)
    network = {"d_model": 8, "num_layers": 1, "num_heads": 2, "max_context": 64}
    config = tiny_config(corpus)
    config["model"]["init_args"]["network"]["init_args"] = network
    write_config(run.config, config)
    return run


def test_the_loss_of_a_stretch_is_the_mean_over_its_targets(reference: RunFolder, corpus: Path, tmp_path: Path) -> None:
    data = data_of(corpus, tmp_path)
    data.setup("validate")
    found = find_reference("calm-fugue@last", reference.path.parent)
    stretches = Stretches.of(data.store, data.tokenizer.tokens_per_step)
    ordering = loss_by_stretch(found, data, stretches)
    network = stored_network(reference, Path(found.path), data.vocab_size).network
    expected: dict[int, list[float]] = {}
    for piece in data.store.pieces("train").tolist():
        tokens = torch.tensor(np.asarray(data.store.piece(piece)), dtype=torch.int64)
        for start in range(0, len(tokens) - 1, data.window):
            row = tokens[start : start + data.window + 1]
            with torch.no_grad():
                nll = functional.cross_entropy(network(row[None, :-1])[0], row[1:], reduction="none")
            for place, value in enumerate(nll.tolist()):
                expected.setdefault(int(stretches.first[piece]) + (start + 1 + place) // stretches.size, []).append(value)
    assert {stretch for stretch in range(len(stretches)) if ordering.weight[stretch]} == set(expected)
    for stretch, values in expected.items():
        assert ordering.value[stretch] == pytest.approx(np.mean(values), rel=1e-5)
        assert ordering.weight[stretch] == len(values)


def schedule(text: str, runs: Path) -> CurriculumSchedule:
    difficulty = {"until": 20, "start": 0.3}
    return CurriculumSchedule(difficulty=difficulty, orderings={"reference_loss": 1.0}, reference=text, runs=str(runs))


def test_a_run_goes_on_by_the_losses_it_began_with_though_a_better_version_or_none_is_there_now(
    reference: RunFolder, corpus: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(reference.path, copied := runs / reference.path.name)
    whole, run = RunFolder(runs / "whole"), RunFolder(runs / "run")
    expected = fit(whole, corpus, tmp_path, 8, schedule("calm-fugue@last", runs))
    plain = fit(RunFolder(runs / "plain"), corpus, tmp_path, 8)
    assert not all(torch.equal(one, other) for one, other in zip(expected, plain, strict=True))
    first = fit(run, corpus, tmp_path, 4, schedule("calm-fugue@last", runs))
    for version in RunFolder(copied).checkpoints.glob("v*_step000004*"):
        version.unlink()  # an earlier one is the last now
    then = fit(run, corpus, tmp_path, 6, schedule("calm-fugue@last", runs), ckpt_path="last")
    shutil.rmtree(copied)
    later = fit(run, corpus, tmp_path, 8, schedule("calm-fugue@last", runs), ckpt_path="last")
    assert [len(each) for each in (first, then, later)] == [4, 2, 2]
    for one, other in zip(expected, [*first, *then, *later], strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_a_reference_is_refused(reference: RunFolder, corpus: Path, tmp_path: Path) -> None:
    runs = reference.path.parent
    with pytest.raises(ValueError, match=r"CurriculumSchedule.reference: .*calm-fuge"):
        fit(RunFolder(tmp_path / "a"), corpus, tmp_path, 2, schedule("calm-fuge", runs))
    with pytest.raises(ValueError, match=r"calm-fugue, v000.* was trained with another tokenizer"):
        fit(RunFolder(tmp_path / "b"), corpus, tmp_path, 2, schedule("calm-fugue", runs), tokenizer=VoiceGrid(lowest=30))
    with pytest.raises(ValueError, match="by which nothing is ordered: name it, orderings"):
        CurriculumSchedule(difficulty={"until": 9}, orderings={"surprisal": 1.0}, reference="calm-fugue")
    with pytest.raises(ValueError, match=r"orderings names reference_loss, but no network's losses are there"):
        fit(
            RunFolder(tmp_path / "c"),
            corpus,
            tmp_path,
            2,
            CurriculumSchedule(difficulty={"until": 9, "start": 0.3}, orderings={"reference_loss": 1.0}),
        )
