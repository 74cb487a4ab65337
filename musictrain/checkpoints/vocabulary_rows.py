"""Weights of one vocabulary for another: rows of embeddings and heads go by the names of their tokens.

Conventions: a vocabulary is the names of its tokens in the order of their ids; a name's kind is what stands before its last underscore
(``Pitch`` of ``Pitch_60``). A vocabulary's tensor has one row for each token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from musictrain.models.recomputing import blocks_of

NOISE = 0.1
"""Of a new row, in standard deviations of the rows that its mean is of."""


def token_names(tokenizer: Any) -> tuple[str, ...] | None:
    """The vocabulary of a tokenizer; None of what is none."""
    name, size = getattr(tokenizer, "token_name", None), getattr(tokenizer, "vocab_size", None)
    return tuple(str(name(token)) for token in range(size)) if callable(name) and isinstance(size, int) else None


@dataclass(frozen=True)
class VocabularyChange:
    """From one vocabulary to another.

    Args:
        old: the tokens that were learned.
        new: the tokens to go on with.
        seed: of the noise on new rows.

    Raises:
        ValueError: if two tokens of one vocabulary have the same name.
    """

    old: Sequence[str]
    new: Sequence[str]
    seed: int = 0

    def __post_init__(self) -> None:
        for what, names in (("was learned", self.old), ("is to go on with", self.new)):
            if len(set(names)) < len(names):
                twice = next(name for position, name in enumerate(names) if name in names[:position])
                raise ValueError(f"The vocabulary that {what} calls two tokens {twice!r}: they cannot be told apart by their names.")

    @property
    def added(self) -> tuple[str, ...]:
        """Tokens that were not known before."""
        known = set(self.old)
        return tuple(name for name in self.new if name not in known)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Tokens that are no more."""
        kept = set(self.new)
        return tuple(name for name in self.old if name not in kept)

    @property
    def moves(self) -> bool:
        """Whether any row changes its place, or is new or gone."""
        return tuple(self.old) != tuple(self.new)

    def rows(self, tensor: Tensor, name: str) -> Tensor:
        """A vocabulary's tensor (old, ...) as one of the new vocabulary (new, ...).

        A token that was known keeps its row. A new one begins at the mean of its kind, or of all where no token of its kind was known, with
        a little noise, so that new ones differ: drawn from the seed and ``name`` alone.

        Source: means as in Hewitt, Initializing New Word Embeddings for Pretrained Language Models (2021); by kind is ours.
        """
        result = tensor.new_empty(len(self.new), *tensor.shape[1:])
        at = {token: row for row, token in enumerate(self.old)}
        kept = [row for row, token in enumerate(self.new) if token in at]
        result[kept] = tensor[[at[self.new[row]] for row in kept]]
        chance = torch.Generator().manual_seed(_mixed(self.seed, name))
        wide = tensor.detach().double().cpu()
        for row in (row for row, token in enumerate(self.new) if token not in at):
            like = [place for token, place in at.items() if kind_of(token) == kind_of(self.new[row])]
            rows = wide[like] if like else wide
            noise = torch.randn(rows.shape[1:], generator=chance, dtype=torch.float64)
            result[row] = (rows.mean(0) + NOISE * (rows if len(rows) > 1 else wide).std(0, correction=0) * noise).to(result)
        return result

    def moments(self, tensor: Tensor) -> Tensor:
        """What an optimizer remembers of such a tensor: of new tokens nothing, which is zero."""
        at = {token: row for row, token in enumerate(self.old)}
        result = tensor.new_zeros(len(self.new), *tensor.shape[1:])
        kept = [row for row, token in enumerate(self.new) if token in at]
        result[kept] = tensor[[at[self.new[row]] for row in kept]]
        return result


def kind_of(name: str) -> str:
    """What a token is of.

    >>> kind_of("Pitch_60"), kind_of("PAD")
    ('Pitch', 'PAD')
    """
    return name.rpartition("_")[0] or name


def _mixed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed},{name}".encode(), digest_size=8).digest(), "little") >> 1


def vocabulary_tensors(module: nn.Module, stored: Mapping[str, Any], change: VocabularyChange) -> set[str]:
    """The names in a module's state that have one row for each token.

    Where the two vocabularies differ in size, what has as many rows as each there and here, and otherwise the same shape. Where they are
    of one size, by what they belong to: embeddings of so many rows, and linear layers of so many outputs outside of the blocks.
    """
    here, sizes = module.state_dict(), (len(change.old), len(change.new))
    fitting = {
        name
        for name, value in here.items()
        if isinstance(value, Tensor)
        and isinstance(stored.get(name), Tensor)
        and value.ndim
        and stored[name].ndim == value.ndim
        and (stored[name].shape[0], value.shape[0]) == sizes
        and stored[name].shape[1:] == value.shape[1:]
    }
    return fitting if sizes[0] != sizes[1] else fitting & _by_module(module, sizes[1])


def _by_module(module: nn.Module, size: int) -> set[str]:
    network = getattr(module, "network", module)
    inside = {id(part) for _, block in blocks_of(network) for part in block.modules()}
    chosen = {id(module), id(network)}
    for part in module.modules():
        of_rows = isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.num_embeddings == size
        if of_rows or (isinstance(part, nn.Linear) and part.out_features == size and id(part) not in inside):
            chosen.add(id(part))
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if id(part) in chosen
        for name, _ in part.named_parameters(recurse=False)
    }
