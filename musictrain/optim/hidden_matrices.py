"""Which parameters are a network's hidden matrices: what maps one vector inside it to another."""

from __future__ import annotations

import re

from torch import nn

from musictrain.optim.parameter_groups import NO_DECAY_MODULES


def hidden_matrices(network: nn.Module, vocab_size: int | None = None) -> dict[str, nn.Parameter]:
    """The hidden matrices of a network by name, each once, in its order.

    The rule: a trainable parameter of exactly two dimensions, no bias by name, in no embedding and no norm, tied to none of these, and no
    head. Heads are the matrices with as many rows as the vocabulary; if the embedding is square, so that every matrix could be one, the
    last of them. Where nothing has so many rows, what the network makes last is the head, and whatever has its name but for the numbers.
    A recurrent layer's gates, which torch keeps in one matrix, count as one.

    Args:
        network: any module.
        vocab_size: width of its logits; None for its ``vocab_size``, if it has one.

    Source: Jordan et al., Muon (2024), https://kellerjordan.github.io/posts/muon: "hidden weight layers"; embeddings and heads are not.
    """
    size = vocab_size if vocab_size is not None else getattr(network, "vocab_size", None)
    # By every name: a weight that is tied to an embedding is one.
    others = {id(each) for part in network.modules() if isinstance(part, NO_DECAY_MODULES) for each in part.parameters(recurse=False)}
    candidates = {
        name: each
        for name, each in network.named_parameters()
        if each.ndim == 2 and each.requires_grad and id(each) not in others and "bias" not in name.rpartition(".")[2]
    }
    heads = _heads(candidates, size, [each for each in network.parameters() if id(each) in others])
    return {name: each for name, each in candidates.items() if name not in heads}


def _heads(candidates: dict[str, nn.Parameter], size: int | None, others: list[nn.Parameter]) -> set[str]:
    with_all_rows = [name for name, each in candidates.items() if each.shape[0] == size]
    tables = [each for each in others if each.ndim == 2 and each.shape[0] == size]
    if with_all_rows:
        return {with_all_rows[-1]} if any(each.shape[1] == size for each in tables) else set(with_all_rows)
    if tables or not candidates:
        return set()  # the embedding is the head too
    last = without_numbers(list(candidates)[-1])
    return {name for name in candidates if without_numbers(name) == last}


def without_numbers(name: str) -> str:
    """A name with stars for the numbers between its dots.

    >>> without_numbers("blocks.11.attention.query.weight")
    'blocks.*.attention.query.weight'
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
