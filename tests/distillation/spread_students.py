"""A student under every strategy, each in ranks forked from one program; what it comes to is left in files."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from musictrain.distillation import Distillation
from musictrain.module import MusicModule
from musictrain.optim import Constant, WarmupCosine
from tests.distillation.teachers import store_teacher
from tests.strategies.ranks import run_ranks
from tests.strategies.trainings import STRATEGIES, VOCAB, Batches, decoder

WAYS = ("one", "ddp", "fsdp", "tp", "fsdp+tp")


def train(out: Path, teacher: Path, strategy: Callable[[], Any], devices: int) -> None:
    """Five batches, two a step; the first rank leaves the whole state and what was logged last."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = MusicModule(
        decoder(),
        functools.partial(torch.optim.SGD, lr=0.1),
        Constant(),
        label_smoothing=0.1,
        distillation=Distillation(
            str(teacher), weight=0.7, weight_schedule=WarmupCosine(warmup_steps=0), hidden={"blocks.0": "blocks.1"}, precision="32-true"
        ),
    )
    trainer = lightning.Trainer(
        strategy=strategy(), devices=devices, accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, use_distributed_sampler=False,
        accumulate_grad_batches=2, default_root_dir=out.parent,
    )  # fmt: skip
    trainer.fit(module, Batches())
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    teachers = {type(each).__name__ for each in module.distilling.teacher.network.parameters()}
    if trainer.is_global_zero:
        torch.save({"state": dict(state), "metrics": dict(trainer.callback_metrics), "teacher": sorted(teachers)}, out)


def run_all(folder: Path) -> None:
    """Every strategy, one after the other."""
    teacher = store_teacher(folder / "teacher.ckpt", vocab_size=VOCAB)
    for way in WAYS:
        devices, make = STRATEGIES[way]
        run_ranks(devices, train, folder / f"{way}.pt", teacher, make, devices)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    run_all(Path(sys.argv[1]))
