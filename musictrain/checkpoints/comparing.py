"""Where two checkpoints differ, to the bit: what proves that a resume is exact, and names the first tensor if it is not.

Conventions: two numbers are equal if their bits are, so that a nan equals itself and 0.0 differs from -0.0. Types count (1 is not 1.0, a
list no tuple); which class of dict it is, in which order its keys stand, and which device a tensor is on do not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from musictrain.checkpoints.snapshot import key_path

FIRST = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
"""What is compared first: a difference in the weights explains those after it."""


@dataclass(frozen=True)
class Difference:
    """One place where two checkpoints differ.

    Args:
        key: where, as ``['state_dict']['head.weight']``.
        what: how, in words.
    """

    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.key}: {self.what}"


def first_difference(a: Any, b: Any, ignore: Sequence[str] = ()) -> Difference | None:
    """The first of ``differences``, None if there is none."""
    return next(differences(a, b, ignore), None)


def differences(a: Any, b: Any, ignore: Sequence[str] = ()) -> Iterator[Difference]:
    """Where two checkpoints differ: weights first, then optimizers, schedules, loops, callbacks and the rest.

    >>> [str(each) for each in differences({"state_dict": {"w": torch.zeros(2)}}, {"state_dict": {"w": torch.tensor([0.0, 0.5])}})]
    ["['state_dict']['w']: 1 of 2 elements differs, at [1]: 0.0 and 0.5, 0.5 apart"]

    Args:
        a: a checkpoint, or anything in one.
        b: another.
        ignore: keys that are passed over with all below them, such as ``['callbacks']['Timer']`` for what depends on the clock.

    Raises:
        ValueError: for a key to ignore that is not written like that.
    """
    for key in ignore:
        if not (key.startswith("[") and key.endswith("]")):
            raise ValueError(f"Got {key!r} to ignore, expected a key such as \"['callbacks']['Timer']\".")
    return _compare(a, b, (), tuple(ignore))


def _compare(a: Any, b: Any, path: tuple[Any, ...], ignore: tuple[str, ...]) -> Iterator[Difference]:
    key = key_path(path)
    if any(key == each or key.startswith(f"{each}[") for each in ignore):
        return
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if what := _tensors(a, b):
            yield Difference(key, what)
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        yield from _mappings(a, b, path, ignore)
    elif type(a) is type(b) and isinstance(a, list | tuple):
        yield from _sequences(a, b, path, ignore)
    elif type(a) is not type(b) or not _same(a, b):
        yield Difference(key, _apart(a, b))


def _mappings(a: Mapping[Any, Any], b: Mapping[Any, Any], path: tuple[Any, ...], ignore: tuple[str, ...]) -> Iterator[Difference]:
    keys = [*a, *(key for key in b if key not in a)]
    if not path:
        keys.sort(key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    for key in keys:
        if key in a and key in b:
            yield from _compare(a[key], b[key], (*path, key), ignore)
        else:
            missing = Difference(key_path((*path, key)), f"only the {'first' if key in a else 'second'} has it")
            if not any(missing.key == each or missing.key.startswith(f"{each}[") for each in ignore):
                yield missing


def _sequences(a: Sequence[Any], b: Sequence[Any], path: tuple[Any, ...], ignore: tuple[str, ...]) -> Iterator[Difference]:
    if len(a) != len(b):
        yield Difference(key_path(path), f"{len(a)} items and {len(b)}")
    for position, (one, other) in enumerate(zip(a, b, strict=False)):
        yield from _compare(one, other, (*path, position), ignore)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, complex):
        return struct.pack("<dd", a.real, a.imag) == struct.pack("<dd", b.real, b.imag)
    return bool(a == b)


def _apart(a: Any, b: Any) -> str:
    if type(a) is not type(b):
        return f"{_short(a)} ({type(a).__name__}) and {_short(b)} ({type(b).__name__})"
    return f"{_short(a)} and {_short(b)}"


def _short(value: Any) -> str:
    text = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _tensors(a: Tensor, b: Tensor) -> str:
    """How two tensors differ, empty if they do not."""
    for what, was, now in (("shape", tuple(a.shape), tuple(b.shape)), ("dtype", a.dtype, b.dtype), ("layout", a.layout, b.layout)):
        if was != now:
            return f"{what} {was} and {now}"
    a, b = _plain(a), _plain(b)
    if torch.equal(_bits(a), _bits(b)):
        return ""
    rows = (_bits(a) != _bits(b)).any(dim=1)
    places = rows.nonzero().reshape(-1)
    where = [int(index) for index in torch.unravel_index(places[0], a.shape)]
    one, other = a.reshape(-1)[rows], b.reshape(-1)[rows]
    if len(places) == 1:
        return f"1 of {a.numel():,} elements differs, at {where}: {_values(one, other)}, {_distance(one, other)}"
    return f"{len(places):,} of {a.numel():,} elements differ, first at {where}: {_values(one, other)}; at most {_distance(one, other)}"


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().to_dense().resolve_conj().resolve_neg().contiguous()


def _bits(tensor: Tensor) -> Tensor:
    """The bytes of each element, (elements, bytes)."""
    return tensor.reshape(-1).view(torch.uint8).reshape(-1, tensor.element_size())


def _values(one: Tensor, other: Tensor) -> str:
    """The first element of each."""
    texts = [str(each[0].item()) for each in (one, other)]
    if texts[0] == texts[1]:
        # Two nans.
        texts = [f"{text} (0x{bytes(_bits(each)[0].tolist()[::-1]).hex()})" for text, each in zip(texts, (one, other), strict=True)]
    return " and ".join(texts)


def _distance(one: Tensor, other: Tensor) -> str:
    wide = torch.complex128 if one.is_complex() else torch.float64
    apart = (one.to(wide) - other.to(wide)).abs()
    finite = apart[apart.isfinite()]
    if not len(finite):
        return "no finite number apart"
    return f"{finite.max().item():g} apart" + ("" if len(finite) == len(apart) else ", nan and infinities left out")
