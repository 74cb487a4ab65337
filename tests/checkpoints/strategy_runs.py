"""One tiny decoder trained under every strategy: forked ranks, versions every other step, and what each resume said of itself."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint import FileSystemWriter

from musictrain.callbacks import EMAWeightAveraging, VersionedCheckpoint, WriteSamples
from musictrain.checkpoints.catalog import list_versions
from musictrain.checkpoints.whole_network import whole_network
from musictrain.data.loading import batch_loader
from musictrain.data.tokenizers import VoiceGrid
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.strategies import ShardedStrategy
from tests.checkpoints.exact_runs import EPOCH, Numbered, PositionKeepingData, quiet
from tests.strategies.ranks import run_ranks
from tests.tiny_runs import PAD, QUIET, VOCAB, ForeignNetwork, new_module

RANKS = {"single": 1, "ddp": 2, "fsdp": 2, "tp": 2, "fsdp+tp": 4}
SAVED, END = 2, 4
"""The step whose version is gone on from, and the last one."""


class DealtOut(PositionKeepingData):
    """The same batches for every number of ranks, each reading its rows."""

    def train_dataloader(self) -> Any:
        share = self.trainer.distributed_sampler_kwargs or {}  # type: ignore[union-attr]
        return batch_loader(Numbered(EPOCH), first=self._next, rank=share.get("rank", 0), world_size=share.get("num_replicas", 1))


def strategy_of(kind: str, **options: Any) -> Any:
    """What a Trainer takes for one of RANKS."""
    if kind in ("single", "ddp"):
        return {"single": "auto", "ddp": "ddp"}[kind]
    return ShardedStrategy(tensor_parallel_size=2 if "tp" in kind else 1, **options)


def decoder() -> Decoder:
    """Two blocks of 16 channels; the same at every call."""
    torch.manual_seed(3)
    return Decoder(vocab_size=VOCAB, d_model=16, num_layers=2, num_heads=2, max_context=32, dropout=0.0)


def train(
    folder: Path,
    kind: str,
    *callbacks: Callback,
    steps: int = END,
    ckpt_path: Path | str | None = None,
    saving: dict[str, Any] | None = None,
    network: Any = decoder,
    data: Any = DealtOut,
    pad_id: int | None = PAD,
    optimizer: Any = torch.optim.AdamW,
    **options: Any,
) -> tuple[lightning.Trainer, MusicModule]:
    """Fit in this rank, with a version every other step in ``folder``; a resume leaves its report there as report.json."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    versions = VersionedCheckpoint(folder, **{"every_n_train_steps": 2, "newest": 1000, "every_n_minutes": 0, **(saving or {})})
    few = {"devices": RANKS[kind], "strategy": strategy_of(kind), "use_distributed_sampler": False, "limit_val_batches": 0}
    every = {**few, "max_steps": steps, "enable_checkpointing": True, "logger": False, "default_root_dir": folder.parent}
    trainer = lightning.Trainer(**{**QUIET, **every, **options}, callbacks=[*callbacks, versions])
    module = new_module(network(), optimizer=partial(optimizer, lr=0.01), pad_id=pad_id)
    with quiet():
        trainer.fit(module, datamodule=data(), ckpt_path=ckpt_path)
    if versions.report is not None and trainer.is_global_zero:
        (folder / "report.json").write_text(json.dumps(versions.report.as_record(), default=str))
    return trainer, module


def version_at(folder: Path, step: int) -> Path:
    """The version of a step."""
    return next(version.path for version in list_versions(folder) if version.step == step)


def resume_from_all(folder: Path, kind: str) -> None:
    for before in RANKS:
        train(folder / f"{before} to {kind}", kind, ckpt_path=version_at(folder / before, SAVED))


def every_pair(folder: Path) -> None:
    """Each strategy's own run, then each going on from what each has saved."""
    for kind, ranks in RANKS.items():
        run_ranks(ranks, train, folder / kind, kind)
    for kind, ranks in RANKS.items():
        run_ranks(ranks, resume_from_all, folder, kind)


