"""Teachers and students for the tests of distillation: stored where a run's version could be, or as a file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from musictrain.distillation import Distillation
from musictrain.models import Decoder
from musictrain.module import MusicModule
from tests.tiny_runs import VOCAB, new_module

SIZES: dict[str, Any] = {"vocab_size": VOCAB, "d_model": 8, "num_layers": 2, "num_heads": 2, "max_context": 64}
SMALL: dict[str, Any] = {**SIZES, "d_model": 4, "num_layers": 1}


def store_teacher(path: Path, *, seed: int = 3, tokenizer: dict[str, str] | None = None, **sizes: Any) -> Path:
    """A file as Lightning writes one, of a Decoder that nobody has trained."""
    torch.manual_seed(seed)
    arguments = {**SIZES, **sizes}
    network = Decoder(**arguments)
    with torch.no_grad():
        for each in network.parameters():
            each.add_(torch.randn_like(each) / 2)  # so that it has opinions
    described = {"class_path": "musictrain.Decoder", "init_args": arguments}
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    data = {} if tokenizer is None else {"MusicDataModule": {"tokenizer": tokenizer}}
    torch.save({"state_dict": state, "hyper_parameters": {"network": described}, "global_step": 5, **data}, path)
    return path


def teacher_of(path: Path) -> nn.Module:
    """The network in such a file."""
    stored = torch.load(path, weights_only=True)
    network = Decoder(**stored["hyper_parameters"]["network"]["init_args"])
    network.load_state_dict({name.removeprefix("network."): value for name, value in stored["state_dict"].items()})
    return network.eval()


def student(
    teacher: Path | str, network: nn.Module | None = None, *, options: dict[str, Any] | None = None, **settings: Any
) -> MusicModule:
    """A module that learns from it; always the same at first."""
    torch.manual_seed(1)
    network = Decoder(**SMALL, dropout=0.2) if network is None else network
    return new_module(network, distillation=Distillation(str(teacher), **settings), **(options or {}))


def soft_loss(student_logits: Tensor, teacher_logits: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """KL in nats, the mean over the counted tokens, as the textbook has it."""
    student_log, teacher = (student_logits / temperature).log_softmax(-1), (teacher_logits / temperature).softmax(-1)
    return (teacher * (teacher.log() - student_log)).sum(-1)[counted].mean()
