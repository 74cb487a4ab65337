"""What training over many devices takes, on paper: memory per device, bytes sent per step, seconds, tokens per second, MFU.

The formulas are for musictrain's Decoder, Adam and mixed precision (weights, gradients and moments in 32 bits, products in bfloat16):

- weights ``P``: a block has ``4 d^2 + 3 d f`` in products (``f`` is the width of its feed-forward layer) and ``2 d`` in norms
- FLOPs of a token, forward and backward: ``6 x weights in products + 12 x layers x window x d``, attention in full
- state of a rank: ``16 P / shares`` bytes; DDP holds another ``4 P`` of buckets, FSDP two gathered blocks beside its shares
- activations of a token and layer: ``ACTIVATION_BYTES``; with activation checkpointing the stream, ``4 d``, and one block's in full
- a ring over n ranks sends, per rank, ``2 (n-1)/n`` of what is summed everywhere, and ``(n-1)/n`` of what is gathered or scattered

``benchmarks.scaling`` holds them against what two processes really sent and held; configs/several_nodes/plan_64_gpus.md reads the table.

    python -m benchmarks.plan
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.results_file import RESULTS, write_result

BYTES_PER_PARAMETER = 16
GIB = 2**30
# What tensor parallelism sums over its ranks for each token and channel of a layer: on the way there two outputs in bfloat16, on the way
# back the gradients of what attention and feed-forward layer read, in 32 bits.
TP_BYTES = 2 * 2 + 2 * 4


@dataclass(frozen=True)
class Model:
    """A Decoder's sizes."""

    vocab_size: int = 8192
    d_model: int = 2048
    num_layers: int = 20
    ff_multiple: float = 8 / 3

    @property
    def ff_hidden(self) -> int:
        """Width of the feed-forward layer."""
        return 32 * math.ceil(self.ff_multiple * self.d_model / 32)

    @property
    def block_weights(self) -> int:
        """Of one block."""
        return 4 * self.d_model**2 + 3 * self.d_model * self.ff_hidden + 2 * self.d_model

    @property
    def root_weights(self) -> int:
        """Outside the blocks: the embedding, which is the head too, and the last norm."""
        return self.vocab_size * self.d_model + self.d_model

    @property
    def weights(self) -> int:
        """All."""
        return self.num_layers * self.block_weights + self.root_weights

    def flops_per_token(self, window: int) -> int:
        """Forward and backward."""
        norms = (2 * self.num_layers + 1) * self.d_model
        return 6 * (self.weights - norms) + 12 * self.num_layers * self.d_model * window

    @property
    def activation_bytes(self) -> int:
        """What a layer keeps of a token for the way back, in mixed precision.

        In units of d: the stream before each norm (4 + 4), what goes into six of the products, in bfloat16 (2 each), queries, keys and
        values (2 each), dropout's masks (2 + 2); in units of f: gate, up, silu and their product (2 each).
        """
        return ACTIVATION_UNITS_D * self.d_model + ACTIVATION_UNITS_F * self.ff_hidden


ACTIVATION_UNITS_D = 2 * 4 + 6 * 2 + 3 * 2 + 2 * 2
ACTIVATION_UNITS_F = 2 * 4


def state_bytes(parameters: int, shares: int = 1) -> float:
    """Weights, gradients and Adam's two moments of a rank that holds one of so many shares."""
    return BYTES_PER_PARAMETER * parameters / shares


def ring(ranks: int) -> float:
    """Share of a tensor that each rank sends when all gather or scatter it."""
    return (ranks - 1) / ranks


