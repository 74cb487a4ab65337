"""Floating-point numbers packed exactly, at some hundred megabytes a second a core: zlib for what is predictable, the rest as it is.

Of a trained number only the exponent is predictable: 8 of a float32's 32 bits carry some 2.5. A block of numbers, as unsigned words:

1. Exact zeros (+0.0), if there are many, leave for a bit map: the moments of tokens that were never met.
2. The highest 16 bits of each word are turned left by one: the exponent is then the first byte, and the sign the last bit of the second.
3. First bytes: most lie in a window of 15 neighbouring values and become 4 bits, two of them one byte, so that zlib has half as much to
   code. The others become 15 and are kept apart. Both go through zlib with Huffman codes alone.
4. Second bytes and lower bits are noise, and kept as they are unless a sample says otherwise. Where every sign is plus (second moments),
   its bit is left out.

Conventions: a packed array is a row of blocks; a block is a header and its sections. A section as long as its plain bytes is plain, a
shorter one is a zlib stream. Little-endian everywhere. There is no digest: of damage, only what breaks the form is found.

Source: byte planes as in blosc's shuffle and ZipNN (Hershcovitch et al., 2024); the window, its pairs and the signs are ours.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.unsignedinteger[Any]]
Bytes = NDArray[np.uint8]

BLOCK = 2**18
"""Words of a block: few enough that all its arrays stay in the processor's cache."""

ESCAPE = 15
FEWEST_ZEROS = 1 / 16
NOISE_BITS = 7.2
SAMPLE = 4096

_HEADER = struct.Struct("<BB6I")
"""The lowest first byte of the window, flags, and the size of each section; 0 for those that are not there."""
HEADER_BYTES = _HEADER.size
_HAS_ZEROS, _UNSIGNED = 1, 2
_LOWER: dict[int, tuple[tuple[str, int], ...]] = {2: (), 4: (("<u2", 0),), 8: (("<u2", 32), ("<u4", 0))}
"""What a word of so many bytes has below its highest two: type and lowest bit of each part."""
_ONE_TO_SEVEN = np.arange(1, 8, dtype=np.uint8)[:, None]


class CodecError(ValueError):
    """Bytes that ``packed_words`` never gave."""


def packed_words(words: Words) -> Bytes:
    """Unsigned words of 2, 4 or 8 bytes, (words,), as packed bytes. Noise grows by a fiftieth, and some hundred bytes."""
    sections = (section for start in range(0, len(words), BLOCK) for section in _block(words[start : start + BLOCK]))
    return np.concatenate([np.empty(0, np.uint8), *(np.frombuffer(section, np.uint8) for section in sections if len(section))])


def unpack_words(packed: Bytes, words: Words) -> None:
    """Fill ``words`` with what was packed. Some times a block's memory is needed, whatever the bytes say.

    Raises:
        CodecError: if these are not the packed bytes of that many words of that size. ``words`` then holds anything.
    """
    data, position = packed.data, 0
    for start in range(0, len(words), BLOCK):
        position = _unpack_block(_Sections(data, position), words[start : start + BLOCK])
    if position != len(data):
        raise CodecError(f"{len(data) - position:,} bytes follow its last block")


# Packing.


def _block(words: Words) -> Iterator[bytes | memoryview]:
    """Header and sections of one block."""
    kept = words != 0 if len(words) - np.count_nonzero(words) > FEWEST_ZEROS * len(words) else None
    values = words if kept is None else words[kept]
    first, second = _highest_bytes(values)
    unsigned = not np.bitwise_or.reduce(second, initial=0) & 1
    window, nibbles, escaped = _nibbles(first)
    noise = [_without_last_bit(second) if unsigned else second]
    noise += [(values >> shift).astype(kind) for kind, shift in _LOWER[words.itemsize]]
    sections = [
        *([] if kept is None else [_deflated(np.packbits(kept), zlib.Z_RLE)]),
        _deflated(_pairs(nibbles), zlib.Z_HUFFMAN_ONLY),
        _deflated(escaped, zlib.Z_HUFFMAN_ONLY),
        *(_deflated(part, zlib.Z_RLE) if _is_predictable(part) else _plain(part) for part in noise),
    ]
    flags = (kept is not None) * _HAS_ZEROS | unsigned * _UNSIGNED
    sizes = [len(section) for section in sections]
    yield _HEADER.pack(window, flags, *sizes, *[0] * (6 - len(sizes)))
    yield from sections


def _highest_bytes(words: Words) -> tuple[Bytes, Bytes]:
    """The two highest bytes of each word, once these 16 bits have been turned left by one."""
    highest = (words >> (8 * words.itemsize - 16)).astype("<u2")
    turned = highest << 1
    turned |= highest >> 15
    return (turned >> 8).astype(np.uint8), turned.astype(np.uint8)


def _nibbles(first: Bytes) -> tuple[int, Bytes, Bytes]:
    """The start of the window that holds most, each byte's place in it (15: it lies outside), and the bytes outside."""
    counts = np.bincount(_sample(first), minlength=256)
    window = int(np.convolve(counts, np.ones(ESCAPE), "valid").argmax())
    # The limit as an array: numpy's minimum with a single byte is ten times slower.
    nibbles = np.minimum(first - np.uint8(window), np.full(len(first), ESCAPE, np.uint8))
    return window, nibbles, first[nibbles == ESCAPE]


