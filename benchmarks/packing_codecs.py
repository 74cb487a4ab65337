"""The codecs that ``benchmarks.packing`` compares: each packs a checkpoint, or the file it is in, and gives it back."""

from __future__ import annotations

import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from musictrain.checkpoints import float_codec
from musictrain.checkpoints.packed_tensor import is_packable
from musictrain.checkpoints.packing import pack, packed_sizes, unpack

ROUNDS = 5


@dataclass(frozen=True)
class Codec:
    """One row of the table.

    Args:
        pack: a checkpoint's tree to something packed.
        unpack: the reverse.
        stored_bytes: of the packed form, in a file.
        input_bytes: of the tree, as far as it is packed.
        rounds: how often it is measured.
    """

    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]
    stored_bytes: Callable[[Any], int] = lambda packed: len(saved(packed))
    input_bytes: Callable[[Any], int] = lambda tree: packed_sizes(tree).plain_bytes
    rounds: int = ROUNDS


def saved(tree: Any) -> bytes:
    """A tree as a file of ``torch.save``."""
    file = io.BytesIO()
    torch.save(tree, file)
    return file.getvalue()


def of_whole_file(compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes], rounds: int = ROUNDS) -> Codec:
    """A codec that takes the bytes of a file, which is not read by ``torch.load`` any more."""
    return Codec(compress, decompress, len, len, rounds)


def of_each_tensor(compress: Callable[[Tensor], bytes], decompress: Callable[[bytes, bytearray], None]) -> Codec:
    """A codec that takes the bytes of every tensor musictrain would pack."""

    def compress_all(tree: Any) -> Any:
        return [torch.frombuffer(bytearray(compress(tensor)), dtype=torch.uint8) for tensor in packable(tree)], tree

    def decompress_all(packed: Any) -> list[bytearray]:
        plain = [bytearray(tensor.nbytes) for tensor in packable(packed[1])]
        for coded, buffer in zip(packed[0], plain, strict=True):
            decompress(coded.numpy().tobytes(), buffer)
        return plain

    def stored_bytes(packed: Any) -> int:
        return len(saved(packed[1])) + sum(coded.nbytes - plain.nbytes for coded, plain in zip(packed[0], packable(packed[1]), strict=True))

    return Codec(compress_all, decompress_all, stored_bytes)


def packable(tree: Any) -> list[Tensor]:
    """Every tensor of a tree that musictrain would try to pack."""
    if isinstance(tree, Tensor):
        return [tree] if is_packable(tree) else []
    items = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for item in items for tensor in packable(item)]


def blosc2(codec: str, level: int, shuffle: str) -> Codec:
    """blosc2, which shuffles bytes or bits before its codec, 64 KiB to some MiB at a time."""
    library = importlib.import_module("blosc2")

    def compress(tensor: Tensor) -> bytes:
        plain = tensor.view(-1).view(torch.uint8).numpy()
        filters = [getattr(library.Filter, shuffle)]
        return library.compress2(plain, codec=library.Codec[codec], clevel=level, filters=filters, typesize=tensor.itemsize, nthreads=1)  # type: ignore[no-any-return]

    return of_each_tensor(compress, lambda coded, plain: library.decompress2(coded, dst=plain, nthreads=1))


def zstandard(level: int) -> Codec:
    """zstandard over the whole file."""
    library = importlib.import_module("zstandard")
    return of_whole_file(library.ZstdCompressor(level=level).compress, library.ZstdDecompressor().decompress)


def ours(which: str, rounds: int = ROUNDS) -> Codec:
    """``musictrain.checkpoints.packing``."""
    return Codec(partial(pack, which=which), unpack, input_bytes=partial(_bytes_packed_by, which), rounds=rounds)


def _bytes_packed_by(which: str, tree: Any) -> int:
    weights = {tensor.data_ptr() for tensor in packable(tree.get("state_dict"))} if which != "all" else set()
    return sum(tensor.nbytes for tensor in packable(tree) if tensor.data_ptr() not in weights)


def ours_with_zstandard(level: int) -> Codec:
    """What a dependency would bring: the same form with zstandard in the place of zlib."""
    library = importlib.import_module("zstandard")

    class Coder:
        eof, unused_data = True, b""

        def compress(self, plain: Any) -> bytes:
            return library.ZstdCompressor(level=level).compress(plain)  # type: ignore[no-any-return]

        def flush(self) -> bytes:
            return b""

        def decompress(self, coded: Any, most: int) -> bytes:
            return library.ZstdDecompressor().decompress(coded, max_output_size=most)  # type: ignore[no-any-return]

    @contextmanager
    def replaced() -> Iterator[None]:
        with (
            patch.object(float_codec.zlib, "compressobj", lambda *_: Coder()),
            patch.object(float_codec.zlib, "decompressobj", Coder),
        ):
            yield

    return Codec(replaced()(partial(pack, which="all")), replaced()(unpack))


CODECS: dict[str, Callable[[], Codec]] = {
    "gzip -6, whole file": lambda: of_whole_file(lambda plain: zlib.compress(plain, 6), zlib.decompress, rounds=1),
    "zstd -1, whole file": lambda: zstandard(1),
    "blosc2 bitshuffle + lz4": lambda: blosc2("LZ4", 1, "BITSHUFFLE"),
    "blosc2 shuffle + lz4": lambda: blosc2("LZ4", 1, "SHUFFLE"),
    "blosc2 bitshuffle + zstd -1": lambda: blosc2("ZSTD", 1, "BITSHUFFLE"),
    "blosc2 shuffle + zstd -1": lambda: blosc2("ZSTD", 1, "SHUFFLE"),
    "musictrain gzip": lambda: ours("gzip", rounds=1),
    "musictrain all, zstd -1 for zlib": lambda: ours_with_zstandard(1),
    "musictrain optimizer": lambda: ours("optimizer"),
    "musictrain all": lambda: ours("all"),
}
