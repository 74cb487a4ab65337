"""MeasuringModule: how well a network tells the next token, over a whole set; and what every rank needs for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from musictrain.contract import check_token_range, tokens_of
from musictrain.losses import NextTokenLoss, next_token_loss, token_nll
from musictrain.micro_batches import MicroBatches, in_parts
from musictrain.optim.two_weights import Shown
from musictrain.running_sums import LikelihoodSums, widest_dtype


class MeasuringModule(lightning.LightningModule):
    """Validates, tests and predicts with any network that keeps the contract tokens (batch, time) int64 -> logits (batch, time, vocab).

    Logs what ``MusicModule`` says it does after a validation and a test, over all ranks, in nats.

    Args:
        network: the module to measure.
        pad_id: the token that never counts; None if every token counts.
    """

    def __init__(self, network: nn.Module, pad_id: int | None) -> None:
        super().__init__()
        self.network = network
        self._pad_id = pad_id
        self._unchecked_width: int | None = None
        self._valid_parts = MicroBatches(of="validation")
        self._likelihood = LikelihoodSums(torch.device("cpu"))
        # Some optimizers compute gradients at other weights than those that are their result: while these are trained, only the
        # latter are validated, sampled from and stored.
        self._weights = Shown()

    def on_validation_model_eval(self) -> None:
        self._weights.average()
        super().on_validation_model_eval()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The weights that are the result so far."""
        return self._weights.put_into(super().state_dict(*args, **kwargs), self, kwargs.get("prefix", ""))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, time, vocab) for tokens (batch, time)."""
        return self.network(tokens)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        tokens = self._tokens_of(batch)
        result = self._valid_parts.until_it_fits(len(tokens), lambda parts: in_parts(self._measure, parts, tokens[:, :-1], tokens[:, 1:]))
        self._likelihood.add(result.nll_sum, result.num_tokens, batch)

    def _measure(self, read: Tensor, targets: Tensor) -> NextTokenLoss:
        return next_token_loss(self(read), targets, pad_id=self._pad_id)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """The batch's own entries beside its tokens, and ``nll``: nats of every predicted token, (batch, time), nan for padding."""
        tokens = self._tokens_of(batch)
        nll = token_nll(self(tokens[:, :-1]), tokens[:, 1:], pad_id=self._pad_id)
        entries = batch if isinstance(batch, Mapping) else {}
        return {**entries, "tokens": tokens, "nll": nll}

    def _tokens_of(self, batch: Any) -> Tensor:
        """The batch's tokens (batch, time + 1); only those of the first batch are held against the vocabulary, which waits for them."""
        tokens = tokens_of(batch)
        if self._unchecked_width is not None:
            check_token_range(tokens, self._unchecked_width)
            self._unchecked_width = None
        return tokens

    def on_validation_epoch_start(self) -> None:
        self._likelihood = LikelihoodSums(self.device)

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_epoch_end(self) -> None:
        self._log_likelihood("val")

    def on_test_epoch_end(self) -> None:
        self._log_likelihood("test")

    def _log_likelihood(self, prefix: str) -> None:
        means = self._likelihood.means(self._sum_over_ranks)
        # The values are the same on every rank already; without sync_dist Lightning warns that they might not be.
        self.log_dict({f"{prefix}/{name}": self._widest(value) for name, value in means.items()}, sync_dist=True)

    def _widest(self, value: Any) -> Tensor:
        # Lightning would make it 32 bits: 0.0003 is logged as 0.0003000000142, and of many tokens the last ones are lost.
        return torch.as_tensor(value, dtype=widest_dtype(self.device), device=self.device)

    # Over ranks.

    @property
    def _shard(self) -> tuple[int, int]:
        """Which share of the data this rank reads, of how many: fewer than ranks where several read the same, as in tensor parallelism."""
        deal = self.trainer.distributed_sampler_kwargs or {}
        return deal.get("rank", 0), deal.get("num_replicas", 1)

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over the data, every share of it counted once."""
        total = self.trainer.strategy.reduce(tensor, reduce_op="sum")
        return total * (self._shard[1] / self.trainer.world_size)
