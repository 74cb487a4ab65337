"""Weights that are frozen, or held back for now, give no alarm; those that are to train and do nothing do."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
import torch

from musictrain.callbacks import AnomalyAlerts, GradualUnfreezing
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import AdamW, Constant
from tests.callbacks.sick_runs import MACHINE, VOCAB, Quiet, fit, heard, token_batches

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)


def fine_tuned(lr: float, **options: Any) -> tuple[Decoder, MusicModule]:
    """A new network, whose branches give nothing but zeros until they are trained."""
    torch.manual_seed(1)
    network = Decoder(VOCAB, d_model=8, num_layers=2, num_heads=2, dropout=0.0, max_context=32)
    return network, MusicModule(network, functools.partial(AdamW, lr=lr), Constant(), **options)


@pytest.mark.parametrize(("never", "order"), [(False, 1), (False, -1), (True, 1)])
def test_nobody_is_alarmed_by_what_is_meant_to_stay_as_it_is(never: bool, order: int) -> None:
    network, module = fine_tuned(0.01, frozen=["blocks.0"] if never else [])
    unfreezing = GradualUnfreezing({} if never else {"blocks.0": 24, "embedding": 24})
    with heard() as told:
        fit(module, token_batches(40), *[AnomalyAlerts(**MACHINE, every_n_steps=2), unfreezing][::order])
    assert told == []
    assert bool(network.blocks[0].feed_forward.down.weight.any()) is not never


def test_a_layer_that_is_to_train_and_gives_nothing_is_told_of_beside_one_that_is_held_back() -> None:
    _, module = fine_tuned(0.0)
    alerts = Quiet(layers={"patience": 2}, every_n_steps=2)
    with heard() as told:
        fit(module, token_batches(20), alerts, GradualUnfreezing({"blocks.0": 50}))
    assert len(told) == 1
    assert ".blocks.1." in told[0]["message"]
    assert ".blocks.0." not in told[0]["message"]
