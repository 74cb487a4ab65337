"""What a run writes down about itself before the first step: on what it runs, and with which data."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from musictrain.generation.length import mean_tokens_per_beat
from musictrain.runs import RunFolder, describe_environment

log = logging.getLogger(__name__)


def check_same_data(run: RunFolder, fingerprints: Mapping[str, str]) -> None:
    """Refuse to go on with other data than a run began with.

    Raises:
        ValueError: if a recorded fingerprint of tokenizer or corpus has another value now.
    """
    recorded = json.loads(run.environment.read_text(encoding="utf-8")).get("fingerprints", {})
    for what, was in recorded.items():
        now = fingerprints.get(what, was)
        if now != was:
            raise ValueError(
                f"Run {run.name} began with the {what} of fingerprint {was}, but the {what} here has {now}. "
                f"Start a new run instead: musictrain fit --config {run.config}"
            )


def environment_of(trainer: Trainer) -> dict[str, Any]:
    """What goes into ``env.json``: the machine and the versions, and what the trainer and its data module say of themselves."""
    datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
    everything = os.environ.get("PL_GLOBAL_SEED")
    prints = {what: getattr(getattr(datamodule, what, None), "fingerprint", None) for what in ("tokenizer", "corpus")}
    record = describe_environment(
        seeds={"everything": int(everything) if everything else None, "data": getattr(datamodule, "seed", None)},
        fingerprints={what: value for what, value in prints.items() if isinstance(value, str)},
    )
    devices = {
        "accelerator": type(trainer.accelerator).__name__,
        "strategy": type(trainer.strategy).__name__,
        "world_size": trainer.world_size,
        "num_nodes": trainer.num_nodes,
        "precision": trainer.precision,
    }
    size = sum(parameter.numel() for parameter in trainer.lightning_module.parameters())
    rate = mean_tokens_per_beat(getattr(datamodule, "store", None))
    return {**record, "devices": devices, "parameters": size, "tokens_per_beat": rate}


def save_data_description(run: RunFolder, datamodule: Any) -> None:
    """``tokenizer.json`` and the data report, from a data module that offers ``tokenizer`` and ``corpus``; nothing from others."""
    if datamodule is None:
        return
    from musictrain.data import Corpus, write_data_report
    from musictrain.data.tokenizers import Tokenizer, save_tokenizer

    if isinstance(tokenizer := getattr(datamodule, "tokenizer", None), Tokenizer):
        try:
            save_tokenizer(tokenizer, run.tokenizer)
        except ValueError as error:
            log.warning("No tokenizer.json: %s", error)
    if isinstance(corpus := getattr(datamodule, "corpus", None), Corpus):
        write_data_report(corpus, run.path)
