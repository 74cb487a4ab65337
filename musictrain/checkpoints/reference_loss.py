"""What a stored version finds hard: the loss of a finished network on every stretch of the training pieces, to order windows by.

Source: Hacohen and Weinshall 2019, "On the power of curriculum learning in training deep networks", who order by a network trained before
(bootstrapping), or by a teacher.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from musictrain.checkpoints.chosen_version import find_version
from musictrain.checkpoints.seal import SealError, read_seal
from musictrain.checkpoints.stored_network import stored_network
from musictrain.checkpoints.weights import name_of
from musictrain.contract import check_alignment, check_context
from musictrain.data.evaluation_batches import EvaluationPlan
from musictrain.data.orderings import Ordering, Stretches, TargetSums
from musictrain.runs import RunFolder


@dataclass(frozen=True)
class Reference:
    """A stored version whose losses are asked for.

    Args:
        path: of the version.
        run: in whose folder it lies, empty for a file elsewhere.
        fingerprint: of its content.
        tokenizer: fingerprint of the tokenizer it was trained with, empty if it does not say.
    """

    path: str
    run: str
    fingerprint: str
    tokenizer: str

    @property
    def name(self) -> str:
        """Run and version."""
        return f"{Path(self.run).name}, {name_of(Path(self.path))}" if self.run else self.path


def find_reference(text: str, runs_dir: str | Path | None = None) -> Reference:
    """The version that a text such as ``calm-fugue@best`` means: see ``find_version``.

    Args:
        text: what was typed.
        runs_dir: the folder of all runs; None is ``$MUSICTRAIN_RUNS``, else ``runs``.

    Raises:
        ValueError: if there is none.
        OSError: if it cannot be read.
    """
    run, path = find_version(text, Path(runs_dir or os.environ.get("MUSICTRAIN_RUNS", "runs")))
    try:
        seal = read_seal(path)
        fingerprint, tokenizer = seal.sha256, seal.tokenizer
    except SealError:
        with path.open("rb") as file:
            fingerprint, tokenizer = hashlib.file_digest(file, "sha256").hexdigest(), ""
    return Reference(str(path), "" if run is None else str(run.path), fingerprint[:16], tokenizer)


def loss_by_stretch(reference: Reference, datamodule: Any, stretches: Stretches, device: torch.device | None = None) -> Ordering:
    """Mean nats a token of each stretch of the training pieces, read in windows as long as the data module's, each piece in its own key.

    Raises:
        NetworkError: if the version's network cannot be built.
        ValueError: if it reads no windows that long.
    """
    run = RunFolder(Path(reference.run)) if reference.run else None
    stored = stored_network(run, Path(reference.path), datamodule.vocab_size)
    check_context(stored.network, datamodule.window)
    check_alignment(stored.network, False, datamodule.window)
    tokenizer, store = datamodule.tokenizer, datamodule.store
    rows = datamodule.valid_batch_size or datamodule.batch_size
    plan = EvaluationPlan(store, store.pieces("train"), datamodule.window, rows, tokenizer.tokens_per_step, tokenizer.pad_id)
    return measured(stored.network.to(device or torch.device("cpu")), plan, TargetSums(stretches))


@torch.no_grad()
def measured(network: nn.Module, plan: EvaluationPlan, sums: TargetSums) -> Ordering:
    """What a network in eval mode makes of every batch of a plan, put together by stretch."""
    device = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    for number in range(plan.num_batches):
        batch = plan.batch(number)
        tokens = batch["tokens"].to(device)
        read, targets = tokens[:, :-1], tokens[:, 1:]
        nll = nn.functional.cross_entropy(network(read).float().transpose(1, 2), targets, reduction="none")
        nll = nll.masked_fill(targets == plan.pad_id, torch.nan)
        sums.add(batch["piece"].tolist(), batch["start"].tolist(), nll.double().cpu().numpy())
    return sums.ordering()
