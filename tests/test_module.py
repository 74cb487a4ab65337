"""MusicModule in a real Trainer, around tiny networks, one of them foreign: what it logs, takes and refuses."""

from __future__ import annotations

import logging
import math

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper

from musictrain.losses import next_token_loss
from musictrain.models import Decoder
from musictrain.module import MusicModule
from musictrain.optim import AdamW
from tests.tiny_runs import (
    PAD,
    VOCAB,
    ForeignNetwork,
    Resumable,
    Uniform,
    fit,
    logged,
    new_module,
    new_trainer,
    random_batches,
    same_weights,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """No word from Lightning, no seed left by another test."""
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "level", logging.ERROR)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


# What is logged


def test_train_loss_is_the_mean_over_the_tokens_of_the_interval_and_its_steps(tmp_path):
    batches = random_batches(6)
    module = new_module(
        ForeignNetwork(dropout=0.0), optimizer=lambda params: torch.optim.SGD(params, lr=0.0), label_smoothing=0.3, z_loss=0.1
    )
    fit(tmp_path, module, batches, max_epochs=1, log_every_n_steps=2)
    results = [next_token_loss(module(b["tokens"][:, :-1]), b["tokens"][:, 1:], pad_id=PAD) for b in batches]
    expected = {
        last: float(sum(r.nll_sum for r in results[last - 1 : last + 1]) / sum(r.num_tokens for r in results[last - 1 : last + 1]))
        for last in (1, 3, 5)
    }
    assert logged(tmp_path, "train/loss") == pytest.approx(expected)
    tokens = torch.tensor([int(r.num_tokens) for r in results]).cumsum(0)
    assert logged(tmp_path, "train/tokens") == {1: tokens[1], 3: tokens[3], 5: tokens[5]}
    assert all(rate > 0 for rate in logged(tmp_path, "train/tokens_per_second").values())


def test_under_accumulation_every_micro_batch_counts_once(tmp_path):
    batches = random_batches(7)
    fit(tmp_path, new_module(), batches, max_epochs=1, accumulate_grad_batches=3)
    counts = [int((b["tokens"][:, 1:] != PAD).sum()) for b in batches]
    assert logged(tmp_path, "train/tokens") == {0: sum(counts[:3]), 1: sum(counts[:6]), 2: sum(counts)}


def test_the_gradient_norm_is_that_before_clipping(tmp_path):
    class Norms(Callback):
        seen: list[float]

        def on_fit_start(self, trainer, module):
            self.seen = []

        def on_before_optimizer_step(self, trainer, module, optimizer):
            self.seen.append(math.sqrt(sum(float(p.grad.pow(2).sum()) for p in module.parameters())))

    norms = Norms()
    fit(tmp_path, new_module(), max_epochs=1, gradient_clip_val=1e-3, callbacks=[norms])
    assert list(logged(tmp_path, "train/gradient_norm").values()) == pytest.approx(norms.seen)
    assert min(norms.seen) > 1e-3


def test_a_step_between_two_lines_logs_nothing(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(MusicModule, "log", lambda self, name, *args, **options: calls.append(name))
    fit(tmp_path, new_module(), max_epochs=1, log_every_n_steps=5)
    assert sorted(calls) == ["train/gradient_norm", "train/loss", "train/lr", "train/tokens", "train/tokens_per_second"]


def test_validation_reports_nats_per_token_nats_per_note_and_bits_per_beat(tmp_path):
    batches = random_batches(3)
    trainer = new_trainer(tmp_path)
    (values,) = trainer.validate(new_module(Uniform()), Resumable(batches), verbose=False)
    tokens = sum(int((b["tokens"][:, 1:] != PAD).sum()) for b in batches)
    assert values["val/loss"] == pytest.approx(math.log(VOCAB))
    assert values["val/nats_per_note"] == pytest.approx(tokens * math.log(VOCAB) / (3 * 2 * 2))
    assert values["val/bits_per_beat"] == pytest.approx(tokens * math.log2(VOCAB) / (3 * 2 * 4))
    (tested,) = new_trainer(tmp_path).test(new_module(Uniform()), Resumable(batches), verbose=False)
    assert tested == {key.replace("val/", "test/"): value for key, value in values.items()}


def test_batches_without_notes_and_beats_report_the_loss_alone(tmp_path):
    batches = [b["tokens"] for b in random_batches(3)]
    (values,) = new_trainer(tmp_path).validate(new_module(Uniform()), Resumable(batches), verbose=False)
    assert list(values) == ["val/loss"]


def test_validation_without_a_single_token_is_nan_not_zero(tmp_path):
    (values,) = new_trainer(tmp_path).validate(new_module(Uniform()), Resumable([torch.zeros(2, 5, dtype=torch.int64)]), verbose=False)
    assert math.isnan(values["val/loss"])


# Any network, any batches, any optimizer


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: [t], lambda t: {"tokens": t}, lambda t: t.int()])
def test_a_batch_is_a_tensor_a_list_of_one_or_a_mapping(tmp_path, wrap):
    module = new_module()
    before = [parameter.clone() for parameter in module.parameters()]
    fit(tmp_path, module, [wrap(b["tokens"]) for b in random_batches()], max_epochs=1)
    reference = new_module()
    fit(tmp_path / "reference", reference, random_batches(), max_epochs=1)
    assert same_weights(module, reference)
    assert not all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", [AdamW, torch.optim.Adagrad, lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)])
