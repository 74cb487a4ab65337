"""A new training that begins with stored weights: which weight goes where, and what of a vocabulary is new.

    tree = read_tree("runs/RUN/checkpoints/v000003_step000450.ckpt")
    print(start_from(module, tree, old=token_names(theirs), new=token_names(ours)).sentence())

Conventions: what is taken is ``state_dict``, by name; in versions of a run with ``EMAWeightAveraging`` that is the moving average. Where
the training stood, its schedule, its place in the data and its random numbers are not taken: that is what resuming is for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from musictrain.checkpoints.consolidating import tied_names
from musictrain.checkpoints.resume_check import optimizer_facts, stored_optimizers, weight_faults
from musictrain.checkpoints.sharded_average import clean
from musictrain.checkpoints.vocabulary_rows import VocabularyChange, vocabulary_tensors

MOST_NAMED = 6


class StartMismatchError(ValueError):
    """Stored weights that a module cannot begin with; the message names the tensors."""


@dataclass(frozen=True)
class Started:
    """What a module began with.

    Args:
        num_tensors: how many were taken.
        by_token: names of those whose rows went by the names of their tokens.
        added: tokens that begin anew.
        dropped: tokens that are no more.
        with_optimizer: whether the optimizer's memory is taken too.
    """

    num_tensors: int
    by_token: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    with_optimizer: bool = False

    def sentence(self) -> str:
        """For people: how many weights, and which tokens are new or gone."""
        told = [f"{self.num_tensors:,} tensors" + (" and the optimizer's memory" if self.with_optimizer else "")]
        if self.by_token:
            told.append(f"{', '.join(self.by_token)} by the names of tokens")
        for tokens, what in ((self.added, "new"), (self.dropped, "dropped")):
            told += [f"{len(tokens):,} {what}: {named(tokens)}"] if tokens else []
        return "; ".join(told)


def named(names: Sequence[str]) -> str:
    """The first of many names.

    >>> named(["a", "b"]), named(list("abcdefgh"))
    ('a, b', 'a, b, c, d, e, f and 2 more')
    """
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def start_from(
    module: nn.Module,
    tree: Mapping[str, Any],
    *,
    old: Sequence[str] | None = None,
    new: Sequence[str] | None = None,
    seed: int = 0,
    source: str = "The version",
) -> Started:
    """Let a module begin with the weights of a checkpoint.

    Weights go by their names and must have the same shapes, but for the rows of a vocabulary: where the names of the tokens are known on
    both sides and are not the same, rows go by them. What a module keeps beside its ``network`` stays as it is. To be called before a
    strategy has spread the module, in every process alike.

    Args:
        module: whose weights are replaced; nothing else of it is touched.
        tree: a checkpoint, as ``read_tree`` gives it.
        old: names of the tokens that the weights were learned with; None if nobody knows.
        new: names of the tokens that the module is to be trained with.
        seed: of the noise on the rows of new tokens.
        source: what to call the checkpoint in messages.

    Raises:
        StartMismatchError: naming tensors, if they do not fit; then nothing is changed.
    """
    change = VocabularyChange(old, new, seed) if old is not None and new is not None else None
    stored, by_token = weights_for(module, tree, change, source)
    module.load_state_dict(stored, strict=False)  # what is missing has been refused
    moved = change if change is not None and change.moves else None
    return Started(
        len(stored), tuple(sorted(by_token)), moved.added if moved is not None else (), moved.dropped if moved is not None else ()
    )


def weights_for(
    module: nn.Module, tree: Mapping[str, Any], change: VocabularyChange | None, source: str = "The version"
) -> tuple[dict[str, Any], set[str]]:
    """A checkpoint's weights as a module takes them, and the names of those whose rows went by the names of tokens.

    Raises:
        StartMismatchError: naming tensors.
    """
    stored: Any = copy.copy(tree["state_dict"])
    by_token: set[str] = set()
    if change is not None and change.moves:
        by_token = vocabulary_tensors(module, stored, change)
        if not by_token:
            raise StartMismatchError(
                f"{source} was trained with another vocabulary ({len(change.old):,} tokens there, {len(change.new):,} here), and "
                f"{_called(module)} has no tensor with a row for each token, that could go by their names. Train it with the tokenizer of "
                "then, or begin anew."
            )
        ties = tied_names(module)
        for name in sorted(by_token):
            stored[name] = change.rows(stored[name], ties.get(name, name))
    # What a module keeps beside its network serves a way of training, which may be another one now.
    inside = "network." if isinstance(getattr(module, "network", None), nn.Module) else ""
    here = {name: value for name, value in module.state_dict().items() if name.startswith(inside)}
    stored = {name: value for name, value in stored.items() if name.startswith(inside)}
    faults = weight_faults(stored, here)
    if not getattr(module, "strict_loading", True):
        faults = [fault for fault in faults if "shape" in fault]
    if faults:
        more = f"; and {len(faults) - 3} more differences" if len(faults) > 3 else ""
        raise StartMismatchError(
            f"{source} holds other weights than {_called(module)} has: {'; '.join(faults[:3])}{more}. {_advice(faults, change)}"
        )
    return stored, by_token


def _advice(faults: Sequence[str], change: VocabularyChange | None) -> str:
    if change is None and any("shape" in fault for fault in faults):
        return (
            "Build the network with the sizes of then. If the vocabulary alone differs: it can go by the names of tokens where both "
            "tokenizers are known, and one of them is not."
        )
    return "Build the network with the sizes of then; the vocabulary alone may differ."


def _called(module: nn.Module) -> str:
    return type(getattr(module, "network", module)).__name__


def optimizer_start(
    module: nn.Module, optimizer: Any, tree: Mapping[str, Any], change: VocabularyChange | None, source: str = "The version"
) -> dict[str, dict[str, Any]]:
    """What the first optimizer of a checkpoint remembers of each weight, by the weight's name in the module; of new tokens nothing.

    Learning rates, decay and every other setting stay those of the new run's optimizer.

    Args:
        module: with the shapes of this run.
        optimizer: made, and not used yet.
        tree: of a version that can be resumed from.
        change: as the weights were taken by.
        source: what to call the checkpoint in messages.

    Raises:
        StartMismatchError: if there is none, or it is another optimizer, or it had other groups.
    """
    states, facts, here = tree.get("optimizer_states"), stored_optimizers(tree), optimizer_facts([optimizer])[0]
    if not states or not facts:
        raise StartMismatchError(
            f"{source} holds no optimizer: it is weights alone. Leave the optimizer out, or take a version that has one."
        )
    then = facts[0]
    if (then["class"] and then["class"] != here["class"]) or then["groups"] != here["groups"]:
        raise StartMismatchError(
            f"{source} was trained by {then['class'] or 'an optimizer'} of {'+'.join(map(str, then['groups']))} weights, and this run has "
            f"{here['class']} of {'+'.join(map(str, here['groups']))}: what it remembers cannot be taken over. Begin without it."
        )
    names = {id(parameter): clean(name) for name, parameter in module.named_parameters()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in states[0]["param_groups"] for number in group["params"]]
    rows = vocabulary_tensors(module, tree["state_dict"], change) if change is not None and change.moves else set()
    return {
        name: {key: _moved(value, tree["state_dict"][name], change, f"{source}: {here['class']}") for key, value in state.items()}
        if name in rows
        else dict(state)
        for name, number in zip(order, numbers, strict=True)
        if (state := states[0]["state"].get(number)) is not None
    }


def _moved(value: Any, weight: Tensor, change: VocabularyChange | None, who: str) -> Any:
    """What is remembered of a weight with a row for each token: of the same shape, or one number."""
    assert change is not None
    if isinstance(value, Tensor) and value.shape == weight.shape:
        return change.moments(value)
    if isinstance(value, Tensor | list | tuple) and not (isinstance(value, Tensor) and value.ndim == 0):
        raise StartMismatchError(
            f"{who} remembers of a vocabulary's weight {tuple(weight.shape)} more than a number for each value, which cannot go by tokens. "
            "Begin without the optimizer."
        )
    return value


def give_optimizer(module: nn.Module, optimizer: Any, remembered: Mapping[str, Mapping[str, Any]]) -> None:
    """Let an optimizer of weights that are whole remember what ``optimizer_start`` found."""
    for name, parameter in module.named_parameters():
        if (state := remembered.get(clean(name))) is not None:
            optimizer.state[parameter] = {key: _placed(value, parameter) for key, value in state.items()}


def _placed(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    # One number, such as the count of steps, stays where optimizers look for it.
    return value.clone() if value.ndim == 0 else value.to(parameter.device, copy=True)
