"""A copy of a checkpoint that training cannot change any more, and the check that everything in it can be read back safely.

Conventions: a checkpoint is a tree of dicts, lists and tuples with tensors and plain values. Tensors that share memory share it in the
copy. The buffers of a copy are used again for the next one: memory that is touched for the first time costs more than the copying.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

PLAIN = (type(None), bool, int, float, str, bytes)
CONTAINERS = (dict, OrderedDict, list, tuple, set)


class UnsafeStateError(TypeError):
    """A checkpoint holds what cannot be read back with ``weights_only``; the message names the key."""


class Buffers:
    """Main memory for one copy at a time, kept from one to the next."""

    def __init__(self) -> None:
        self._free: dict[int, list[Tensor]] = {}
        self._used: list[Tensor] = []

    def take(self, num_bytes: int, pinned: bool) -> Tensor:
        """A uint8 tensor of this many bytes, pinned if a GPU is to write into it."""
        free = self._free.get(num_bytes)
        buffer = free.pop() if free else torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)
        self._used.append(buffer)
        return buffer

    def release(self) -> None:
        """The copy is no longer needed. What it did not use of the one before is given back to the system."""
        self._free = {}
        for buffer in self._used:
            self._free.setdefault(buffer.numel(), []).append(buffer)
        self._used = []


def snapshot(tree: Any, buffers: Buffers | None = None) -> Any:
    """A copy of ``tree`` in main memory. Values of a type that ``weights_only`` would refuse are an error here, at the first save.

    Raises:
        UnsafeStateError: naming the key.
    """
    return _Copier(buffers or Buffers()).copied(tree)


class _Copier:
    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._storages: dict[tuple[str, int], Tensor] = {}
        self._sources: list[Any] = []  # keeps what was copied alive, so that no address is given out twice
        self._waits = False

    def copied(self, tree: Any) -> Any:
        copy = self._of(tree, ())
        if self._waits:
            torch.cuda.synchronize()
        return copy

    def _of(self, value: Any, path: tuple[Any, ...]) -> Any:
        kind = type(value)
        if kind in PLAIN:
            return value
        if isinstance(value, Tensor):
            return self._tensor(value)
        if kind in (dict, OrderedDict):
            copy: Any = kind((self._key(key, path), self._of(item, (*path, key))) for key, item in value.items())
            if hasattr(value, "_metadata"):  # the versions of a module's layers, which its state_dict carries along
                copy._metadata = value._metadata
            return copy
        if kind in (list, tuple, set):
            return kind(self._of(item, (*path, position)) for position, item in enumerate(value))
        check_leaf(value, path)
        return value

    def _key(self, key: Any, path: tuple[Any, ...]) -> Any:
        if type(key) not in PLAIN:
            check_leaf(key, (*path, key))
        return key

    def _tensor(self, tensor: Tensor) -> Tensor:
        plain = tensor.detach()
        if plain.layout != torch.strided or plain.is_quantized or type(plain) is not Tensor or plain.device.type == "meta":
            return plain.to("cpu", copy=True)
        if plain.numel() * plain.element_size() < plain.untyped_storage().nbytes() // 2:
            # A small view of much memory is worth its own bytes only.
            return plain.to("cpu", copy=True).contiguous()
        return torch.empty(0, dtype=plain.dtype).set_(  # type: ignore[call-overload, no-any-return]
            self._storage(plain).untyped_storage(), plain.storage_offset(), plain.shape, plain.stride()
        )

    def _storage(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = (str(tensor.device), storage.data_ptr())
        if storage.nbytes() == 0:
            return torch.empty(0, dtype=torch.uint8)
        if key not in self._storages:
            on_gpu = tensor.device.type == "cuda"
            source = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)  # type: ignore[call-overload]
            self._storages[key] = self._buffers.take(storage.nbytes(), pinned=on_gpu)
            self._storages[key].copy_(source, non_blocking=on_gpu)
            self._sources.append(source)
            self._waits |= on_gpu
        return self._storages[key]


def check_leaf(value: Any, path: tuple[Any, ...]) -> None:
    """Refuse a value that cannot be read back with ``weights_only``, by trying it.

    Raises:
        UnsafeStateError: naming the key.
    """
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise UnsafeStateError(
            f"The checkpoint's {key_path(path)} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be read back: "
            "checkpoints hold tensors and plain values (numbers, text, lists, dicts) only. Convert it where it comes from, a state_dict "
            "or hyper-parameters, such as by float(x) or str(path)."
        ) from error


def key_path(path: tuple[Any, ...]) -> str:
    """A key inside a checkpoint as people write it.

    >>> key_path(("callbacks", "Mine", "best", 0))
    "['callbacks']['Mine']['best'][0]"
    """
    return "".join(f"[{part!r}]" for part in path) or "content"


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor of a tree."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors(item)
    elif isinstance(tree, list | tuple | set):
        for item in tree:
            yield from tensors(item)


def plain_size(tree: Any) -> int:
    """Bytes of all tensors of a tree, shared memory counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors(tree) if _has_storage(tensor)}
    return sum(storages.values())


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and type(tensor) in (Tensor, torch.nn.Parameter)


def first_not_finite(tree: Any) -> str:
    """The key of the first floating-point tensor with a nan or an infinity, empty if there is none.

    >>> first_not_finite({"state_dict": {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}})
    "['state_dict']['b']"
    """
    return _search(
        tree,
        (),
        lambda tensor: (
            tensor.is_floating_point()
            and not bool(torch.isfinite(tensor.sum(dtype=torch.float64)))
            and not bool(torch.isfinite(tensor).all())
        ),
    )


def _search(tree: Any, path: tuple[Any, ...], wanted: Callable[[Tensor], bool]) -> str:
    if isinstance(tree, Tensor):
        return key_path(path) if wanted(tree) else ""
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return next((found for key, item in items if (found := _search(item, (*path, key), wanted))), "")
