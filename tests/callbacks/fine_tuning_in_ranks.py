"""Fine-tunings under every strategy, each in ranks forked from one program: some weights frozen, some held back, deep ones slower."""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from musictrain.callbacks import GradualUnfreezing, VersionedCheckpoint
from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.starting_weights import start_from
from musictrain.checkpoints.weights import read_tree
from musictrain.cli.starting import OptimizerStart
from musictrain.data.loading import batch_loader
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant
from musictrain.strategies import ExactDDPStrategy, ShardedStrategy
from tests.checkpoints.exact_runs import EPOCH, Numbered, PositionKeepingData
from tests.strategies.ranks import run_ranks
from tests.strategies.trainings import decoder

WAYS: dict[str, tuple[int, Any]] = {
    "one": (1, lambda: "auto"),
    "ddp": (2, ExactDDPStrategy),
    "fsdp": (2, ShardedStrategy),
    "tp": (2, lambda: ShardedStrategy(tensor_parallel_size=2)),
}
STEPS, RESUMED_AT = 5, 2
SCHEDULE = {"blocks.0": 3, "blocks.1.attention": 1}


class Shared(PositionKeepingData):
    """Goes on with the batch after the last one, whose rows are dealt out."""

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        deal = self.trainer.distributed_sampler_kwargs or {}
        rank, ranks = deal.get("rank", 0), deal.get("num_replicas", 1)
        return batch_loader(Numbered(EPOCH), first=self._next, rank=rank, world_size=ranks)


def train(folder: Path, way: str, what: str) -> None:
    """One rank's part of a training: ``whole``, ``resumed`` from a version of it, or ``begun`` with one of ``one``'s."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    devices, strategy = WAYS[way]
    module = MusicModule(decoder(), functools.partial(AdamW, lr=1e-2), Constant(), layer_decay=0.7, frozen=["embedding"])
    callbacks: list[Any] = [GradualUnfreezing(SCHEDULE, warmup_steps=1)]
    callbacks += [VersionedCheckpoint(folder / f"{way}-{what}", every_n_train_steps=1, newest=9, monitor=None)]
    path = next((each.path for each in list_versions(folder / f"{way}-whole") if each.step == RESUMED_AT), None)
    if what == "begun":
        (source,) = (each.path for each in list_versions(folder / "one-whole") if each.step == STEPS)
        tree, path = read_tree(source), None
        start_from(module, tree)
        callbacks.append(OptimizerStart(tree, None, "one"))
    options = {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False, "logger": False}
    options |= {"limit_val_batches": 0}
    trainer = lightning.Trainer(
        strategy=strategy(), devices=devices, accelerator="cpu", max_steps=STEPS, max_epochs=-1, gradient_clip_val=0.5,
        default_root_dir=folder / "scratch", callbacks=callbacks, **options,
    )  # fmt: skip
    trainer.fit(module, Shared(), ckpt_path=path if what == "resumed" else None)
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if trainer.is_global_zero:
        torch.save(dict(state), folder / f"{way}-{what}.pt")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    for each in sys.argv[2:] or WAYS:
        for kind in ("whole", "resumed", "begun"):
            run_ranks(WAYS[each][0], train, Path(sys.argv[1]), each, kind)
