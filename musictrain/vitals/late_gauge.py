"""LateGauge: a gauge for devices that the host runs ahead of, such as CUDA. No step waits; what was measured is read every few steps.

An update that is not finite must not wait to be found: on the device itself a fused optimizer is told to leave it out, by the flag that
loss scalers use, and to any other zeros are given in place of its gradients (its momentum and weight decay go on). The host hears of it at
the next look. The arithmetic is tested on the CPU; on a GPU it was not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from musictrain.health.vitals import Vitals
from musictrain.vitals.batch_facts import BatchFacts
from musictrain.vitals.gauge import Gauge, Ranks
from musictrain.vitals.gradient_norms import GradientNorms


class LateGauge(Gauge):
    """As Gauge, except that all but the steps that are looked at are told later, and without facts of their batches.

    Args:
        module, optimizer, ranks, options: as for Gauge; with ``guards`` updates that are not finite are kept from being made here.
    """

    def __init__(self, module: nn.Module, optimizer: Any, ranks: Ranks, **options: Any) -> None:
        super().__init__(module, optimizer, ranks, **options)
        self._optimizer = optimizer
        self._is_fused = any(group.get("fused") for group in optimizer.param_groups)
        self._pending: list[tuple[int, float, float, Tensor]] = []
        self._hook = optimizer.register_step_post_hook(lambda *_: self._let_pass())

    def begin_step(self) -> None:
        """The first batch of a step follows."""
        super().begin_step()
        self._losses: list[Tensor] = []

    def take_batch(self, batch: Any, *, look: bool) -> None:
        """A batch is about to be trained on; only of a step that is looked at is it read."""
        if look:
            super().take_batch(batch, look=True)
            return
        tokens = batch.get("tokens") if isinstance(batch, Mapping) else batch
        if isinstance(tokens, Tensor) and tokens.ndim == 2:
            self.facts += BatchFacts(num_tokens=len(tokens) * (tokens.shape[1] - 1))

    def take_loss(self, nll: Any, tokens: Any = None) -> None:
        """Keep it where it is."""
        share = torch.as_tensor(nll, dtype=torch.float64, device=self.device)
        among = torch.as_tensor(0.0 if tokens is None else tokens, dtype=torch.float64, device=self.device)
        self._losses.append(torch.stack([share, among]))

    def before_update(self, step: int, *, look: bool, learning_rate: float, unscale: float = 1.0, scaled: bool = False) -> list[Vitals]:
        """What the steps since the last look were like, at a look; nothing between looks."""
        row = torch.cat([self._norms.squares(self.device), self._loss()])
        if self._guards and not scaled:
            self._hold_back(row)
        self._pending.append((step, learning_rate, unscale, row))
        if not look:
            return []
        pending, self._pending = self._pending, []
        rows = torch.stack([each[-1] for each in pending])
        sums = rows if self.ranks.sum_up is None or self.ranks.world == 1 else self.ranks.sum_up(rows)
        told = [self._vitals(*each[:3], values, scaled) for each, values in zip(pending, sums.tolist(), strict=True)]
        self._learning_rate, latest = learning_rate, told[-1]
        self.own_loss = latest.values.get("loss", math.nan)
        where = dict(latest.where)
        values = {**latest.values, **self._weights(where), **self._looks()}
        return [*told[:-1], Vitals(step, values, where, self.facts.as_dict() if self.ranks.world == 1 else {})]

    def _loss(self) -> Tensor:
        """Nats of the step and over how many tokens, (2,); of means, their sum over 1."""
        if not self._losses:
            return torch.zeros(2, dtype=torch.float64, device=self.device)
        total = torch.stack(self._losses).sum(0)
        return torch.stack([total[0], torch.where(total[1] > 0, total[1], 1.0)])

    def _vitals(self, step: int, rate: float, unscale: float, row: list[float], scaled: bool) -> Vitals:
        *squares, nll, tokens = row
        norms = GradientNorms(self._norms.names, [math.sqrt(square) if square >= 0 else math.nan for square in squares])
        values, where = {"learning_rate": rate}, dict[str, str]()
        if tokens:
            values |= {"loss": nll / tokens, "non_finite/loss": float(not math.isfinite(nll))}
        self._take_norms(norms, values, where, unscale=unscale, scaled=scaled)
        return Vitals(step, values, where)

    # On the device.

    def _hold_back(self, row: Tensor) -> None:
        """Let the step not be taken if anything is not finite; nobody waits to know."""
        finite = row.isfinite().all()
        if self._norms.spread and self.ranks.sum_on_device is not None:
            finite = self.ranks.sum_on_device((~finite).float()) == 0
        self._running.put_back(unless=finite)
        if self._is_fused:
            self._optimizer.grad_scale, self._optimizer.found_inf = None, (~finite).float()
            return
        shares = self._norms.gradient_shares()
        for share in shares:
            share.nan_to_num_(0.0, 0.0, 0.0)
        torch._foreach_mul_(shares, finite.float())

    def _let_pass(self) -> None:
        for name in ("grad_scale", "found_inf"):
            vars(self._optimizer).pop(name, None)

    def stop(self) -> None:
        """Leave nothing behind."""
        super().stop()
        self._hook.remove()
        self._let_pass()

    # Steps that nobody has heard of yet when the state is saved.

    def state_dict(self) -> dict[str, Any]:
        """They, as plain values; reads them from the device."""
        if not self._losses and not self._pending:
            return super().state_dict()
        losses = [loss.tolist() for loss in self._losses]
        return {**super().state_dict(), "losses": losses, "pending": [[*each[:3], each[3].tolist()] for each in self._pending]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        super().load_state_dict(state)
        self._losses = [torch.tensor(loss, dtype=torch.float64, device=self.device) for loss in state.get("losses", ())]
        for step, rate, unscale, row in state.get("pending", ()):
            self._pending.append((step, rate, unscale, torch.tensor(row, dtype=torch.float64, device=self.device)))