AVERAGED = {"single": 1, "fsdp": 2, "tp": 2}


def train_averaged(folder: Path, kind: str, **options: Any) -> None:
    """The same with a moving average, which is validated at every other step, in the middle of an epoch."""
    validation = {"limit_val_batches": 1, "val_check_interval": 2}
    train(folder, kind, EMAWeightAveraging(decay=0.7), **{**validation, **options})


def average_from_all(folder: Path, kind: str) -> None:
    for before in AVERAGED:
        train_averaged(folder / f"{before} to {kind}", kind, ckpt_path=version_at(folder / before, SAVED))


def averages(folder: Path) -> None:
    """Runs with a moving average, each gone on from under each strategy; and one that writes a single file from shares."""
    for kind, ranks in AVERAGED.items():
        run_ranks(ranks, train_averaged, folder / kind, kind)
    for kind, ranks in AVERAGED.items():
        run_ranks(ranks, average_from_all, folder, kind)
    run_ranks(2, one_file, folder / "one file")


def one_file(folder: Path) -> None:
    train_averaged(folder, "fsdp", strategy=ShardedStrategy(save_distributed_checkpoint=False))
    train_averaged(folder / "on", "fsdp", ckpt_path=version_at(folder, SAVED))


class Whole(Callback):
    """Holds the network put together at the end against the last version, and asks it for logits."""

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        network = whole_network(trainer, pl_module)
        assert (network is None) is not trainer.is_global_zero
        if network is not None:
            logits = network.eval()(torch.arange(8)[None]).detach()
            torch.save((network.state_dict(), logits), Path(trainer.default_root_dir) / "whole.pt")


class Music(DealtOut):
    """Batches whose tokens can be played."""

    tokenizer = VoiceGrid(lowest=60, highest=64, steps_per_beat=1)


def play(folder: Path, kind: str) -> None:
    """Samples after a validation and from the best version at the end; then a network that fails while it is played from."""
    tokens = partial(Decoder, Music.tokenizer.vocab_size, 16, 2, 2, max_context=64)
    options = {"limit_val_batches": 1, "val_check_interval": 2, "data": Music, "network": tokens, "pad_id": None}
    samples = {"num": 1, "continuations": 0, "beats": 2, "min_beats": 1}
    train(folder / "checkpoints", kind, WriteSamples(every=1, **samples), Whole(), **options)
    unlucky = WriteSamples(every=1, **samples)
    unlucky._play = lambda *arguments: 1 / 0  # type: ignore[assignment, return-value]
    trainer, _ = train(folder / "unlucky", kind, unlucky, **options)
    assert trainer.global_step == END


def players(folder: Path) -> None:
    """Runs in shares that play what they have learned."""
    for kind in ("fsdp", "tp"):
        run_ranks(2, play, folder / kind, kind)


def kill_while_writing(folder: Path) -> None:
    """The last process dies in the middle of writing its share of the version of step 4."""
    writes = FileSystemWriter.write_data

    def dying(self: FileSystemWriter, *arguments: Any) -> Any:
        done = writes(self, *arguments)
        if "step000004" in str(self.path) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    FileSystemWriter.write_data = dying  # type: ignore[method-assign]
    train(folder, "fsdp", steps=8)


def write_into_a_full_disk(folder: Path) -> None:
    """The second process finds no room at step 2, the first for what is not sharded at step 4; at step 8 there is room after a removal."""
    writes, saves, tries = FileSystemWriter.write_data, torch.save, []
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_room(self: FileSystemWriter, *arguments: Any) -> Any:
        tries.append(str(self.path))
        first_of_eight = len([each for each in tries if "step000008" in each]) == 1 and "step000008" in str(self.path)
        if os.environ["RANK"] == "1" and ("step000002" in str(self.path) or first_of_eight):
            raise full
        return writes(self, *arguments)

    def no_room_beside(tree: Any, file: Any, *arguments: Any, **options: Any) -> None:
        if "step000004" in str(file):
            raise full
        saves(tree, file, *arguments, **options)

    FileSystemWriter.write_data, torch.save = no_room, no_room_beside  # type: ignore[method-assign]
    train(folder, "fsdp", steps=8, saving={"newest": 2})


