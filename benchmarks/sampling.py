"""How much faster sampling is with the cache of keys and values than without, in one run on this machine.

Each number is the time of making 512 tokens by ``generate`` with an untrained Decoder (d_model 256, 6 layers). With the cache that
is one call. Without it, one token is made at every 32nd length, and its time stands for the 32 lengths around it. The best of
several rounds counts, in which both take turns.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.results_file import write_result
from musictrain.generation import generate
from musictrain.models import Decoder

VOCAB_SIZE = 359
"""Of VoiceGrid."""


def seconds(network: Decoder, batch_size: int, prompt_length: int, new_tokens: int, use_cache: bool) -> float:
    """Wall time of one call of ``generate``."""
    prompt = torch.zeros(batch_size, prompt_length, dtype=torch.int64)
    start = time.perf_counter()
    generate(network, prompt, max_new_tokens=new_tokens, use_cache=use_cache)
    return time.perf_counter() - start


def seconds_without_cache(network: Decoder, batch_size: int, length: int, stride: int) -> float:
    """Wall time of making ``length`` tokens without the cache, from one token in every ``stride`` lengths."""
    return sum(stride * seconds(network, batch_size, at, 1, use_cache=False) for at in range(stride // 2, length, stride))


def measure(batch_sizes: tuple[int, ...] = (1, 8), length: int = 512, rounds: int = 3, threads: int | None = None) -> dict[str, Any]:
    """Milliseconds a token with and without the cache, and their ratio, by batch size; ``threads`` of torch, its default if left out."""
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = Decoder(VOCAB_SIZE)
    seconds(network, 1, 1, 8, use_cache=True)
    result: dict[str, Any] = {"tokens": length, "threads": torch.get_num_threads()}
    for batch_size in batch_sizes:
        with_cache, without = [], []
        for _ in range(rounds):
            with_cache.append(seconds(network, batch_size, 1, length - 1, use_cache=True))
            without.append(seconds_without_cache(network, batch_size, length, stride=32))
        result[f"batch_{batch_size}"] = {
            "ms_per_step_with_cache": round(1000 * min(with_cache) / length, 3),
            "ms_per_step_without_cache": round(1000 * min(without) / length, 3),
            "ratio": round(min(without) / min(with_cache), 1),
        }
    return result


def main() -> None:
    """Measures, prints the result and keeps it in ``benchmarks/results/sampling.json``."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--threads", type=int, help="torch threads; torch's default if left out")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    write_result("sampling", measure(rounds=arguments.rounds, threads=arguments.threads))


if __name__ == "__main__":
    main()
