"""Packing of checkpoints: how much smaller and how fast, against gzip, zstandard and blosc2, on one thread.

Trains two networks on Bach's chorales for 150 steps each: the shipped recipe's, whose averaged weights are in the checkpoint too and a
quarter of whose moments are zeros (chords no chorale has), and a small Decoder, which has neither. Their checkpoints are measured whole,
and as weights rounded to bfloat16.

Every ratio is of whole files as ``torch.save`` writes them. Speeds are megabytes of plain input a second, best of five rounds in which
the codecs take turns (gzip: one); with ``optimizer`` and ``gzip``, of the tensors they pack. Those by processor
time leave out what other programs did meanwhile. What comes back is compared bit by bit.

    python -m benchmarks.packing                    train, measure, write benchmarks/results/packing.json
    python -m benchmarks.packing FILE.ckpt ...      measure these checkpoints, and print only
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

from benchmarks.packing_codecs import CODECS, ROUNDS, Codec, packable, saved
from benchmarks.results_file import write_result
from musictrain.data.tokenizers import VoiceGrid
from musictrain.datamodule import MusicDataModule
from musictrain.models import Decoder, VoiceFrames
from musictrain.module import MusicModule
from musictrain.optim import AdamW, WarmupCosine

STEPS = 150
WEIGHTS_ALONE = ", bf16 weights alone"
LEAVES_WEIGHTS = ("musictrain optimizer", "musictrain gzip")
TARGETS = {"pack_mb_per_second": 300, "ratio optimizer": 1.13, "ratio all": 1.19, "ratio bf16 weights": 1.5}


# Checkpoints to measure.


def checkpoint_of_recipe(folder: str) -> dict[str, Any]:
    """What ``configs/chorales.yaml`` has after 150 steps: weights, an average of them, two moments."""
    data = MusicDataModule(tokenizer=VoiceGrid(36, 81), window=768, batch_size=12, packing=False, align=64, transpose=(-6, 6))
    network = VoiceFrames(data.vocab_size, 36, 81)
    return _trained(network, data, folder, 0.002, EMAWeightAveraging(decay=0.99, update_starting_at_step=50))


def checkpoint_of_decoder(folder: str) -> dict[str, Any]:
    """A Decoder of 4.8 million parameters after 150 steps: weights and two moments."""
    data = MusicDataModule(tokenizer=VoiceGrid(36, 81), window=128, batch_size=4)
    return _trained(Decoder(data.vocab_size, d_model=256, num_layers=6, num_heads=4), data, folder, 0.001)


def _trained(network: torch.nn.Module, data: MusicDataModule, folder: str, lr: float, *callbacks: Callback) -> dict[str, Any]:
    module = MusicModule(network, partial(AdamW, lr=lr, betas=(0.9, 0.99), weight_decay=0.05), WarmupCosine(warmup_steps=40))
    trainer = lightning.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        default_root_dir=folder,
        limit_val_batches=0,
        callbacks=list(callbacks),
        **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),  # type: ignore[arg-type]
    )
    trainer.fit(module, data)
    path = Path(folder) / "whole.ckpt"
    trainer.save_checkpoint(path)
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def bf16_weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The weights alone, rounded to bfloat16."""
    return {"state_dict": {name: tensor.bfloat16() for name, tensor in checkpoint["state_dict"].items()}}


# Measuring.


class Seconds(NamedTuple):
    """By the wall, and as far as the processor worked for this process."""

    wall: float
    processor: float


@dataclass
class Row:
    """Seconds of each round, and what came out."""

    codec: Codec
    pack_seconds: list[Seconds] = field(default_factory=list)
    unpack_seconds: list[Seconds] = field(default_factory=list)
    stored_bytes: int = 0
    exact: bool = True

    def take_turn(self, tree: Any, file: bytes) -> None:
        source = file if self.codec.stored_bytes is len else tree
        packed, seconds = _timed(self.codec.pack, source)
        self.pack_seconds.append(seconds)
        unpacked, seconds = _timed(self.codec.unpack, packed)
        self.unpack_seconds.append(seconds)
        if not self.stored_bytes:
            self.stored_bytes = self.codec.stored_bytes(packed)
            self.exact = _bytes_of(unpacked) == _bytes_of(source)

    def facts(self, tree: Any, file: bytes) -> dict[str, Any]:
        size = self.codec.input_bytes(file if self.codec.stored_bytes is len else tree) / 1e6
        return {
            "ratio": round(len(file) / self.stored_bytes, 3),
            "pack_mb_per_second": round(size / min(seconds.wall for seconds in self.pack_seconds)),
            "unpack_mb_per_second": round(size / min(seconds.wall for seconds in self.unpack_seconds)),
            "pack_mb_per_processor_second": round(size / min(seconds.processor for seconds in self.pack_seconds)),
            "unpack_mb_per_processor_second": round(size / min(seconds.processor for seconds in self.unpack_seconds)),
            "exact": self.exact,
        }


