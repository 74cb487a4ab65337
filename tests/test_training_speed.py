"""The training-speed benchmark compares like with like."""

from __future__ import annotations

import pytest
import torch

from benchmarks.training_speed import Setting, measure, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")
TINY = Setting(vocab_size=16, d_model=8, num_layers=1, num_heads=2, rows=2, window=8, dropout=0.0, blocks=1)


def test_both_loops_train_the_same_network_to_the_same_weights():
    module, loader = train(TINY, "32-true")
    initial = TINY.network().state_dict()
    for name, weight in loader.loop.network.state_dict().items():
        torch.testing.assert_close(module.network.state_dict()[name], weight, atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(initial[name], weight) for name, weight in module.network.state_dict().items())


def test_the_result_names_what_was_measured():
    result = measure(TINY)
    assert result["tokens_per_step"] == 16
    assert result["ratio"] == pytest.approx(result["fit_tokens_per_second"] / result["bare_tokens_per_second"], rel=0.05)
    assert result["steps"] == 10
