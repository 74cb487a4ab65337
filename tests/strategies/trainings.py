"""Small trainings under every strategy, each in ranks forked from one program; what they come to is left in files."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils.data import DataLoader

from musictrain.models import Decoder, Recurrent
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant
from musictrain.strategies import ShardedStrategy
from tests.strategies.ranks import run_ranks

VOCAB = 40
STEPS = 5
OF_THE_MODULE = ("adaptive_clip",)
"""Options of a training that are MusicModule's; all others are the Trainer's."""


class Batches(lightning.LightningDataModule):
    """The same random batches of four rows on any number of ranks, each of which gets its share of the rows."""

    def __init__(self, vocab: int = VOCAB) -> None:
        super().__init__()
        self.vocab = vocab

    def train_dataloader(self) -> DataLoader:
        deal = self.trainer.distributed_sampler_kwargs or {}  # type: ignore[union-attr]
        rank, ranks = deal.get("rank", 0), deal.get("num_replicas", 1)
        generator = torch.Generator().manual_seed(3)
        batches = torch.randint(1, self.vocab, (STEPS, 4, 17), generator=generator)
        return DataLoader([batch[rank::ranks] for batch in batches], batch_size=None)


class Foreign(nn.Module):
    """A network of somebody else's, who calls his layers `layers` and has never heard of parallelism."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 16)
        self.inner = nn.Module()
        self.inner.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(3))
        self.out = nn.Linear(16, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        stream = self.embed(tokens)
        for layer in self.inner.layers:
            stream = stream + layer(stream)
        return self.out(stream)


class OwnModule(lightning.LightningModule):
    """Somebody else's LightningModule around it, with an optimizer of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Foreign()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def decoder(vocab: int = VOCAB, max_context: int = 32, **options: Any) -> nn.Module:
    """Two layers whose branches do something from the first step on."""
    network = Decoder(vocab, d_model=32, num_layers=2, num_heads=4, dropout=0.0, max_context=max_context, **options)
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "decoder": decoder,
    "untied": functools.partial(decoder, tie_embeddings=False),
    # A head that two devices cannot split stays whole, beside weights in shares in one group of the optimizer.
    "odd": functools.partial(decoder, vocab=VOCAB + 1, tie_embeddings=False),
    "recurrent": lambda: Recurrent(VOCAB, d_model=16, hidden=16, num_layers=1, dropout=0.0),
    "foreign": Foreign,
}
STRATEGIES: dict[str, tuple[int, Callable[[], Any]]] = {
    "one": (1, lambda: "auto"),
    "ddp": (2, DDPStrategy),
    "fsdp": (2, ShardedStrategy),
    "alone": (1, ShardedStrategy),
    "recomputing": (2, lambda: ShardedStrategy(activation_checkpointing=True)),
    "layers": (2, lambda: ShardedStrategy(blocks="inner.layers", activation_checkpointing=True)),
    "model_layers": (2, lambda: ShardedStrategy(blocks="model.inner.layers")),
    "bf16_gathered": (2, lambda: ShardedStrategy(gather_dtype="bf16")),
    "tp": (2, lambda: ShardedStrategy(tensor_parallel_size=2)),
    "fsdp+tp": (4, lambda: ShardedStrategy(tensor_parallel_size=2)),
}


def train(out: Path, network: str, strategy: Callable[[], Any], devices: int, options: dict[str, Any]) -> None:
    """Train a few steps; the first rank leaves weights and metrics in ``out``, or the words of what was refused."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    own = {name: value for name, value in options.items() if name in OF_THE_MODULE}
    options = {name: value for name, value in options.items() if name not in OF_THE_MODULE}
    module: Any = (
        OwnModule() if network == "own" else MusicModule(NETWORKS[network](), functools.partial(AdamW, lr=1e-2), Constant(), **own)
    )
    trainer = lightning.Trainer(
        strategy=strategy(), devices=devices, accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1, use_distributed_sampler=False, **options,
    )  # fmt: skip
    try:
        trainer.fit(module, Batches())
    except ValueError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            torch.save({"error": str(error)}, out)
        return
    saved = trainer.strategy.optimizer_state(trainer.optimizers[0])
    state = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if trainer.is_global_zero:
        names = {name: type(parameter).__name__ for name, parameter in module.named_parameters()}
        torch.save(
            {"state": dict(state), "metrics": trainer.callback_metrics, "names": names, "fused": saved["param_groups"][0].get("fused")}, out
        )


TRAININGS: list[tuple[str, str, dict[str, Any]]] = [
    *(("decoder", strategy, {"gradient_clip_val": 0.5}) for strategy in ("one", "ddp", "fsdp", "alone", "recomputing", "tp", "fsdp+tp")),
    *(("untied", strategy, {"gradient_clip_val": 0.5}) for strategy in ("one", "fsdp", "tp", "fsdp+tp")),
    *(("odd", strategy, {"gradient_clip_val": 0.5}) for strategy in ("one", "tp", "fsdp+tp")),
    *(("decoder", strategy, {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2})
      for strategy in ("one", "fsdp", "tp", "fsdp+tp")),
    *(("decoder", strategy, {"adaptive_clip": 0.02}) for strategy in ("one", "ddp", "fsdp", "tp", "fsdp+tp")),
    *((network, strategy, {}) for network in ("recurrent",) for strategy in ("one", "fsdp", "tp")),
    *(("foreign", strategy, {"gradient_clip_val": 0.5}) for strategy in ("one", "fsdp", "layers", "tp", "model_layers")),
    *(("own", strategy, {"gradient_clip_val": 0.5}) for strategy in ("one", "fsdp", "model_layers")),
    *(("decoder", strategy, {"precision": "bf16-mixed"}) for strategy in ("one", "fsdp", "bf16_gathered", "tp")),
    *(("decoder", strategy, {"precision": "bf16-true"}) for strategy in ("one", "fsdp", "tp")),
]  # fmt: skip


def name_of(network: str, strategy: str, options: dict[str, Any]) -> str:
    """The file a training leaves."""
    return "-".join([network, strategy, *(str(value) for key, value in sorted(options.items()) if key != "gradient_clip_val")]) + ".pt"


def run_all(folder: Path) -> None:
    """Every training, one after the other, each in ranks of its own."""
    for network, strategy, options in TRAININGS:
        devices, make = STRATEGIES[strategy]
        run_ranks(devices, train, folder / name_of(network, strategy, options), network, make, devices, options)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    run_all(Path(sys.argv[1]))