def _timed(action: Callable[[Any], Any], value: Any) -> tuple[Any, Seconds]:
    start = Seconds(time.perf_counter(), time.process_time())
    result = action(value)
    return result, Seconds(time.perf_counter() - start.wall, time.process_time() - start.processor)


def _bytes_of(value: Any) -> Any:
    """What has to be equal: a file's bytes, or those of every tensor worth packing."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list) and all(isinstance(item, bytearray) for item in value):
        return [bytes(item) for item in value]
    return [tensor.view(-1).view(torch.uint8).numpy().tobytes() for tensor in packable(value)]


class Table:
    """The rows of one checkpoint."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree, self.file = tree, saved(tree)
        self.rows: dict[str, Row] = {}
        self.skipped: dict[str, str] = {}
        for name, codec in CODECS.items():
            if name in LEAVES_WEIGHTS and set(tree) == {"state_dict"}:
                self.skipped[name] = "skipped: there are weights only"
                continue
            try:
                self.rows[name] = Row(codec())
            except ImportError as error:
                self.skipped[name] = f"skipped: {error.name} is not installed"

    def take_turn(self, turn: int) -> None:
        for row in self.rows.values():
            if turn < row.codec.rounds:
                row.take_turn(self.tree, self.file)

    def facts(self) -> dict[str, Any]:
        """What was measured, in the order of the codecs."""
        facts = {**self.skipped, **{name: row.facts(self.tree, self.file) for name, row in self.rows.items()}}
        return {"file_bytes": len(self.file), "codecs": {name: facts[name] for name in CODECS}}


def measure(checkpoints: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The tables of checkpoints, whole and as bf16 weights. Each round goes through all of them: a busy minute falls on all alike."""
    tables: dict[str, Table] = {}
    for title, checkpoint in checkpoints.items():
        tables |= {title: Table(checkpoint), f"{title}{WEIGHTS_ALONE}": Table(bf16_weights(checkpoint))}
    for turn in range(ROUNDS):
        for table in tables.values():
            table.take_turn(turn)
    results = {title: table.facts() for title, table in tables.items()}
    for title in checkpoints:
        packed = tables[f"{title}{WEIGHTS_ALONE}"].rows["musictrain all"].stored_bytes
        results[f"{title}{WEIGHTS_ALONE}"]["times smaller than the whole"] = round(len(tables[title].file) / packed, 2)
    return results


def as_text(title: str, table: dict[str, Any]) -> str:
    """The table for people."""
    lines = [f"{title}, {table['file_bytes'] / 1e6:.1f} MB", f"  {'':34}{'ratio':>7}{'pack MB/s':>11}{'unpack MB/s':>13}"]
    for name, facts in table["codecs"].items():
        if isinstance(facts, str):
            lines.append(f"  {name:34}{facts}")
        else:
            speeds = f"{facts['pack_mb_per_second']:11,}{facts['unpack_mb_per_second']:13,}"
            lines.append(f"  {name:34}{facts['ratio']:7.3f}{speeds}{'' if facts['exact'] else '  NOT EXACT'}")
    if times := table.get("times smaller than the whole"):
        lines.append(f"  packed by musictrain: {times:.1f} times smaller than the whole")
    return "\n".join(lines)


def installed(*libraries: str) -> dict[str, str]:
    """Versions of the libraries that are installed."""
    found = {"zlib": zlib.ZLIB_RUNTIME_VERSION}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measure the checkpoints named on the command line, or train two and write ``results/packing.json``."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description="Packing of checkpoints, measured.")
    parser.add_argument("files", nargs="*", type=Path, help="checkpoints to measure; without any, two are trained")
    files = parser.parse_args().files
    makers = {"shipped recipe": checkpoint_of_recipe, "decoder": checkpoint_of_decoder}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {path.stem: torch.load(path, weights_only=True, map_location="cpu") for path in files}
        checkpoints = checkpoints or {title: make(folder) for title, make in makers.items()}
    load_average = os.getloadavg()[0]
    torch.set_num_threads(1)
    results = measure(checkpoints)
    print("\n\n".join(as_text(title, table) for title, table in results.items()) + "\n", flush=True)
    facts = {
        "targets": TARGETS,
        "threads": 1,
        "load_average": round(load_average, 1),
        "libraries": installed("zstandard", "blosc2", "numpy"),
    }
    if files:
        print(json.dumps({**results, **facts}, indent=2))
    else:
        write_result("packing", {**results, **facts})


if __name__ == "__main__":
    main()
