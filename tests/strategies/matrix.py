"""The matrix: real chorales under every way to spread a run, in two precisions, with and without accumulation; killed and resumed.

Each cell is trained in one go, and once more until its last rank is killed, and on from the last version. Every rank writes down what it
saw and decided. Two of a cell's four ranks may live on another node: in a network namespace that they enter after they were forked.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from musictrain.callbacks import RunRecorder, ThroughputReport, VersionedCheckpoint, WriteSamples
from musictrain.checkpoints.catalog import list_versions
from musictrain.data.tokenizers import VoiceGrid
from musictrain.datamodule import MusicDataModule
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import AdamW, WarmupCosine
from musictrain.strategies import ExactDDPStrategy, ShardedStrategy
from tests.ports import free_port
from tests.strategies.ranks import fork, run_ranks, wait_for
from tests.strategies.two_nodes import ADDRESSES, can_make_nodes, two_nodes

ROWS = 16
STEPS = 8
KILLED_IN = 5  # after so many optimizer steps
WINDOW = 64
PRECISIONS = ("32-true", "bf16-mixed")
ACCUMULATIONS = (1, 4)
NEW_NETWORK = 0x40000000  # CLONE_NEWNET


@dataclass(frozen=True)
class Way:
    """One way to spread a run: so many ranks, under a strategy, on one node or two."""

    ranks: int
    strategy: Callable[[], Any]
    nodes: int = 1


WAYS = {
    "one": Way(1, lambda: "auto"),
    "ddp": Way(2, ExactDDPStrategy),
    "fsdp": Way(2, ShardedStrategy),
    "tp": Way(2, lambda: ShardedStrategy(tensor_parallel_size=2)),
    "fsdp+tp": Way(4, lambda: ShardedStrategy(tensor_parallel_size=2)),
    "two nodes": Way(4, ExactDDPStrategy, nodes=2),
}


class Witness(Callback):
    """Writes down what this rank saw: which rows of which batches, what was validated, where it stopped and why; dies if it is told to."""

    def __init__(self, out: Path, die: bool) -> None:
        self.out, self.die = out, die
        self.seen: dict[str, Any] = {"rows": [], "validated": [], "stopped": None}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        columns = zip(*(batch[name].tolist() for name in ("piece", "start", "transpose")), strict=True)
        rows = [f"{piece}:{start}:{shift}" for piece, start, shift in columns]
        self.seen["rows"].append([trainer.global_step, batch["number"], rows])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.die and trainer.global_step == KILLED_IN and trainer.global_rank == trainer.world_size - 1:
            # The versions before are on the disk, or not: either way it must go on from one of them.
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.seen["validated"].append([trainer.global_step, float(trainer.callback_metrics["val/loss"]).hex()])

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        stopping = next(callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping))
        self.seen["stopped"] = [trainer.global_step, stopping.stopped_epoch, stopping.wait_count, str(stopping.stopping_reason)]
        self.seen["train_loss"] = float(trainer.callback_metrics["train/loss"])
        self.out.with_suffix(f".rank{trainer.global_rank}.json").write_text(json.dumps(self.seen), encoding="utf-8")


def train(out: Path, way: Way, precision: Any, accumulate: int, die: bool) -> None:
    """One rank's part; the first one leaves the weights of the end in ``out``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    data = MusicDataModule("chorales", VoiceGrid(36, 81), window=WINDOW, batch_size=ROWS // accumulate, valid_batch_size=ROWS,
                           packing=False, transpose=(-3, 3))  # fmt: skip
    network = Decoder(data.vocab_size, d_model=32, num_layers=2, num_heads=4, dropout=0.0, max_context=256)
    module = MusicModule(network, functools.partial(AdamW, lr=3e-3), WarmupCosine(warmup_steps=2))
    versions = out.parent / out.stem.removesuffix("-killed") / "checkpoints"
    trainer = lightning.Trainer(
        strategy=way.strategy(), devices=way.ranks // way.nodes, num_nodes=way.nodes, accelerator="cpu", precision=precision,
        accumulate_grad_batches=accumulate, max_steps=STEPS, max_epochs=-1, val_check_interval=2 * accumulate, check_val_every_n_epoch=None,
        limit_val_batches=2, num_sanity_val_steps=0, log_every_n_steps=1, gradient_clip_val=1.0, use_distributed_sampler=False,
        logger=False, default_root_dir=str(versions.parent), enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Witness(out, die), EarlyStopping("val/loss", patience=2, min_delta=10.0, check_on_train_epoch_end=False),
                   VersionedCheckpoint(dirpath=versions, every_n_train_steps=2), ThroughputReport(), RunRecorder(),
                   WriteSamples(num=1, continuations=0, beats=2, min_beats=1)],
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path="last" if list_versions(versions) else None)
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if trainer.is_global_zero:
        torch.save(dict(state), out)


CELLS = [(precision, accumulate) for precision in PRECISIONS for accumulate in ACCUMULATIONS]


def train_cells(folder: Path, name: str, what: str) -> None:
    """One rank's part of all cells of a way, one after the other: ranks cost most when they do everything for the first time."""
    for precision, accumulate in CELLS:
        train(folder / f"{name}_{precision}_{accumulate}_{what}.pt", WAYS[name], precision, accumulate, False)


def run_way(folder: Path, name: str, nodes: tuple[str, str] | None) -> None:
    """Train all cells of a way in one go; then kill each, and go on with all in other processes.

    Raises:
        RuntimeError: if one could not be trained, or not be killed.
    """
    way = WAYS[name]
    start = functools.partial(run_ranks, way.ranks) if way.nodes == 1 else functools.partial(run_on_nodes, nodes)
    start(train_cells, folder, name, "whole")
    for precision, accumulate in CELLS:
        killed = folder / f"{name}_{precision}_{accumulate}_resumed-killed.pt"
        with contextlib.suppress(RuntimeError):
            start(train, killed, way, precision, accumulate, True)
        if killed.exists():
            raise RuntimeError(f"{killed.stem} came to its end, and should have been killed.")
    start(train_cells, folder, name, "resumed")


def run_on_nodes(nodes: tuple[str, str], function: Callable[..., Any], *arguments: Any) -> None:
    """As ``run_ranks`` with four ranks, two on each node.

    Raises:
        RuntimeError: if one of them failed or hung.
    """
    shared = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": str(free_port()), "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"GLOO_SOCKET_IFNAME": "eth0", "GROUP_WORLD_SIZE": "2"}
    children = []
    for rank in range(4):
        node = {"GROUP_RANK": str(rank // 2), "NODE_RANK": str(rank // 2), "RANK": str(rank), "LOCAL_RANK": str(rank % 2)}
        children.append(fork(on_node, (nodes[rank // 2], function, *arguments), {**shared, **node}))
    if failed := wait_for(children, time.monotonic() + 600):
        raise RuntimeError(f"Of 4 ranks on two nodes these failed or hung: {failed}.")


def on_node(name: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Enter a network namespace, and call."""
    with Path(f"/run/netns/{name}").open("rb") as network:
        if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "the namespace cannot be entered")
    function(*arguments)


def run_all(folder: Path) -> None:
    """Every cell, those on two nodes where this machine lets us."""
    logging.disable(logging.INFO)
    MusicDataModule("chorales", VoiceGrid(36, 81), window=WINDOW).prepare_data()
    for name, way in WAYS.items():
        if way.nodes == 1:
            run_way(folder, name, None)
    if can_make_nodes():
        with two_nodes() as nodes:
            for name, way in WAYS.items():
                if way.nodes == 2:
                    run_way(folder, name, nodes)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
