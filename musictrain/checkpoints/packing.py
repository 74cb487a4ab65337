"""Exact packing of the tensors inside a checkpoint: the file stays what ``torch.save`` writes, and some of its tensors become smaller.

A packed tensor is a small dict (see ``packed_tensor``) in the place of the tensor; ``float_codec`` says how numbers are packed.

Conventions: a checkpoint is a tree of dicts, lists and tuples with tensors and plain values. Nothing that is handed in is changed; what
needs no change is handed on as it is.

>>> ones = torch.ones(64, 64)
>>> packed = pack({"state_dict": {"weight": ones}, "optimizer_states": [{"exp_avg": ones + 1}]}, "optimizer")
>>> print(packed_sizes(packed))
0.033 MB in 0.017 MB (1.96x smaller, 1 tensor packed)
>>> packed["state_dict"]["weight"] is ones, torch.equal(unpack(packed)["optimizer_states"][0]["exp_avg"], ones + 1)
(True, True)
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from musictrain.checkpoints.packed_tensor import MARK, PackedTensor, PackingError, is_packable, packed_tensor
from musictrain.suggestions import did_you_mean

PACKINGS = ("none", "optimizer", "all", "gzip")
"""What may be packed: nothing; everything but the weights, which any torch user can then read; the weights too; as the second, by gzip."""

_UNFINISHED = object()


def pack(tree: Any, which: str = "optimizer") -> Any:
    """A checkpoint in which tensors are packed, to be undone by ``unpack``.

    Packed are dense tensors in main memory, of float64, float32, bfloat16 or float16, contiguous, at least 4 KiB large, that fill their
    storage, need no gradient and become smaller. Anything else stays as it is: views of larger storages, subclasses of Tensor, quantized,
    sparse, complex and integer tensors, and whatever lies in other containers than dict, OrderedDict, list and tuple. A tensor that is
    there twice, or shares its storage with another of the same shape, is packed once.

    Args:
        tree: a checkpoint.
        which: ``none``; ``optimizer``: everything but what is under the key ``state_dict`` or shares its memory; ``all``;
            ``gzip``: as ``optimizer``, slowly and hardly smaller.

    Raises:
        ValueError: if there is no such packing.
        PackingError: if the tree is packed already, contains itself, or is nested some hundred levels deep.
    """
    if which not in PACKINGS:
        raise ValueError(f"packing is {which!r}; it may be {', '.join(PACKINGS)}. {did_you_mean(which, PACKINGS)}".rstrip())
    if which == "none":
        return tree
    weights = tree.get("state_dict") if which != "all" and isinstance(tree, dict) else None
    return _Changed(_Packer(_uses(tree), spared=set(_uses(weights)), by_gzip=which == "gzip"))(tree)


def unpack(tree: Any, limit_bytes: int | None = None) -> Any:
    """The checkpoint that was packed, bit for bit; a tree without packed tensors as it is.

    Args:
        tree: what ``pack`` gave, saved and loaded in between or not. Tensors appear on the device their packed bytes are on.
        limit_bytes: most bytes that all packed tensors together may unpack to.

    Raises:
        PackingError: if a packed tensor is malformed, or all together exceed the limit: then before anything is unpacked. No tensor takes
            more memory than the bytes it claims to hold, and those of a few blocks.
    """
    packed = _packed_tensors(tree)
    total = sum(one.plain_bytes for one in packed.values())
    if limit_bytes is not None and total > limit_bytes:
        raise PackingError(f"The packed tensors claim to hold {total:,} bytes; {limit_bytes:,} at most were expected.")
    return _Changed(lambda node: packed[id(node)].unpacked() if id(node) in packed else node)(tree)


@dataclass(frozen=True)
class PackedSizes:
    """What packing saved.

    Args:
        num_packed: tensors that are packed.
        plain_bytes: of all tensors, unpacked; shared memory counts once.
        stored_bytes: of all tensors as they are.
    """

    num_packed: int
    plain_bytes: int
    stored_bytes: int

    @property
    def ratio(self) -> float:
        """How many times smaller the tensors became; 1 if there are none."""
        return self.plain_bytes / self.stored_bytes if self.stored_bytes else 1.0

    def __str__(self) -> str:
        plain, stored = (f"{size / 1e6:,.{1 if size > 1e6 else 3}f} MB" for size in (self.plain_bytes, self.stored_bytes))
        return f"{plain} in {stored} ({self.ratio:.2f}x smaller, {self.num_packed:,} tensor{'s' * (self.num_packed != 1)} packed)"


def packed_sizes(tree: Any) -> PackedSizes:
    """How large the tensors of a checkpoint, packed or not, are and were.

    Raises:
        PackingError: if a packed tensor is malformed.
    """
    storages: dict[int, int] = {}

    def count(node: Any) -> Any:
        if isinstance(node, Tensor) and _is_dense(node):
            storages[node.untyped_storage().data_ptr()] = node.untyped_storage().nbytes()
        return node

    _Changed(count)(tree)
    packed, stored = _packed_tensors(tree).values(), sum(storages.values())
    return PackedSizes(len(packed), stored + sum(one.plain_bytes - len(one.data) for one in packed), stored)


class _Changed:
    """Copies a tree as far as ``change`` gives back something else for a container or a tensor in it.

    What is there twice is changed once, and there twice again.
    """

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self._change = change
        self._known: dict[int, Any] = {}

    def __call__(self, tree: Any) -> Any:
        try:
            return self._of(tree)
        except RecursionError:
            raise PackingError("The checkpoint is nested too deeply to be packed or unpacked.") from None

    def _of(self, node: Any) -> Any:
        if not isinstance(node, Tensor | dict | list | tuple):
            return node
        if id(node) not in self._known:
            self._known[id(node)] = _UNFINISHED
            changed = self._change(node)
            self._known[id(node)] = self._with_changed_items(node) if changed is node else changed
        elif self._known[id(node)] is _UNFINISHED:
            raise PackingError(f"A {type(node).__name__} of the checkpoint contains itself, which cannot be packed or unpacked.")
        return self._known[id(node)]

    def _with_changed_items(self, node: Any) -> Any:
        kind = type(node)
        if kind in (list, tuple):
            items = [self._of(item) for item in node]
            return node if all(new is old for new, old in zip(items, node, strict=True)) else kind(items)
        if kind not in (dict, OrderedDict):
            return node
        copy = kind((key, self._of(item)) for key, item in node.items())
        if all(copy[key] is item for key, item in node.items()):
            return node
        if kind is OrderedDict:
            vars(copy).update(vars(node))  # where a state_dict keeps the versions of its modules
        return copy


class _Packer:
    """Gives a tensor's packed form, the same for all that share its storage; anything else, and what is not worth it, as it is."""

    def __init__(self, uses: dict[int, set[tuple[Any, ...]]], spared: set[int], by_gzip: bool) -> None:
        self._uses, self._spared, self._by_gzip = uses, spared, by_gzip
        self._packed: dict[int, dict[str, Any] | None] = {}

    def __call__(self, node: Any) -> Any:
        if not isinstance(node, Tensor) or not is_packable(node):
            return node
        address = node.untyped_storage().data_ptr()
        if address in self._spared or len(self._uses[address]) > 1:
            return node
        if address not in self._packed:
            self._packed[address] = packed_tensor(node, by_gzip=self._by_gzip)
        return node if self._packed[address] is None else self._packed[address]


def _uses(tree: Any) -> dict[int, set[tuple[Any, ...]]]:
    """The storages of a tree, by address: in which ways tensors look at each."""
    found: defaultdict[int, set[tuple[Any, ...]]] = defaultdict(set)

    def note(node: Any) -> Any:
        if isinstance(node, dict) and MARK in node:
            raise PackingError(f"The checkpoint is packed already: it has a dict with the key {MARK!r}. Unpack it first.")
        if isinstance(node, Tensor) and _is_dense(node):
            look = (type(node), node.dtype, node.shape, node.stride(), node.storage_offset(), node.requires_grad)
            found[node.untyped_storage().data_ptr()].add(look)
        return node

    _Changed(note)(tree)
    return found


def _packed_tensors(tree: Any) -> dict[int, PackedTensor]:
    """Every packed tensor of a tree by the identity of its dict, each checked."""
    found: dict[int, PackedTensor] = {}

    def check(node: Any) -> Any:
        if isinstance(node, dict) and MARK in node:
            found[id(node)] = PackedTensor.of(node)
        return node

    _Changed(check)(tree)
    return found


def _is_dense(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
