"""Under what a run trains: what a resume report compares, and what a seal vouches for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer

from musictrain.runs.config_changes import config_fingerprint
from musictrain.runs.environment import PACKAGES, git_state, package_versions


def circumstances_of(trainer: Trainer, config: str | None) -> dict[str, Any]:
    """Plain values: processes, precision, threads, versions, commit, and the configuration if it is known."""
    packages = {name: version or "" for name, version in package_versions(PACKAGES).items()}
    commit = (git_state(Path.cwd()) or {}).get("commit", "")
    facts: dict[str, Any] = {
        "world_size": trainer.world_size,
        "strategy": type(trainer.strategy).__name__,
        # Fewer than processes where several of them share the same rows, as in tensor parallelism.
        "data_shares": (trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1),
        "precision": str(trainer.precision),
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "threads": torch.get_num_threads(),  # with another number sums come out different in the last bit
        "seed": os.environ.get("PL_GLOBAL_SEED", ""),
        "packages": packages,
        "commit": commit,
    }
    if config:
        facts |= {"config": config, "config_fingerprint": config_fingerprint(yaml.safe_load(config))}
    return facts


def fingerprints_of(trainer: Trainer) -> dict[str, str]:
    """Fingerprints of the tokenizer and the corpus of a data module that offers them."""
    datamodule = getattr(trainer, "datamodule", None)
    prints = {what: getattr(getattr(datamodule, what, None), "fingerprint", None) for what in ("tokenizer", "corpus")}
    return {what: value for what, value in prints.items() if isinstance(value, str)}
