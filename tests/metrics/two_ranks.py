"""Two processes that each feed a metric their half of the pieces, and what both compute."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch.distributed as dist

from tests.strategies.ranks import run_ranks


def take_part(folder: Path, function: Callable[[int], object]) -> None:
    """One rank's part."""
    dist.init_process_group("gloo")
    values = function(dist.get_rank())
    dist.barrier()
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(values))
    dist.destroy_process_group()


def values_of_two_ranks(repository: Path, folder: Path, module: str, function: str) -> tuple[object, object]:
    """What ``function(rank)`` of a test module gives back on either of two ranks, as JSON holds it."""
    words = [sys.executable, "-m", "tests.metrics.two_ranks", str(folder), module, function]
    done = subprocess.run(words, cwd=repository, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    return first, second


if __name__ == "__main__":
    run_ranks(2, take_part, Path(sys.argv[1]), getattr(import_module(sys.argv[2]), sys.argv[3]))