def test_any_optimizer_learns(tmp_path, optimizer):
    batch = [torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])] * 30
    module = new_module(ForeignNetwork(dropout=0.0), optimizer=lambda params: _faster(optimizer(params)))
    fit(tmp_path, module, batch, max_epochs=1)
    losses = list(logged(tmp_path, "train/loss").values())
    assert losses[-1] < 0.9 * losses[0]


def _faster(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    return optimizer


def test_bf16_with_clipping_trains_and_keeps_the_sums_in_full(tmp_path):
    fit(tmp_path, new_module(), max_epochs=1, precision="bf16-mixed", gradient_clip_val=1e3)
    full = tmp_path / "full"
    fit(full, new_module(), max_epochs=1)
    half = list(logged(tmp_path, "train/loss").values())
    assert half == pytest.approx(list(logged(full, "train/loss").values()), rel=0.02)
    assert logged(tmp_path, "train/tokens") == logged(full, "train/tokens")


def test_predict_gives_the_nats_of_every_token_and_nan_for_padding(tmp_path):
    batches = random_batches(2)
    predictions = new_trainer(tmp_path).predict(new_module(Uniform()), Resumable(batches))
    for batch, prediction in zip(batches, predictions, strict=True):
        padding = batch["tokens"][:, 1:] == PAD
        assert torch.equal(prediction["nll"].isnan(), padding)
        torch.testing.assert_close(prediction["nll"][~padding], torch.full(((~padding).sum(),), math.log(VOCAB)))
        assert torch.equal(prediction["beats"], batch["beats"])


def test_compiling_is_done_in_place_and_when_the_run_starts(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr("musictrain.module.compile_in_place", lambda network, blocks: compiled.append((network, blocks)))
    module = new_module(compile=True)
    assert compiled == []
    fit(tmp_path, module, max_steps=1)
    assert compiled == [(module.network, ())]


def test_recomputed_activations_change_no_bit_and_no_name(tmp_path):
    def trained(**options):
        torch.manual_seed(0)
        module = new_module(Decoder(VOCAB, d_model=16, num_layers=2, num_heads=2, dropout=0.5), **options)
        fit(tmp_path, module, max_steps=3)
        return module

    kept, recomputed, named = trained(), trained(activation_checkpointing=True), trained(activation_checkpointing=["blocks"])
    for module in (recomputed, named):
        assert list(kept.state_dict()) == list(module.state_dict())
        assert all(torch.equal(value, kept.state_dict()[name]) for name, value in module.state_dict().items())
        assert all(isinstance(block, CheckpointWrapper) for block in module.network.blocks)
    with pytest.raises(ValueError, match="Uniform names no blocks"):
        fit(tmp_path, new_module(Uniform(), activation_checkpointing=True), max_steps=1)


# What is refused


class Tokenized(lightning.LightningDataModule):
    """A data module that tells its vocabulary and padding, and whose data must never be asked for."""

    def __init__(self, vocab_size: int = VOCAB, pad_id: int = PAD) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.tokenizer = type("Tokenizer", (), {"pad_id": pad_id})()

    def train_dataloader(self):
        raise AssertionError("the data was asked for")

    val_dataloader = train_dataloader


@pytest.mark.parametrize("network", [Uniform, ForeignNetwork])
def test_a_network_of_another_vocabulary_is_refused_before_it_starts(tmp_path, network):
    message = rf"{network.__name__} predicts over 11 tokens, but the data's tokenizer has a vocabulary of 90\. Build .* vocab_size=90"
    with pytest.raises(ValueError, match=message):
        new_trainer(tmp_path, max_steps=1).fit(new_module(network()), datamodule=Tokenized(vocab_size=90))


def test_windows_beyond_the_networks_context_are_refused_before_it_starts(tmp_path):
    network, data = Uniform(), Tokenized()
    network.max_context, data.window = 64, 100
    with pytest.raises(ValueError, match=r"Uniform reads at most 64 tokens, but the data's windows have 100\. Build .* max_context=100"):
        new_trainer(tmp_path, max_steps=1).fit(new_module(network), datamodule=data)


@pytest.mark.parametrize(("packing", "align"), [(True, None), (False, None), (False, 24)])
def test_windows_from_which_the_network_cannot_count_are_refused_before_it_starts(tmp_path, packing, align):
    network, data = Uniform(), Tokenized()
    network.window_align, data.packing, data.align = 16, packing, align
    with pytest.raises(ValueError, match=rf"multiple of 16 tokens .* packing={packing}, align={align}\. Set .* align to 16"):
        new_trainer(tmp_path, max_steps=1).fit(new_module(network), datamodule=data)


def test_a_padding_token_that_is_not_the_tokenizers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got pad_id=0, but the data's tokenizer pads with 3"):
        new_trainer(tmp_path, max_steps=1).fit(new_module(), datamodule=Tokenized(pad_id=3))


def test_the_padding_token_comes_from_the_data_if_it_is_not_given(tmp_path):
    class Data(Tokenized):
        def val_dataloader(self):
            return Resumable(random_batches())

    (values,) = new_trainer(tmp_path).validate(new_module(pad_id=None), datamodule=Data(), verbose=False)
    (expected,) = new_trainer(tmp_path).validate(new_module(pad_id=PAD), Resumable(random_batches()), verbose=False)
    (counted,) = new_trainer(tmp_path).validate(new_module(pad_id=None), Resumable(random_batches()), verbose=False)
    assert values == expected != counted


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_a_token_outside_the_vocabulary_is_named_and_not_an_index_error(tmp_path, token):
    batch = torch.ones(2, 4, dtype=torch.int64)
    batch[1, 2] = token
    with pytest.raises(ValueError, match=rf"first batch holds token {token}, but the network predicts over 11 tokens, 0 to 10"):
        fit(tmp_path, new_module(), [batch], max_steps=1)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 4), r"a torch.float32 tensor of shape \(2, 4\)"),
        (torch.zeros(2, 1, dtype=torch.int64), r"a torch.int64 tensor of shape \(2, 1\)"),
        ({"notes": torch.zeros(2)}, r"a dict with keys \['notes'\]"),
        ({"tokens": torch.zeros(4, dtype=torch.int64)}, r"a dict .*\('tokens' is a torch.int64 tensor of shape \(4,\)\)"),
        ((torch.zeros(2, 4).long(), torch.zeros(2)), "a tuple"),
    ],
)
def test_something_else_than_a_batch_of_tokens_is_described(tmp_path, batch, message):
    with pytest.raises(ValueError, match=f"got {message}.* as a batch, expected an int64 tensor"):
        new_module().training_step(batch, 0)


def test_a_network_that_breaks_the_contract_is_refused(tmp_path):
    class Pooled(ForeignNetwork):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens).mean(1)

    with pytest.raises(ValueError, match=r"Pooled maps tokens \(1, 8\) to a torch.float32 tensor of shape \(1, 11\), expected logits"):
        fit(tmp_path, new_module(Pooled()), max_steps=1)


def test_finding_the_width_leaves_every_layers_mode_as_it_was(tmp_path):
    network = ForeignNetwork()
    network.dropout.eval()
    module = new_module(network)
    module.trainer = new_trainer(tmp_path, max_steps=1)
    module.setup("fit")
    assert network.training
    assert not network.dropout.training
