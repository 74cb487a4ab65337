"""Two processes that each feed a metric their half of the pieces, and what both compute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
from pathlib import Path
import torch.distributed as dist
from importlib import import_module
rank, folder, module, function = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
values = getattr(import_module(module), function)(rank)
dist.barrier()
(folder / f"{rank}.json").write_text(json.dumps(values))
dist.destroy_process_group()
"""


def values_of_two_ranks(repository: Path, folder: Path, module: str, function: str) -> tuple[object, object]:
    """What ``function(rank)`` of a test module gives back on either of two ranks, as JSON holds it."""
    words = [[sys.executable, "-c", SCRIPT, str(rank), str(folder), module, function] for rank in range(2)]
    running = [subprocess.Popen(each, cwd=repository, stderr=subprocess.PIPE, text=True) for each in words]
    try:
        errors = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)[-3000:]
    first, second = (json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    return first, second
