"""Two runs are the same where the same is trained and measured, whatever they are called and wherever they run."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from musictrain.search.identity import identity_of

CONFIG: dict[str, Any] = {
    "seed_everything": 1,
    "name": None,
    "ckpt_path": None,
    "trainer": {"max_steps": 9, "accelerator": "auto", "devices": "auto", "logger": None, "val_check_interval": 3, "callbacks": None},
    "model": {"class_path": "M", "init_args": {"network": {"class_path": "N", "init_args": {"width": 8}}, "lr": 0.1}},
    "data": {"class_path": "D", "init_args": {"corpus": "chorales", "tokenizer": {"class_path": "T"}, "num_workers": 0}},
}


def changed(key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    node = config
    *path, last = key.split(".")
    for part in path:
        node = node[part]
    node[last] = value
    return config


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"musictrain.callbacks.{name}", "init_args": arguments}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "mine"),
        ("runs", "elsewhere"),
        ("ckpt_path", "last"),
        ("pause_at", 3),
        ("trainer.accelerator", "gpu"),
        ("trainer.devices", 2),
        ("trainer.strategy", "ddp"),
        ("trainer.logger", {"class_path": "TensorBoardLogger"}),
        ("trainer.log_every_n_steps", 5),
        ("trainer.enable_progress_bar", False),
        ("trainer.callbacks", []),
        ("trainer.callbacks", [callback("LivePage"), callback("VersionedCheckpoint", newest=9), callback("Notifications", to="x")]),
        ("data.init_args.num_workers", 4),
        ("model.init_args.network.init_args.vocab_size", 50),
        ("data.init_args.tokenizer", {"class_path": "T", "init_args": {}}),
    ],
)
def test_where_and_how_fast_a_run_is_trained_does_not_count(key: str, value: Any) -> None:
    assert identity_of(changed(key, value)) == identity_of(CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed_everything", 2),
        ("trainer.max_steps", 10),
        ("trainer.val_check_interval", 4),
        ("trainer.precision", "bf16-mixed"),
        ("trainer.callbacks", [callback("EMAWeightAveraging", decay=0.9)]),
        ("trainer.callbacks", [callback("MusicalEarlyStopping", patience=2)]),
        ("trainer.callbacks", [callback("SampleAndScore", num_scored=2)]),
        ("trainer.callbacks", [callback("VersionedCheckpoint", reseed=False)]),
        ("trainer.callbacks", [{"class_path": "mine.OwnCallback"}]),
        ("model.init_args.lr", 0.2),
        ("model.init_args.network.init_args.width", 16),
        ("data.init_args.corpus", "folk"),
        ("init_from", "a-run@best"),
    ],
)
def test_what_is_trained_or_measured_counts(key: str, value: Any) -> None:
    assert identity_of(changed(key, value)) != identity_of(CONFIG)


def test_a_vocabulary_counts_where_no_tokenizer_says_it() -> None:
    key = "model.init_args.network.init_args.vocab_size"
    here, there = changed(key, 50), changed(key, 60)
    assert identity_of(here) == identity_of(there)
    for config in (here, there):
        del config["data"]["init_args"]["tokenizer"]
    assert identity_of(here) != identity_of(there)


def test_the_order_of_keys_does_not_count_and_that_of_callbacks_does() -> None:
    assert identity_of(dict(reversed(CONFIG.items()))) == identity_of(CONFIG)
    both = [callback("EMAWeightAveraging"), {"class_path": "mine.OwnCallback"}]
    assert identity_of(changed("trainer.callbacks", both)) != identity_of(changed("trainer.callbacks", both[::-1]))