def _pairs(nibbles: Bytes) -> Bytes:
    even = nibbles if len(nibbles) % 2 == 0 else np.append(nibbles, np.uint8(0))
    wide = even.view("<u2")
    return (wide | (wide >> 4)).astype(np.uint8)


def _without_last_bit(second: Bytes) -> Bytes:
    """Bytes whose last bit is 0, eight in the place of seven: the bits of the last eighth go where the others have that 0."""
    rows = np.zeros((8, -(-len(second) // 8)), np.uint8)
    rows.reshape(-1)[: len(second)] = second
    return (rows[:7] | ((rows[7] >> _ONE_TO_SEVEN) & 1)).reshape(-1)


def _is_predictable(part: NDArray[Any]) -> bool:
    """Whether the bytes of a part, by a sample, carry clearly less than 8 bits each."""
    counts = np.bincount(_sample(part.view(np.uint8)))
    shares = counts[counts > 0] / max(1, counts.sum())
    return bool(-(shares * np.log2(shares)).sum() < NOISE_BITS)


def _sample(plain: Bytes) -> Bytes:
    # An odd step meets every byte of a wider word, and every column of a matrix.
    return plain[:: len(plain) // SAMPLE | 1]


def _deflated(part: Bytes, strategy: int) -> bytes | memoryview:
    coder = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    plain = _plain(part)
    coded = coder.compress(plain) + coder.flush()
    return coded if len(coded) < len(plain) else plain


def _plain(part: NDArray[Any]) -> memoryview:
    return part.view(np.uint8).data


# Unpacking.


def _unpack_block(sections: _Sections, words: Words) -> int:
    """Fill one block's words, and say where the next block begins."""
    kept = None
    if sections.flags & _HAS_ZEROS:
        kept = np.unpackbits(sections.take(-(-len(words) // 8)), count=len(words)).view(bool)
    values = words if kept is None else np.empty(np.count_nonzero(kept), words.dtype)
    first = _first_bytes(sections, len(values))
    second = _second_bytes(sections, len(values))
    _join(first, second, values)
    for kind, shift in _LOWER[words.itemsize]:
        values |= sections.take(len(values) * np.dtype(kind).itemsize).view(kind).astype(words.dtype) << shift
    if kept is not None:
        words[:] = 0
        words[kept] = values
    return sections.end()


def _first_bytes(sections: _Sections, number: int) -> Bytes:
    wide = sections.take(-(-number // 2)).astype("<u2")
    wide |= wide << 4
    wide &= 0x0F0F
    nibbles = wide.view(np.uint8)[:number]
    outside = nibbles == ESCAPE
    first = nibbles + np.uint8(sections.window)
    escaped = sections.take(int(np.count_nonzero(outside)))
    if len(escaped):
        first[outside] = escaped
    return first


def _second_bytes(sections: _Sections, number: int) -> Bytes:
    if not sections.flags & _UNSIGNED:
        return sections.take(number)
    columns = -(-number // 8)
    rows = sections.take(7 * columns).reshape(7, columns)
    last = np.bitwise_or.reduce((rows & 1) << _ONE_TO_SEVEN, axis=0)
    return np.concatenate([(rows & 0xFE).reshape(-1), last])[:number]


def _join(first: Bytes, second: Bytes, words: Words) -> None:
    """Put two turned bytes back to the highest 16 bits of each word, and zeros below."""
    turned = first.astype("<u2")
    turned <<= 8
    turned |= second.astype("<u2")
    highest = turned >> 1
    highest |= turned << 15
    np.left_shift(highest.astype(words.dtype), 8 * words.itemsize - 16, out=words)


class _Sections:
    """Reads the sections of the block that begins at ``position``, one after the other.

    Raises:
        CodecError: if there is no header.
    """

    def __init__(self, data: memoryview, position: int) -> None:
        if position + HEADER_BYTES > len(data):
            raise CodecError(f"it ends after {len(data):,} bytes, where another block should begin")
        self.window, self.flags, *sizes = _HEADER.unpack_from(data, position)
        self._data, self._sizes, self._position = data, sizes, position + HEADER_BYTES

    def take(self, plain_size: int) -> Bytes:
        """The next section's plain bytes.

        Raises:
            CodecError: if it is not what it should be.
        """
        size = self._sizes.pop(0)
        section = self._data[self._position : self._position + size]
        self._position += size
        if size > plain_size or len(section) != size:
            raise CodecError(f"a section claims {size:,} bytes; its plain bytes are {plain_size:,}, and {len(section):,} are there")
        return np.frombuffer(section if size == plain_size else _inflated(section, plain_size), np.uint8)

    def end(self) -> int:
        """Where the sections end.

        Raises:
            CodecError: if there are more of them.
        """
        if any(self._sizes):
            raise CodecError(f"a block has sections nobody asked for, of {self._sizes} bytes")
        return self._position


def _inflated(section: memoryview, plain_size: int) -> bytes:
    coder = zlib.decompressobj()
    try:
        # One byte more than is right, so that there is room to come to the end of the stream, where zlib checks its sum.
        plain = coder.decompress(section, plain_size + 1)
    except zlib.error as error:
        raise CodecError(f"a section is damaged ({error})") from error
    if len(plain) != plain_size or not coder.eof or coder.unused_data:
        raise CodecError(f"a section does not unpack to {plain_size:,} bytes")
    return plain
