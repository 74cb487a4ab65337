"""Two processes against one: tokens per second of DDP, FSDP and tensor parallelism, what they send, and FSDP's memory per rank.

Speed: the same decoder and the same 4,096 tokens a step, bf16-mixed, in five groups of ranks that take a step each in turn. One process
with one thread is what two processes of one thread each are held against; one process with both threads is what one would do otherwise.

Bytes sent: what each rank wrote to its sockets, as its process counts it, against ``benchmarks.plan``'s formulas.

Memory: FSDP over 1, 2 and 4 ranks, and DDP over 2, of a decoder of some 115 M parameters on few tokens, against 16 bytes a parameter
divided by the ranks: weights, gradients and Adam's two moments in 32 bits.

    python -m benchmarks.scaling
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from benchmarks import plan
from benchmarks.rank_groups import Turn, start
from benchmarks.results_file import write_result
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import Constant
from musictrain.strategies import ShardedStrategy

WARM_UP = 3


@dataclass(frozen=True)
class Setting:
    """How a group trains; ``rows`` are of all ranks together."""

    strategy: str = "one"
    ranks: int = 1
    threads: int = 1
    vocab_size: int = 512
    d_model: int = 256
    num_layers: int = 6
    num_heads: int = 4
    rows: int = 8
    window: int = 512
    precision: str = "bf16-mixed"

    @property
    def tokens_per_step(self) -> int:
        """Targets of a step."""
        return self.rows * self.window

    @property
    def rows_of_a_rank(self) -> int:
        """Tensor parallel ranks share theirs."""
        return self.rows if self.strategy == "tp" else self.rows // self.ranks


GROUPS = {
    "1 process, 1 thread": Setting(),
    "1 process, 2 threads": Setting(threads=2),
    "DDP 2": Setting("ddp", 2),
    "FSDP 2": Setting("fsdp", 2),
    "TP 2": Setting("tp", 2),
}
LARGE = Setting("fsdp", vocab_size=4096, d_model=1024, num_layers=9, num_heads=16, rows=4, window=32, precision="32-true")
MEMORY = {
    "FSDP 1": LARGE,
    "FSDP 2": replace(LARGE, ranks=2),
    "FSDP 4": replace(LARGE, ranks=4),
    "DDP 2": replace(LARGE, strategy="ddp", ranks=2),
}


def strategy_of(setting: Setting) -> Any:
    """Lightning's strategy."""
    makers = {"one": lambda: "auto", "ddp": lambda: DDPStrategy(process_group_backend="gloo"), "fsdp": ShardedStrategy}
    makers["tp"] = lambda: ShardedStrategy(tensor_parallel_size=setting.ranks)
    return makers[setting.strategy]()


class SentSoFar(lightning.Callback):
    """Reads before every step how much the process has sent."""

    def __init__(self) -> None:
        self.written: list[int] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.written.append(bytes_written())


class TurnLoader:
    """The rows of this rank, a batch a turn."""

    def __init__(self, turn: Turn, tokens: Tensor) -> None:
        self.turn, self.tokens = turn, tokens

    def __len__(self) -> int:
        return 10**6

    def __iter__(self) -> Iterator[Tensor]:
        return self.turn.batches(self.tokens)


def train(turn: Turn, report: Path, setting: Setting) -> None:
    """One rank's training, and its report."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(setting.threads)
    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
    resident_before = resident()
    torch.manual_seed(0)
    network = Decoder(setting.vocab_size, setting.d_model, setting.num_layers, setting.num_heads, max_context=setting.window)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    module, counter = MusicModule(network, schedule=Constant()), SentSoFar()
    generator = torch.Generator().manual_seed(int(os.environ.get("RANK", 0)) if setting.strategy != "tp" else 0)
    tokens = torch.randint(1, setting.vocab_size, (setting.rows_of_a_rank, setting.window + 1), generator=generator)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=setting.ranks,
        strategy=strategy_of(setting),
        precision=setting.precision,  # type: ignore[arg-type]
        max_epochs=1,
        logger=False,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[counter],
    )
    at_end: dict[str, int] = {}

    class Last(lightning.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            at_end.update(resident=resident() - resident_before, state=state_bytes(pl_module, trainer.optimizers))

    trainer.callbacks.append(Last())  # type: ignore[attr-defined]
    trainer.fit(module, TurnLoader(turn, tokens))
    counted = counter.written[min(WARM_UP, len(counter.written) - 2) :]
    sent = (counted[-1] - counted[0]) / (len(counted) - 1)
    report.write_text(json.dumps({"parameters": parameters, "sent_per_step": sent, **at_end}))


def bytes_written() -> int:
    """By this process to whatever it writes to; where it trains, its sockets."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["wchar"])


