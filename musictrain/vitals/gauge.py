"""Gauge: takes the vitals of a training, at the moments it is told of. Any module, any optimizer of torch's, one process or several."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from musictrain.health.vitals import Vitals
from musictrain.vitals.batch_facts import NOTHING_KNOWN, BatchFacts, TokenTables, facts_of
from musictrain.vitals.gradient_norms import GradientNorms, ParameterNorms
from musictrain.vitals.layer_watch import LayerWatch
from musictrain.vitals.memory_held import memory_held
from musictrain.vitals.running_statistics import RunningStatistics
from musictrain.vitals.step_clock import StepClock
from musictrain.vitals.update_sizes import UpdateSizes

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


@dataclass(frozen=True)
class Ranks:
    """The processes that train together.

    Args:
        rank: of this one.
        world: how many there are.
        sum_up: adds a float64 tensor over them, and gives it back on the host.
        sum_on_device: adds a tensor over them where it is, and waits for nothing.
        flattened: whether the strategy lays parameters end to end and gives each rank a piece.
    """

    rank: int = 0
    world: int = 1
    sum_up: Callable[[Tensor], Tensor] | None = None
    sum_on_device: Callable[[Tensor], Tensor] | None = None
    flattened: bool = False

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each summed over the ranks."""
        numbers = torch.tensor(values, dtype=torch.float64)
        return (numbers if self.sum_up is None or self.world == 1 else self.sum_up(numbers)).tolist()

    def gathered(self, value: Any) -> list[Any]:
        """What each rank says, in their order; anything that can be pickled. For rare moments."""
        if self.world == 1:
            return [value]
        told: list[Any] = [None] * self.world
        dist.all_gather_object(told, value)
        return told