def broken_off(folder: Path) -> None:
    """Saves that do not come to an end, and a run that goes on after the first of them."""
    with contextlib.suppress(RuntimeError):
        run_ranks(2, kill_while_writing, folder / "killed", timeout_seconds=300)
    (folder / "left").write_text("\n".join(sorted(path.name for path in (folder / "killed").iterdir())))
    run_ranks(2, partial(train, steps=8, ckpt_path="last"), folder / "killed", "fsdp")
    run_ranks(2, partial(train, steps=8), folder / "whole", "fsdp")
    run_ranks(2, write_into_a_full_disk, folder / "full")


class Tied(ForeignNetwork):
    """Predicts with the matrix it embeds with, under two names."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)
        self.head.weight = self.embedding.weight


def keep_by_rule(folder: Path) -> None:
    """Of the versions of tied weights in bfloat16 some are thinned to files, and all go to a mirror; one process goes on from the last."""
    rules = {"newest": 1, "keep_every_n_steps": 2, "thin_after": 1, "monitor": None, "mirror": str(folder / "mirror")}
    train(folder / "kept", "fsdp", steps=8, saving=rules, network=Tied, precision="bf16-true")


def refuse(folder: Path) -> None:
    """Another network or optimizer than a sharded version's, and a damaged one: what each process says."""
    rank, small = os.environ["RANK"], partial(Decoder, VOCAB, 8, 2, 2, max_context=32)
    damaged = shutil.copytree(version_at(folder / "sound", END), folder / f"damaged{rank}" / "v000003_step000004.ckpt")
    (damaged / "__1_0.distcp").write_bytes(b"damaged")
    said = [
        refused(folder / "a", ckpt_path=version_at(folder / "sound", SAVED), network=small),
        refused(folder / "b", ckpt_path=version_at(folder / "sound", SAVED), optimizer=torch.optim.SGD),
        refused(folder / "c", ckpt_path=damaged),
    ]
    (folder / f"said{rank}").write_text("\n".join(said))


def refused(folder: Path, **options: Any) -> str:
    try:
        train(folder, "fsdp", **options)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def oddities(folder: Path) -> None:
    """What is kept by rule, and what is refused."""
    run_ranks(2, keep_by_rule, folder)
    options = {"network": Tied, "precision": "bf16-true", "ckpt_path": version_at(folder / "kept", 8), "steps": 10}
    run_ranks(1, partial(train, **options), folder / "on", "single")
    run_ranks(2, train, folder / "sound", "fsdp")
    run_ranks(2, refuse, folder)


def in_windows(folder: Path, kind: str, **options: Any) -> None:
    """Windows of four batches, with validations inside of them."""
    windows = {"accumulate_grad_batches": 4, "val_check_interval": 3, "check_val_every_n_epoch": None, "limit_val_batches": 1}
    train(folder, kind, saving={"every_n_train_steps": 0}, **{**windows, "max_epochs": -1, **options})


def windows(folder: Path) -> None:
    """One process saves inside a window, plainly or as the only one of a sharded run; others go on."""
    run_ranks(1, in_windows, folder / "whole", "single")
    run_ranks(1, partial(in_windows, devices=1), folder / "alone", "fsdp")
    for before, kind in (("whole", "ddp"), ("whole", "fsdp"), ("alone", "fsdp"), ("alone", "single")):
        going_on = partial(in_windows, ckpt_path=version_at(folder / before, 1))
        run_ranks(RANKS[kind], going_on, folder / f"{before} to {kind}", kind)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