def resident() -> int:
    """Bytes of this process's own memory, without what it shares with the one it was forked from."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()]
    return 1024 * sum(int(words[1]) for words in lines if words[0] in ("Private_Dirty:", "Private_Clean:"))


def state_bytes(module: Any, optimizers: Any) -> int:
    """Of this rank's weights, gradients and optimizer."""
    parameters = list(module.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    moments = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    return sum(_local(tensor).numel() * tensor.element_size() for tensor in (*parameters, *gradients, *moments) if torch.is_tensor(tensor))


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def train_in_turns(
    settings: dict[str, Setting], num_steps: int, longest_seconds: float = 150.0
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, Any]]]]:
    """Seconds of each group's steps, and what its ranks reported; fewer rounds where time is up, but some."""
    with tempfile.TemporaryDirectory() as folder:
        groups = [start(name, setting.ranks, train, setting, folder=Path(folder)) for name, setting in settings.items()]
        end = time.monotonic() + longest_seconds
        for number in range(num_steps):
            if number > 2 * WARM_UP and time.monotonic() > end:
                break
            for group in groups:
                group.step()
        return {group.name: group.seconds for group in groups}, {group.name: group.finish() for group in groups}


def speed(num_steps: int = 18) -> dict[str, Any]:
    """Tokens per second of every group, DDP's efficiency, and bytes sent against the formulas."""
    load_before = os.getloadavg()[0]
    seconds, reports = train_in_turns(GROUPS, num_steps)
    median = {name: statistics.median(steps[WARM_UP:]) for name, steps in seconds.items()}
    one, both = median["1 process, 1 thread"], median["1 process, 2 threads"]
    return {
        "tokens_per_second": {name: round(GROUPS[name].tokens_per_step / each) for name, each in median.items()},
        "speed_up_over_1_process_of_1_thread": {name: round(one / each, 3) for name, each in median.items()},
        "efficiency_of_2_processes": {name: round(one / median[name] / 2, 3) for name in ("DDP 2", "FSDP 2", "TP 2")},
        "against_1_process_of_2_threads": {name: round(both / median[name], 3) for name in ("DDP 2", "FSDP 2", "TP 2")},
        "mb_sent_per_rank_and_step": {name: sent_against_formula(GROUPS[name], reports[name]) for name in ("DDP 2", "FSDP 2", "TP 2")},
        "parameters": reports["DDP 2"][0]["parameters"],
        "setting": asdict(Setting()),
        "steps": len(seconds["DDP 2"]) - WARM_UP,
        "load_average": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }


def sent_against_formula(setting: Setting, reports: list[dict[str, Any]]) -> dict[str, float]:
    """Megabytes that a rank sent in a step, what the plan's formula says, and the one over the other."""
    measured = statistics.mean(report["sent_per_step"] for report in reports)
    model = plan.Model(setting.vocab_size, setting.d_model, setting.num_layers)
    tokens = setting.rows_of_a_rank * setting.window
    expected = plan.bytes_sent(model, setting.strategy, setting.ranks, tokens_of_a_rank=tokens, backend="gloo")
    return {"measured": round(measured / 1e6, 2), "formula": round(expected / 1e6, 2), "ratio": round(measured / expected, 3)}


def memory(num_steps: int = 3) -> dict[str, Any]:
    """Of each group, one after the other: what a rank holds, and what the formula says."""
    table = {}
    for name, setting in MEMORY.items():
        _, reports = train_in_turns({name: setting}, num_steps)
        report = reports[name][0]
        shares = setting.ranks if setting.strategy == "fsdp" else 1
        formula = plan.state_bytes(report["parameters"], shares)
        state = max(each["state"] for each in reports[name])
        table[name] = {
            "formula_mib": round(formula / 2**20),
            "weights_gradients_optimizer_mib": round(state / 2**20),
            "ratio": round(state / formula, 3),
            "resident_mib": round(max(each["resident"] for each in reports[name]) / 2**20),
            "parameters": report["parameters"],
        }
    return table


def kept_bytes(num_layers: int, window: int, d_model: int = 256) -> int:
    """What one forward in bf16-mixed keeps for the way back, beside the weights: every storage once."""
    network = Decoder(64, d_model, num_layers, num_heads=4, max_context=window).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(torch.ones(1, window, dtype=torch.int64))
    del output
    return sum(kept.values())


def activations() -> dict[str, float]:
    """Bytes that a layer keeps of a token, and what the plan's formula says."""
    of_two_layers = [kept_bytes(3, window) - kept_bytes(1, window) for window in (128, 384)]
    measured = (of_two_layers[1] - of_two_layers[0]) / 2 / 256
    formula = plan.Model(64, 256, 1).activation_bytes
    return {"bytes_per_token_and_layer": round(measured), "formula": formula, "ratio": round(measured / formula, 3)}


def main() -> None:
    """Measure and write ``results/scaling.json``."""
    # Kept activations last: they start torch's threads, after which nothing can be forked.
    results = {"memory_of_a_large_model": memory(), "speed": speed(), "activations": activations()}
    write_result("scaling", results)


if __name__ == "__main__":
    main()
