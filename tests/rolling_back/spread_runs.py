"""Fits of several processes that go back, forked from one program; each strategy's runs leave a folder of its name.

python -m tests.rolling_back.spread_runs FOLDER
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from musictrain import rolling_back
from musictrain.callbacks import EMAWeightAveraging, RunLogger, RunRecorder, VersionedCheckpoint
from musictrain.datamodule import MusicDataModule
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import Constant
from musictrain.runs import RunFolder
from musictrain.strategies import ShardedStrategy
from musictrain.strategies.exact_ddp import ExactDDPStrategy
from tests.cli.tiny import write_corpus
from tests.rolling_back.going_back import Spoiler
from tests.strategies.ranks import run_ranks

BAD = 4
STRATEGIES: dict[str, tuple[int, Callable[[], Any]]] = {
    "ddp": (2, DDPStrategy),
    "exact ddp": (2, ExactDDPStrategy),
    "fsdp": (2, ShardedStrategy),
    "tp": (2, lambda: ShardedStrategy(tensor_parallel_size=2)),
}


def train(folder: Path, corpus: Path, strategy: str, meets: bool) -> None:
    """One fit of one rank; without the bad batch it passes it over from the beginning. Weights and what was met are left behind."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    devices, make = STRATEGIES[strategy]
    data = MusicDataModule(str(corpus), window=32, batch_size=4)
    network = Decoder(data.vocab_size, d_model=16, num_layers=2, num_heads=2, max_context=64, dropout=0.1)
    module = MusicModule(network, schedule=Constant())
    spoiler = Spoiler(BAD, later=1)
    if not meets:
        data.pass_over(BAD, BAD)
    trainer = lightning.Trainer(
        strategy=make(), devices=devices, accelerator="cpu", max_steps=8, max_epochs=-1, limit_val_batches=1, val_check_interval=3,
        check_val_every_n_epoch=None, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, num_sanity_val_steps=0,
        use_distributed_sampler=False, logger=RunLogger(folder=folder),
        callbacks=[spoiler, EMAWeightAveraging(decay=0.9), VersionedCheckpoint(folder / "checkpoints", every_n_train_steps=2),
                   RunRecorder()],
    )  # fmt: skip
    rolling_back.fit(trainer, module, datamodule=data)
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    torch.save({"state": dict(state), "seen": spoiler.seen, "step": trainer.global_step}, folder / f"rank{trainer.global_rank}.pt")


def run_all(folder: Path) -> None:
    """By each strategy a run that meets the bad batch, and one that never does."""
    corpus = write_corpus(folder / "frames.json", pieces=6)
    MusicDataModule(str(corpus), window=32, batch_size=4).prepare_data()
    for strategy, (devices, _) in STRATEGIES.items():
        for name in ("spoiled", "straight"):
            RunFolder(folder / strategy / name).path.mkdir(parents=True)
            run_ranks(devices, train, folder / strategy / name, corpus, strategy, name == "spoiled")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    run_all(Path(sys.argv[1]))
