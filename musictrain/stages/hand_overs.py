"""Hand-overs that cannot work, by what two configurations say: found before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from musictrain.stages.merging import CLASS, value_at
from musictrain.stages.protocol import ProtocolError
from musictrain.stages.resolving import Resolved

NETWORK, TOKENIZER, OPTIMIZER = "model.init_args.network", "data.init_args.tokenizer", "model.init_args.optimizer"


def check_hand_overs(stages: Mapping[str, Resolved]) -> None:
    """Refuse what one stage cannot give to another.

    Raises:
        ProtocolError: naming both stages, what came and what to do.
    """
    for receiver in stages.values():
        over = receiver.stage.hand_over
        if over is None:
            continue
        giver = stages[over.source]
        where = f"Stage {receiver.stage.name!r} cannot take over from {over.source!r}:"
        _check_that_there_is_a_version(giver, over.version, where)
        _check_same(giver, receiver, NETWORK, f"{where} their networks differ", "Say hand_over: nothing, and begin anew.", arguments=False)
        if over.vocabulary == "same":
            _check_same(
                giver, receiver, TOKENIZER, f"{where} their tokenizers differ", "Say vocabulary: extend, and tokens go by their names."
            )
        if over.optimizer:
            _check_same(giver, receiver, OPTIMIZER, f"{where} their optimizers differ", "Say optimizer: false.", arguments=False)


def _check_that_there_is_a_version(giver: Resolved, version: str, where: str) -> None:
    trainer = value_at(giver.config, "trainer") or {}
    if trainer.get("enable_checkpointing") is False:
        raise ProtocolError(f"{where} it has trainer.enable_checkpointing: false, so that nothing is kept. Leave that out.")
    steps, every = giver.stage.budget.steps, trainer.get("val_check_interval")
    by_steps = trainer.get("check_val_every_n_epoch", 1) is None
    if version != "best" or steps is None or not by_steps or not isinstance(every, int):
        return
    batches = steps * int(trainer.get("accumulate_grad_batches") or 1)
    if every > batches:
        raise ProtocolError(
            f"{where} there will be no best version, since it ends after {batches:,} batches and validates every {every:,}. "
            f"Lower its trainer.val_check_interval, or say version: last."
        )


def _check_same(giver: Resolved, receiver: Resolved, key: str, where: str, advice: str, *, arguments: bool = True) -> None:
    one, other = (_described(value_at(each.config, key), arguments=arguments) for each in (giver, receiver))
    # What is not said is as by default, which only the class knows: the fit itself refuses what does not fit.
    if one is not None and other is not None and one != other:
        raise ProtocolError(f"{where}: {_words(one)} there, {_words(other)} here. {advice}")


def _described(part: Any, *, arguments: bool) -> tuple[str, Any] | None:
    if not isinstance(part, Mapping) or CLASS not in part:
        return None
    # A class may be called by several paths.
    return str(part[CLASS]).rpartition(".")[2], dict(part.get("init_args") or {}) if arguments else {}


def _words(described: tuple[str, Any]) -> str:
    name, told = described
    return name + (f"({', '.join(f'{key}={value!r}' for key, value in told.items())})" if told else "")
