"""When two runs are the same: a hash of everything in a configuration that says what is trained and measured.

What does not count: where things are written, shown and loaded from; the device and how a run is spread over several; how the data is
handed to them; and callbacks that neither change the training nor log a score. What is left out of doubt counts: at worst something
is trained once more, and nothing is ever taken for what it is not. ``max_steps`` counts, since schedules end there; early stopping and
sampling callbacks count, since they say where a run ends and what it scores.

The same function reads a trial's configuration before it is begun and the ``config.yaml`` of any run that was there before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from musictrain.runs.config_changes import ELSEWHERE
from musictrain.runs.records import plain

# Beyond where things are, how fast the same is trained and how often it is told.
NOT_COUNTED = frozenset(
    {
        *ELSEWHERE,
        *("trainer.enable_model_summary", "trainer.enable_checkpointing", "trainer.log_every_n_steps", "trainer.profiler"),
        *("trainer.num_sanity_val_steps", "trainer.inference_mode", "trainer.use_distributed_sampler", "trainer.sync_batchnorm"),
        *(
            "trainer.detect_anomaly",
            "pause_at",
            "verbose",
            "print_config",
            "weights_only",
            "data.init_args.num_workers",
            "data.init_args.pin_memory",
        ),
    }
)
VOCAB_SIZE, TOKENIZER = "model.init_args.network.init_args.vocab_size", "data.init_args.tokenizer"
CALLBACKS = "trainer.callbacks"
# By the names of their classes: they neither change the training nor log what a search could be judged by.
CHANGE_NOTHING = frozenset(
    {
        *("RunRecorder", "Announcement", "ThroughputReport", "LivePage", "ProgressLine", "Notifications", "LearningRateMonitor"),
        *("DeviceStatsMonitor", "ModelSummary", "RichModelSummary", "ProgressBar", "TQDMProgressBar", "RichProgressBar"),
        *("VersionedCheckpoint", "ModelCheckpoint", "Checkpoint"),
    }
)


def identity_of(config: Mapping[str, Any]) -> str:
    """64 hexadecimal digits that stand for what a configuration trains and measures.

    Args:
        config: fully resolved, as a run's ``config.yaml`` holds it.
    """
    return hashlib.sha256(json.dumps(plain(counted(config)), sort_keys=True).encode()).hexdigest()


def counted(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration counts, without the rest.

    >>> counted({"name": "x", "seed_everything": 1, "trainer": {"devices": 2, "max_steps": 3, "callbacks": None}})
    {'seed_everything': 1, 'trainer': {'max_steps': 3, 'callbacks': []}}
    """
    # A vocabulary follows from the tokenizer, where there is one; it is filled in only when a network is made.
    left_out = NOT_COUNTED | ({VOCAB_SIZE} if _has(config, TOKENIZER) else frozenset())
    result: dict[str, Any] = _without(config, "", left_out)
    return result


def _has(config: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return False
        config = config[part]
    return True


def _without(config: Any, path: str, left_out: frozenset[str]) -> Any:
    if path == CALLBACKS:
        given = config if isinstance(config, list) else [] if config is None else [config]
        return [each for each in given if not is_idle(each)]
    if not isinstance(config, Mapping):
        return config
    dotted = {key: f"{path}.{key}" if path else str(key) for key in config}
    found = {key: _without(value, dotted[key], left_out) for key, value in config.items() if dotted[key] not in left_out}
    # A class without arguments is written down with none, or with an empty mapping.
    return {key: value for key, value in found.items() if not (key == "init_args" and not value)}


def is_idle(callback: Any) -> bool:
    """Whether a callback of a configuration does nothing that counts.

    >>> is_idle({"class_path": "musictrain.callbacks.LivePage"})
    True
    """
    if not isinstance(callback, Mapping):
        return False
    if (callback.get("init_args") or {}).get("reseed") is False:
        return False  # a VersionedCheckpoint that does not seed each batch: other random numbers
    return str(callback.get("class_path", "")).rpartition(".")[2] in CHANGE_NOTHING
