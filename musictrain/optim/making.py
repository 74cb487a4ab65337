"""From a network to its optimizer: groups as the optimizer wants them, what it is not used for, and what is told about it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from musictrain.optim.adaptive_clipping import FLATTENING
from musictrain.optim.hidden_matrices import hidden_matrices, without_numbers
from musictrain.optim.layer_decay import LayerDecay, scale_learning_rates
from musictrain.optim.parameter_groups import describe_groups, parameter_groups
from musictrain.optim.schedules import Constant, Schedule
from musictrain.optim.standing_still import StandsStill, under
from musictrain.optim.two_passes import check_two_passes, climbs
from musictrain.optim.two_weights import TwoWeights, has_two_weights, keeps_two_weights

log = logging.getLogger(__name__)

BY_MUON = "use_muon"
"""Key of a group: whether it holds hidden matrices; the words in which pytorch-optimizer's Muon and its kin ask for it."""
OF_PACKAGE = "pytorch_optimizer."
MOST_NAMES = 12
SHARING = {"ModelParallelStrategy", *FLATTENING}
"""Lightning's strategies that deal out weights in shares, by name: nothing here knows Lightning."""
AVERAGING = {"WeightAveraging", "StochasticWeightAveraging"}
"""Its callbacks that average weights."""


def optimizer_of(
    network: nn.Module,
    make: Callable[[Iterable], Optimizer],
    *,
    vocab_size: int | None = None,
    layer_decay: float | LayerDecay = 1.0,
) -> Optimizer:
    """An optimizer of a network's trainable parameters, with what decays apart from what does not.

    One that asks for ``use_muon`` gets the hidden matrices in groups of their own. One of the package pytorch-optimizer is made to stand
    still in steps without gradients, and a schedule-free one to train from the first step and to keep both of its weights.

    Args:
        network: any module; in shares already, if it is to be.
        make: from groups to an optimizer.
        vocab_size: width of the network's logits; None for its ``vocab_size``.
        layer_decay: see ``parameter_groups``.

    Raises:
        ValueError: if the optimizer cannot train this network, or not like this.
    """
    optimizer = _made(network, make, vocab_size, layer_decay)
    if all(callable(getattr(optimizer, name, None)) for name in ("first_step", "second_step")) and not climbs(optimizer):
        raise ValueError(f"{type(optimizer).__name__} computes gradients twice a step: take musictrain.optim.SAM, which sees to that.")
    if getattr(optimizer, "one_rate", False) and LayerDecay.of(layer_decay).factor != 1.0:
        raise ValueError(f"{type(optimizer).__name__} finds one learning rate for all weights: leave out layer_decay, or take AdamW.")
    if any("lr" not in group for group in optimizer.param_groups):
        raise ValueError(f"{type(optimizer).__name__} has no learning rate that a schedule could multiply: take another optimizer.")
    if has_two_weights(optimizer):
        under(optimizer, StandsStill, TwoWeights)
    elif type(optimizer).__module__.startswith(OF_PACKAGE):
        under(optimizer, StandsStill)
    scale_learning_rates(optimizer)
    return optimizer


def _made(network: nn.Module, make: Callable[[Iterable], Optimizer], vocab_size: int | None, layer_decay: float | LayerDecay) -> Optimizer:
    try:
        return make(parameter_groups(network, layer_decay=layer_decay))
    except Exception as error:
        if type(error).__module__.startswith(OF_PACKAGE):
            raise ValueError(f"{error}. It comes from {type(error).__name__} of pytorch-optimizer.") from error
        if "Muon only supports 2D parameters" in str(error):
            raise ValueError(
                "torch.optim.Muon takes matrices alone, and this network has other weights too: take musictrain.optim.Muon, which moves "
                "those as AdamW does."
            ) from error
        if BY_MUON not in str(error):
            raise
    matrices = {id(each) for each in hidden_matrices(network, vocab_size).values()}
    groups = parameter_groups(network, layer_decay=layer_decay, matrices=matrices)
    return make([{**group, BY_MUON: id(group["params"][0]) in matrices} for group in groups])


def describe_optimizer(optimizer: Optimizer, network: nn.Module) -> str:
    """A table for the log: one line a group, and where matrices are moved otherwise than the rest, which weights are in it."""
    lines = describe_groups(optimizer.param_groups).splitlines()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    told: list[str] = []
    for line, group in zip(lines, optimizer.param_groups, strict=True):
        told.append(line)
        if BY_MUON in group:
            rule = type(optimizer).__name__ if group[BY_MUON] else "AdamW"
            told.append(f"    by {rule}: {_in_short(names, group['params'], str(group.get('name', '?')))}")
    return "\n".join(told)


