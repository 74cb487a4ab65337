"""Curricula under every strategy, each in ranks forked from one program: what each rank read, what was decided, and the weights."""

from __future__ import annotations

import functools
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from musictrain.callbacks import CurriculumSchedule, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.datamodule import MusicDataModule
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant
from musictrain.strategies import ShardedStrategy
from tests.data.test_mixed_corpora import frames
from tests.strategies.ranks import run_ranks
from tests.strategies.trainings import decoder

WAYS: dict[str, tuple[int, Any]] = {
    "one": (1, lambda: "auto"),
    "fsdp": (2, ShardedStrategy),
    "tp": (2, lambda: ShardedStrategy(tensor_parallel_size=2)),
}
STEPS, RESUMED_AT = 10, 4
MIXTURE = {"start": {"folk": 0.9, "bach": 0.1}, "end": {"bach": 1.0}}
EASY = {"surprisal": 1.0, "note_density": 0.5}
CURRICULA: dict[str, dict[str, Any]] = {
    "steps": {
        "difficulty": {"until": 8, "start": 0.2},
        "orderings": EASY,
        "length": {"until": 6, "start": 0.25},
        "mixture": {**MIXTURE, "until": 8},
    },
    "value": {
        "by": "value",
        "goal": 4.5,
        "delay": 2,
        "difficulty": {"start": 0.2},
        "orderings": EASY,
        "length": {"start": 0.25},
        "mixture": MIXTURE,
    },
}


class Witness(Callback):
    """Keeps the batches of this rank."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        rows = zip(*(batch[name].tolist() for name in ("piece", "start", "transpose")), batch["tokens"].tolist(), strict=True)
        self.seen.append([trainer.global_step, batch["number"], [list(row) for row in rows]])


def train(folder: Path, way: str, by: str, what: str) -> None:
    """One rank's part of a training: ``whole``, or ``resumed`` from a version of it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    devices, strategy = WAYS[way]
    corpus = f"{folder / 'folk.json'}+{folder / 'bach.json'}"
    data = MusicDataModule(corpus, window=64, batch_size=4, cache_dir=str(folder / "cache"), valid_corpus="bach")
    module = MusicModule(decoder(data.vocab_size, max_context=64), functools.partial(AdamW, lr=1e-2), Constant())
    curriculum, witness, name = CurriculumSchedule(**CURRICULA[by]), Witness(), f"{way}-{by}"
    versions = VersionedCheckpoint(folder / f"{name}-{what}", every_n_train_steps=1, newest=99, monitor=None)
    path = next((each.path for each in list_versions(folder / f"{name}-whole") if each.step == RESUMED_AT), None)
    trainer = lightning.Trainer(
        strategy=strategy(), devices=devices, accelerator="cpu", max_steps=STEPS, max_epochs=-1, val_check_interval=2,
        check_val_every_n_epoch=None, limit_val_batches=1, num_sanity_val_steps=0, log_every_n_steps=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder / "scratch",
        callbacks=[curriculum, witness, versions],
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=path if what == "resumed" else None)
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    assert curriculum.course is not None
    told = {"seen": witness.seen, "table": [[each.first, each.competence] for each in curriculum.course.table]}
    (folder / f"{name}-{what}.rank{trainer.global_rank}.json").write_text(json.dumps(told))
    if trainer.is_global_zero:
        torch.save(dict(state), folder / f"{name}-{what}.pt")


def train_all(folder: Path, way: str, what: str) -> None:
    """Both curricula, one after the other: ranks cost most when they do everything for the first time."""
    for by in CURRICULA:
        train(folder, way, by, what)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    place = Path(sys.argv[1])
    for seed, corpus_name in enumerate(("folk", "bach")):
        frames(place / f"{corpus_name}.json", seed, train=8, valid=2, test=1)
    for each in sys.argv[2:] or WAYS:
        for kind in ("whole", "resumed"):
            run_ranks(WAYS[each][0], train_all, place, each, kind)
