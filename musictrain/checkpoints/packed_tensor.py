"""One tensor packed exactly: a dict of plain values that ``torch.load(weights_only=True)`` reads, and the tensor again.

    {"musictrain_packed": 1, "dtype": "float32", "shape": [384, 1536], "data": uint8 tensor}

Version 1 is packed by ``float_codec``, version 2 by gzip.

The dict may come from anybody's file: everything in it is checked before memory is taken for what it claims to hold.
"""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from musictrain.checkpoints.float_codec import BLOCK, HEADER_BYTES, CodecError, packed_words, unpack_words

MARK = "musictrain_packed"
VERSION, GZIP = 1, 2
GZIP_LEVEL, GZIP_WINDOW = 6, 31
KEYS = (MARK, "dtype", "shape", "data")
SMALLEST = 4096
"""Bytes a tensor needs to be worth packing."""
MOST_KEPT = 0.97
"""A tensor stays plain if more than this share of its bytes would be left."""
MOST_DIMENSIONS = 64

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class PackingError(ValueError):
    """What cannot be packed or unpacked; the message says why."""


def is_packable(tensor: Tensor) -> bool:
    """Whether packing loses nothing: a plain tensor of floating-point numbers in main memory that fills its storage, not too small."""
    return (
        type(tensor) is Tensor
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.dtype in _NAMES
        and tensor.nbytes >= SMALLEST
        and tensor.untyped_storage().nbytes() == tensor.nbytes
        and tensor.is_contiguous()
        and tensor.dim() <= MOST_DIMENSIONS
        and not (tensor.requires_grad or tensor.is_neg() or vars(tensor))
    )


def packed_tensor(tensor: Tensor, *, by_gzip: bool = False) -> dict[str, Any] | None:
    """The packed form of a tensor that ``is_packable``; None if it is hardly smaller."""
    packed = _gzipped(tensor) if by_gzip else packed_words(_words(tensor))
    if len(packed) > MOST_KEPT * tensor.nbytes:
        return None
    return dict(zip(KEYS, (GZIP if by_gzip else VERSION, _NAMES[tensor.dtype], list(tensor.shape), torch.from_numpy(packed)), strict=True))


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """What a packed form says about itself.

    Args:
        dtype: of the tensor.
        shape: of the tensor.
        data: its packed bytes, (bytes,) of uint8.
        version: how they were packed.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: Tensor
    version: int = VERSION

    @classmethod
    def of(cls, form: dict[Any, Any]) -> PackedTensor:
        """A packed form, checked but for its bytes.

        Raises:
            PackingError: if it is none, or of a version of its own.
        """
        version = form.get(MARK)
        if type(version) is not int or version not in (VERSION, GZIP):
            raise PackingError(f"A tensor is packed in version {_short(version)}, this musictrain knows {GZIP}: a newer one is needed.")
        if set(form) != set(KEYS):
            raise PackingError(f"A packed tensor has the keys {_short(list(form))}; expected {', '.join(KEYS)}.")
        dtype, shape, data = (form[key] for key in KEYS[1:])
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise PackingError(f"A packed tensor has dtype {_short(dtype)}; expected {', '.join(DTYPES)}.")
        if not _is_shape(shape):
            raise PackingError(f"A packed tensor has shape {_short(shape)}; expected a list of 1 to {MOST_DIMENSIONS} sizes.")
        if not _is_data(data):
            raise PackingError("The data of a packed tensor is no contiguous uint8 tensor of one dimension.")
        packed = cls(DTYPES[dtype], tuple(shape), data, version)
        if version == VERSION and HEADER_BYTES * -(-math.prod(shape) // BLOCK) > len(data):
            raise PackingError(f"{packed} has {len(data):,} bytes of data, too few for what it claims to hold.")
        return packed

    @property
    def plain_bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def unpacked(self) -> Tensor:
        """The tensor, bit for bit, on the device its packed bytes are on.

        Raises:
            PackingError: if the bytes are none that ``packed_tensor`` gave, or memory is too small.
        """
        try:
            tensor = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        except RuntimeError as error:
            raise PackingError(f"{self} does not fit into memory: it claims {self.plain_bytes:,} bytes.") from error
        try:
            self._unpack_into(tensor)
        except (CodecError, zlib.error) as error:
            raise PackingError(f"{self} is damaged: {error}.") from error
        return tensor.to(self.data.device)

    def _unpack_into(self, tensor: Tensor) -> None:
        if self.version == VERSION:
            unpack_words(self.data.cpu().numpy(), _words(tensor))
            return
        # One byte more than it may hold: a bomb is found out before it has gone off.
        coder = zlib.decompressobj(GZIP_WINDOW)
        content = coder.decompress(self.data.cpu().numpy().tobytes(), self.plain_bytes + 1)
        if len(content) != self.plain_bytes:
            raise CodecError("it holds another number of bytes than it claims")
        if not coder.eof or coder.unused_data:
            raise CodecError("its gzip stream does not end where its data ends")
        words = _words(tensor)
        words[:] = np.frombuffer(content, words.dtype)

    def __str__(self) -> str:
        return f"A packed tensor ({_NAMES[self.dtype]}, {' x '.join(map(str, self.shape))})"


def _gzipped(tensor: Tensor) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(gzip.compress(_words(tensor).tobytes(), GZIP_LEVEL, mtime=0)), np.uint8)


def _words(tensor: Tensor) -> NDArray[np.unsignedinteger[Any]]:
    """The memory of a contiguous tensor, as unsigned integers of its elements' size."""
    integers: NDArray[Any] = tensor.view(-1).view(_INTEGERS[tensor.itemsize]).numpy()
    return integers.view(f"u{tensor.itemsize}")


def _short(value: Any) -> str:
    try:
        return shortened(value)
    except ValueError:  # Python refuses to write down integers of more than 4,300 digits
        return f"a {type(value).__name__} too long to write down"


def _is_shape(shape: Any) -> bool:
    return type(shape) is list and 1 <= len(shape) <= MOST_DIMENSIONS and all(type(size) is int and 1 <= size < 2**63 for size in shape)


def _is_data(data: Any) -> bool:
    return (
        type(data) is Tensor
        and data.layout == torch.strided
        and data.dtype == torch.uint8
        and data.device.type != "meta"
        and data.dim() == 1
        and data.is_contiguous()
    )