def bytes_sent(
    model: Model,
    strategy: str,
    ranks: int,
    *,
    tokens_of_a_rank: int = 0,
    gather_bytes: int = 4,
    tensor_parallel: int = 1,
    backend: str = "nccl",
) -> float:
    """By each rank in a step.

    DDP sums gradients in 32 bits. FSDP gathers every block on the way there and back, the rest once, and scatters the summed gradients.
    Tensor parallelism sums activations and their gradients (see ``TP_BYTES``).

    Args:
        model: its sizes.
        strategy: ``ddp``, ``fsdp``, ``tp`` or ``fsdp+tp``.
        ranks: of all.
        tokens_of_a_rank: that a rank reads in a step.
        gather_bytes: of a gathered weight: 4, or 2 with ``gather_dtype: bf16``.
        tensor_parallel: ranks that share rows under ``fsdp+tp``.
        backend: ``nccl`` scatters a sum in one round; ``gloo`` sums everywhere, in two, and throws the rest away.
    """
    if strategy == "ddp":
        return 2 * ring(ranks) * 4 * model.weights
    if strategy == "fsdp":
        gathered = gather_bytes * (2 * model.num_layers * model.block_weights + model.root_weights)
        scattered = 4 * model.weights * (2 if backend == "gloo" else 1)
        return ring(ranks) * (gathered + scattered)
    if strategy == "tp":
        return 2 * ring(ranks) * TP_BYTES * model.num_layers * tokens_of_a_rank * model.d_model
    data = bytes_sent(model, "fsdp", ranks // tensor_parallel, gather_bytes=gather_bytes) / tensor_parallel
    return data + bytes_sent(model, "tp", tensor_parallel, tokens_of_a_rank=tokens_of_a_rank)


@dataclass(frozen=True)
class Cluster:
    """The devices that are assumed, and how fast they are.

    Args:
        nodes: machines.
        devices_per_node: in each.
        memory_gib: of a device.
        peak_tflops: of a device in bfloat16, by its data sheet.
        usable_tflops: that a training step of one device alone reaches.
        within_gb: gigabytes a second a device sends to others of its node.
        between_gb: gigabytes a second a node sends to other nodes.
        usable_links: share of both that collectives reach.
    """

    nodes: int = 8
    devices_per_node: int = 8
    memory_gib: float = 80.0
    peak_tflops: float = 989.0
    usable_tflops: float = 400.0
    within_gb: float = 450.0
    between_gb: float = 50.0
    usable_links: float = 0.8

    @property
    def devices(self) -> int:
        """Of all nodes."""
        return self.nodes * self.devices_per_node


@dataclass(frozen=True)
class Way:
    """One way to train: words and keys of the command line."""

    words: str
    strategy: str
    gather_bytes: int = 4
    tensor_parallel: int = 1
    checkpointing: bool = False


WAYS = (
    Way("ddp", "ddp"),
    Way("fsdp", "fsdp"),
    Way("fsdp, gather_dtype bf16", "fsdp", gather_bytes=2),
    Way("fsdp, gather_dtype bf16, activation_checkpointing", "fsdp", gather_bytes=2, checkpointing=True),
    Way("fsdp+tp, 32 x 2, gather_dtype bf16", "fsdp+tp", gather_bytes=2, tensor_parallel=2),
    Way("fsdp+tp, 8 x 8, the same and activation_checkpointing", "fsdp+tp", gather_bytes=2, tensor_parallel=8, checkpointing=True),
)


def memory_gib(model: Model, way: Way, ranks: int, tokens: int) -> dict[str, float]:
    """Of a device: state, what is gathered or kept beside it, activations, logits; and their sum.

    Autocast keeps every weight's copy in bfloat16 for the way back, unless weights are gathered in bfloat16 in the first place.
    """
    shares = 1 if way.strategy == "ddp" else ranks
    gathered = 4 * model.weights if way.strategy == "ddp" else way.gather_bytes * 2 * model.block_weights / way.tensor_parallel
    if way.gather_bytes == 4:
        gathered += 2 * model.weights / way.tensor_parallel
    per_token = float(model.num_layers * model.activation_bytes)
    if way.checkpointing:
        per_token = 4 * model.d_model * model.num_layers + model.activation_bytes
    if way.tensor_parallel > 1 and not way.checkpointing:
        # Queries, keys, values, what they gather and the feed-forward layer are dealt out; the streams stand on every device.
        split = 4 * 2 * model.d_model + ACTIVATION_UNITS_F * model.ff_hidden
        per_token -= model.num_layers * split * (1 - 1 / way.tensor_parallel)
    logits = 2 * 2 * model.vocab_size
    parts = {
        "state": state_bytes(model.weights, shares),
        "gathered": gathered,
        "activations": tokens * per_token,
        "logits": tokens * logits,
    }
    parts = {name: value / GIB for name, value in parts.items()}
    return {**parts, "sum": sum(parts.values())}


def seconds(model: Model, way: Way, cluster: Cluster, tokens: int, window: int) -> dict[str, float]:
    """Of a step: computing, sending between and within nodes, and what of the sending does not hide behind computing.

    Gradients of DDP travel during the way back (two thirds of the computing); FSDP's gathers and scatters during all of it, but for the
    first and the last block; sums of tensor parallelism are waited for.
    """
    share = tokens / way.tensor_parallel
    extra = 4 / 3 if way.checkpointing else 1.0
    computing = extra * share * model.flops_per_token(window) / (1e12 * cluster.usable_tflops)
    data_ranks = cluster.devices // way.tensor_parallel
    data_strategy = "ddp" if way.strategy == "ddp" else "fsdp"
    # All devices of a node share its link. One ring through every device crosses it once; of tensor parallel shares there is a ring each.
    data = bytes_sent(model, data_strategy, data_ranks, gather_bytes=way.gather_bytes)
    between = data / (1e9 * cluster.between_gb * cluster.usable_links)
    within = 0.0
    if way.tensor_parallel > 1:
        within = bytes_sent(model, "tp", way.tensor_parallel, tokens_of_a_rank=tokens) / (1e9 * cluster.within_gb * cluster.usable_links)
    hidden = computing * (2 / 3 if way.strategy == "ddp" else 1 - 1 / model.num_layers)
    waiting = max(0.0, between - hidden) + within
    return {"computing": computing, "between": between, "within": within, "waiting": waiting, "step": computing + waiting}


def table(model: Model, cluster: Cluster, *, tokens_per_device: int, window: int) -> Iterator[dict[str, Any]]:
    """A row for each way; ranks that share rows read those of all of them, so that a step has the same tokens."""
    for way in WAYS:
        tokens = tokens_per_device * way.tensor_parallel
        memory = memory_gib(model, way, cluster.devices, tokens)
        took = seconds(model, way, cluster, tokens, window)
        rate = tokens_per_device * cluster.devices / took["step"]
        options: dict[str, Any] = {"tokens_of_a_rank": tokens, "gather_bytes": way.gather_bytes, "tensor_parallel": way.tensor_parallel}
        sent = bytes_sent(model, way.strategy, cluster.devices, **options)
        yield {
            "way": way.words,
            "state_gib": round(memory["state"], 1),
            "memory_gib": round(memory["sum"], 1),
            "gb_sent": round(sent / 1e9, 1),
            "computing_ms": round(1000 * took["computing"]),
            "sending_ms": round(1000 * (took["between"] + took["within"])),
            "waiting_ms": round(1000 * took["waiting"]),
            "tokens_per_second": round(rate, -4),
            "mfu": round(rate * model.flops_per_token(window) / (cluster.devices * cluster.peak_tflops * 1e12), 2),
        }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The table as configs/several_nodes/plan_64_gpus.md has it."""
    heads = {
        "way": "strategy and keys", "state_gib": "state, GiB", "memory_gib": "memory, GiB", "gb_sent": "sent, GB",
        "computing_ms": "computing, ms", "sending_ms": "sending, ms", "waiting_ms": "not hidden, ms", "tokens_per_second": "tokens/s",
        "mfu": "MFU",
    }  # fmt: skip
    lines = [f"| {' | '.join(heads.values())} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for row in rows:
        cells = [f"{row['tokens_per_second'] / 1e6:.2f} M" if name == "tokens_per_second" else f"{row[name]}" for name in heads]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def the_plan(tokens_per_device: int = 16_384, window: int = 4096) -> dict[str, Any]:
    """The model of a billion parameters on 64 devices."""
    model, cluster = Model(), Cluster()
    rows = list(table(model, cluster, tokens_per_device=tokens_per_device, window=window))
    return {
        "parameters": model.weights,
        "gflops_per_token": round(model.flops_per_token(window) / 1e9, 2),
        "tokens_per_step": tokens_per_device * cluster.devices,
        "rows": rows,
    }


def checked() -> dict[str, Any]:
    """The formulas against what two processes did, from ``results/scaling.json``; empty if it was not measured."""
    path = RESULTS / "scaling.json"
    if not path.is_file():
        return {}
    measured = json.loads(path.read_text())
    sent = {name: each["ratio"] for name, each in measured["speed"]["mb_sent_per_rank_and_step"].items()}
    held = {name: each["ratio"] for name, each in measured["memory_of_a_large_model"].items()}
    return {"bytes_sent": sent, "state": held, "activations": measured["activations"]["ratio"]}


def main() -> None:
    """Print the table and write ``results/plan.json``."""
    plan = the_plan()
    print(as_markdown(plan["rows"]))
    write_result("plan", {**plan, "measured_over_formula": checked()})


if __name__ == "__main__":
    main()
