"""``compile: true`` against false: tokens per second in 32 bits and in bf16-mixed, and the seconds until the first step is done.

The same decoder twice in one process, one of them compiled, a step each in turn. Each precision has two processes of its own: the first
compiles into an empty folder (cold), the second finds what the first left there (warm), as a second run does.

    python -m benchmarks.compile
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.results_file import write_result
from musictrain.compiling import compile_in_place
from musictrain.losses import next_token_loss
from musictrain.models import Decoder
from musictrain.optim import AdamW, parameter_groups

VOCAB, ROWS, WINDOW = 512, 8, 512
STEPS = {"cold": 8, "warm": 4}
WARM_UP = 2
TIMEOUT_SECONDS = 280


class Loop:
    """MusicModule's step without a Trainer."""

    def __init__(self, network: nn.Module, *, bf16: bool) -> None:
        self.network, self.bf16 = network.train(), bf16
        self.optimizer = AdamW(parameter_groups(network))

    def step(self, tokens: Tensor) -> float:
        """Seconds of one step."""
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            loss = next_token_loss(self.network(tokens[:, :-1]), tokens[:, 1:], pad_id=0).loss
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return time.perf_counter() - start


def new_network(d_model: int = 256, num_layers: int = 6) -> Decoder:
    """The decoder, the same at every call."""
    torch.manual_seed(0)
    return Decoder(VOCAB, d_model, num_layers, num_heads=4, max_context=WINDOW)


def measure(precision: str, num_steps: int) -> dict[str, Any]:
    """Seconds until the first compiled step is done, and the ratio of speeds after it."""
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    tokens = torch.randint(1, VOCAB, (ROWS, WINDOW + 1), generator=torch.Generator().manual_seed(0))
    compiled = new_network()
    compile_in_place(compiled)
    off, on = (Loop(network, bf16=precision == "bf16-mixed") for network in (new_network(), compiled))
    first = on.step(tokens)
    pairs = [(off.step(tokens), on.step(tokens)) for _ in range(num_steps)][WARM_UP:]
    seconds_off, seconds_on = (statistics.median(steps) for steps in zip(*pairs, strict=True))
    return {
        "seconds_to_start": round(first - seconds_on, 1),
        "ratio": round(seconds_off / seconds_on, 3),
        "tokens_per_second": {"off": round(ROWS * WINDOW / seconds_off), "on": round(ROWS * WINDOW / seconds_on)},
        "steps": len(pairs),
        "load_average": round(os.getloadavg()[0], 1),
    }


def in_a_process(precision: str, num_steps: int, cache: str) -> dict[str, Any]:
    """Measure in a new process that keeps what it compiles in ``cache``."""
    words = [sys.executable, "-m", "benchmarks.compile", precision, str(num_steps)]
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and write ``results/compile.json``; with a precision and a number of steps, measure that here and print it."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    results: dict[str, Any] = {"threads": min(2, os.cpu_count() or 1), "tokens_per_step": ROWS * WINDOW, "d_model": 256}
    for precision in ("32-true", "bf16-mixed"):
        with tempfile.TemporaryDirectory() as cache:
            cold = in_a_process(precision, STEPS["cold"], cache)
            warm = in_a_process(precision, STEPS["warm"], cache)
        starting = {"cold": cold.pop("seconds_to_start"), "warm": warm["seconds_to_start"]}
        results[precision] = {**cold, "seconds_to_start": starting}
    write_result("compile", results)


if __name__ == "__main__":
    main()