class Gauge:
    """Measures one training.

    Args:
        module: what is trained.
        optimizer: whose parameters; of several optimizers the first.
        ranks: the processes that train together.
        layers: whether to look into layers and at predictions.
        updates: whether to measure how far a step moves the weights.
        tables: what is known of the tokens.
        device: that the module trains on.
        guards: whether updates that are not finite are not to be made; whoever is told of them in time sees to it.

    Attributes:
        clock: tells where the time goes; whoever trains drives it.
        facts: of the batches of the present step, on this rank.
        own_loss: of the present step, on this rank; nan before it is known.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Any,
        ranks: Ranks,
        *,
        layers: bool = True,
        updates: bool = True,
        tables: TokenTables = NOTHING_KNOWN,
        device: torch.device | None = None,
        guards: bool = True,
    ) -> None:
        self._guards = guards
        mine = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        named = [(plain(name), parameter) for name, parameter in module.named_parameters() if id(parameter) in mine]
        self.ranks = ranks
        self.device = torch.device("cpu") if device is None else device
        self.clock = StepClock()
        self._norms = ParameterNorms(named, ranks.world, ranks.flattened)
        self._gradient_keys = tuple(f"gradient/{name}" for name in self._norms.names)
        self._layers = LayerWatch(module, tables.pad_id) if layers else None
        self._updates = UpdateSizes(named) if updates else None
        self._running = RunningStatistics(module)
        self._tables = tables.to(self.device)
        self._learning_rate = math.nan
        self.begin_step()

    def begin_step(self) -> None:
        """The first batch of a step follows."""
        self.facts, self.own_loss = BatchFacts(), math.nan
        self._nll = self._tokens = 0.0
        self._running.keep()

    # While the batches of a step pass.

    def take_batch(self, batch: Any, *, look: bool) -> None:
        """A batch is about to be trained on; in a step that is looked at, watch the layers."""
        self.facts += facts_of(batch, self._tables)
        if look and self._layers is not None:
            self._layers.look()

    def take_loss(self, nll: Any, tokens: Any = None) -> None:
        """Nats of a batch and over how many tokens, numbers or scalars; or, of what is a mean already, its share of the step's mean."""
        self._nll += float(nll)
        self._tokens = 1.0 if tokens is None else self._tokens + float(tokens)
        self.own_loss = self._nll / self._tokens if self._tokens else math.nan

    # Before the weights change.

    def before_update(self, step: int, *, look: bool, learning_rate: float, unscale: float = 1.0, scaled: bool = False) -> list[Vitals]:
        """What can be known before the step is taken; of this step alone. Collective.

        Args:
            step: that is about to be taken, from 1.
            look: whether to look at weights, layers and predictions too.
            learning_rate: of the step.
            unscale: by what gradients and their norms are to be multiplied.
            scaled: whether a loss scaler sees to gradients that are not finite, which then are nothing unusual.
        """
        norms, told = self._gradients()
        self._learning_rate = learning_rate
        values: dict[str, float] = {"learning_rate": learning_rate}
        if told["tokens"]:
            values["loss"] = told["nll"] / told["tokens"]
            values["non_finite/loss"] = float(not math.isfinite(values["loss"]))
        where: dict[str, str] = {}
        self._take_norms(norms, values, where, unscale=unscale, scaled=scaled)
        if look or values.get("non_finite/loss") or values.get("non_finite/gradients"):
            values |= self._weights(where)
        if look:
            values |= self._looks()
        return [Vitals(step, values, where, self._facts_of_all(told))]

    def _take_norms(self, norms: GradientNorms, values: dict[str, float], where: dict[str, str], *, unscale: float, scaled: bool) -> None:
        if norms.finite:
            values |= zip(self._gradient_keys, (norm * unscale for norm in norms.norms), strict=True)
            values |= {"gradient_norm": norms.total * unscale, "non_finite/gradients": 0.0}
        elif not scaled:
            values["non_finite/gradients"], where["non_finite/gradients"] = 1.0, norms.first_bad

    def _gradients(self) -> tuple[GradientNorms, dict[str, float]]:
        names = ("nll", "tokens", "strange", "rows", "pieces", "piece_squares")
        facts, own = self.facts, {"nll": self._nll, "tokens": self._tokens}
        own["strange"] = float(bool(facts.unseen) or facts.silent_beats > 0)
        own |= {"rows": float(len(facts.pieces)), "pieces": float(sum(facts.pieces))}
        own["piece_squares"] = float(sum(piece * piece for piece in facts.pieces))
        if self.ranks.world == 1:
            return self._norms.measure(), own
        norms = self._norms.measure(reduce=self.ranks.sum_up, further=[own[name] for name in names])
        return norms, dict(zip(names, norms.further, strict=True))

    def _facts_of_all(self, told: Mapping[str, float]) -> dict[str, Any]:
        """The facts of the step's batches over all ranks, the same on each: asked for only where there is something to say."""
        if self.ranks.world == 1:
            return self.facts.as_dict()
        # All rows are of one piece if their numbers do not vary.
        one_piece = told["rows"] > 1 and told["rows"] * told["piece_squares"] == told["pieces"] ** 2
        if not told["strange"] and not one_piece:
            return {"number": self.facts.number} if self.facts.number >= 0 else {}
        return sum(self.ranks.gathered(self.facts), BatchFacts()).as_dict()

    def _weights(self, where: dict[str, str]) -> dict[str, float]:
        norms = self._norms.measure("weights", reduce=self.ranks.sum_up if self.ranks.world > 1 else None)
        if not norms.finite:
            where["non_finite/weights"] = norms.first_bad
        return {"non_finite/weights": float(not norms.finite)}

    def _looks(self) -> dict[str, float]:
        """Of layers that train and of predictions, the mean over the ranks; and what the step is about to change is kept."""
        if self._updates is not None:
            self._updates.before()
        if self._layers is None:
            return {}
        seen, idle = self._layers.read(), self._layers.untrained()
        there = {name: value for name, value in seen.items() if math.isfinite(value) and name not in idle}
        if self.ranks.world == 1:
            return there
        names = self._layers.names
        sums = self.ranks.sums([*(there.get(name, 0.0) for name in names), *(float(name in there) for name in names)])
        return {name: total / count for name, total, count in zip(names, sums, sums[len(names) :], strict=False) if count}

    # After the weights have changed.

    def leave_out(self) -> None:
        """The update is not made; nor is what the forward has left in running statistics to stay."""
        self._running.put_back()
        if self._updates is not None:
            self._updates.forget()

    def after_update(self) -> dict[str, float]:
        """How far the weights have moved, of a step that was looked at. Collective where parameters lie in shares."""
        if self._updates is None:
            return {}
        moved = self._updates.after(self.ranks.sum_up if self._norms.spread else None)
        return {f"update_ratio/{name}": ratio for name, ratio in moved.items()}

    def after_step(self, step: int, moved: Mapping[str, float], steps: int, tokens: float) -> Vitals:
        """What is known of time and memory. Collective: every rank's numbers in one small sum.

        Args:
            step: that was taken.
            moved: what ``after_update`` gave.
            steps: since the last call.
            tokens: that this rank has trained on in them.
        """
        spent = self.clock.read()
        seconds = [spent.get(kind, 0.0) for kind in ("busy", "data", "waiting")]
        row = [(spent.get("busy", 0.0) + spent.get("data", 0.0)) / max(1, steps), sum(seconds), seconds[1], tokens, self._memory()]
        world, width = self.ranks.world, len(row)
        rows = self.ranks.sums([0.0] * (width * self.ranks.rank) + row + [0.0] * (width * (world - 1 - self.ranks.rank)))
        busy, wall, waited, read, memory = (rows[column::width] for column in range(width))
        values = {**moved, "learning_rate": self._learning_rate, "memory": max(memory)}
        if world > 1:
            values |= {f"rank_seconds/{rank}": value for rank, value in enumerate(busy)}
        if (mean := sum(wall) / world) > 0:
            values |= {"data_wait": max(waited) / mean, **({"tokens_per_second": sum(read) / mean} if sum(read) else {})}
        return Vitals(step, {name: value for name, value in values.items() if math.isfinite(value)})

    def _memory(self) -> float:
        return memory_held(self.device)

    def stop(self) -> None:
        """Leave nothing behind."""
        if self._layers is not None:
            self._layers.stop()
        if self._updates is not None:
            self._updates.forget()

    # A window of several batches may be open when the state is saved.

    def state_dict(self) -> dict[str, Any]:
        """The open step's batches so far, as plain values; empty before the first."""
        if not self._tokens and self.facts == BatchFacts():
            return {}
        facts = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.facts).items()}
        return {"nll": self._nll, "tokens": self._tokens, "facts": facts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in that step."""
        self.begin_step()
        self._nll, self._tokens = float(state.get("nll", 0.0)), float(state.get("tokens", 0.0))
        told: dict[str, Any] = state.get("facts", {})
        plain_facts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
        self.facts = BatchFacts(**plain_facts)


def plain(name: str) -> str:
    """A parameter's name without those of wrappers.

    >>> plain("network._checkpoint_wrapped_module.blocks.0.weight")
    'network.blocks.0.weight'
    """
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