def optimizer_in_short(optimizer: Optimizer) -> str:
    """Who moves how much, and how fast: ``Muon for 26,624 parameters in hidden matrices, AdamW for 11,648; learning rate 0.001``."""
    name, groups = type(optimizer).__name__, optimizer.param_groups
    counts = Counter[bool]()
    for group in groups:
        counts[bool(group.get(BY_MUON))] += sum(each.numel() for each in group["params"])
    split = any(BY_MUON in group for group in groups)
    who = f"{name} for {counts[True]:,} parameters in hidden matrices, AdamW for {counts[False]:,}" if split else name
    rates = sorted({float(group.get("initial_lr", group["lr"])) for group in groups})
    return f"{who}; learning rate " + " to ".join(f"{rate:.3g}" for rate in sorted({rates[0], rates[-1]}))


def _in_short(names: dict[int, str], parameters: list[Any], other: str) -> str:
    """Names with stars for numbers, each with its shape, and how many have it; ``other`` is what is no weight of the network's called."""
    kinds = Counter(f"{without_numbers(names.get(id(each), other))} ({' x '.join(map(str, each.shape))})" for each in parameters)
    shown = [f"{count} {kind}" if count > 1 else kind for kind, count in list(kinds.items())[:MOST_NAMES]]
    return ", ".join([*shown, *([f"and {len(kinds) - MOST_NAMES} more"] if len(kinds) > MOST_NAMES else [])])


def advice_on(optimizer: Optimizer, schedule: Schedule, *, is_averaged: bool = False) -> list[str]:
    """Sentences about settings that work but are not meant to be together.

    Args:
        optimizer: as ``optimizer_of`` makes it.
        schedule: of its learning rate.
        is_averaged: whether a callback averages the weights too.
    """
    name, told = type(optimizer).__name__, []
    if keeps_two_weights(optimizer) and not isinstance(schedule, Constant):
        told.append(
            f"{name} averages so that its learning rate need not come down, and {type(schedule).__name__} lets it: take "
            "--model.init_args.schedule musictrain.optim.Constant, with warmup_steps."
        )
    if keeps_two_weights(optimizer) and is_averaged:
        told.append(f"{name} averages the weights already: leave out EMAWeightAveraging, which would average what is not its result.")
    rates = {group["lr"] for group in optimizer.param_groups}
    if getattr(optimizer, "one_rate", False) and rates != {1.0}:
        told.append(f"{name} finds its learning rate by itself, and lr={min(rates):g} multiplies it: leave lr at 1, and tune d_coef.")
    return told


def check_trainer(optimizer: Optimizer, trainer: Any, schedule: Schedule) -> None:
    """Refuse an optimizer that cannot be right under a Trainer, before anything is computed; and say what is not meant to be together.

    Args:
        optimizer: any.
        trainer: Lightning's.
        schedule: of the learning rate.

    Raises:
        ValueError: naming what does not go together, and what to do.
    """
    check_two_passes(optimizer, trainer.accumulate_grad_batches, is_scaled=getattr(trainer.precision_plugin, "scaler", None) is not None)
    strategy = type(trainer.strategy)
    kinds = {each.__name__ for each in strategy.__mro__}
    if kinds & SHARING:
        check_is_whole(optimizer, strategy.__name__, flattened=bool(kinds & FLATTENING))
    for sentence in advice_on(optimizer, schedule, is_averaged=averages_weights(trainer)):
        log.warning("%s", sentence)


def averages_weights(trainer: Any) -> bool:
    """Whether a callback of Lightning's Trainer leaves an average behind."""
    return any(AVERAGING & {each.__name__ for each in type(callback).__mro__} for callback in trainer.callbacks)


def check_is_whole(optimizer: Optimizer, strategy: str, *, flattened: bool = False) -> None:
    """Refuse an optimizer that cannot train weights which lie in shares on several devices.

    Args:
        optimizer: any.
        strategy: its name, for the message.
        flattened: whether the strategy lays parameters end to end, so that no weight has a share of its own.

    Raises:
        ValueError: naming both, and what to do.
    """
    reason = getattr(optimizer, "whole_only", "")
    if not reason and flattened and (keeps_two_weights(optimizer) or any(BY_MUON in group for group in optimizer.param_groups)):
        reason = "it treats each weight by itself, and this strategy lays them end to end"
    if reason:
        raise ValueError(
            f"{type(optimizer).__name__} cannot train under {strategy}, where weights lie in shares: {reason}. Use ddp, or one of "
            "musictrain.optim's AdamW, Lion, ADOPT, Muon and ScheduleFreeAdamW with fsdp or tp."
        )
