"""Whether a stored version is whole: every byte against its seal, and the zip's structure against what torch may safely read.

Conventions: ``verify`` reads every byte and executes nothing; torch is not needed. A seal is no signature: somebody who can write a file
can seal it too. So the structure is looked at even where the seal fits, and tensors are only ever read with ``weights_only``.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from musictrain.checkpoints.seal import END_OF_ZIP, END_SIGNATURE, SEAL_FILE, Seal, SealError, open_regular, read_seal

BLOCK = 4 * 2**20
MOST_RECORDS = 1_000_000
UNREADABLE = "it cannot be read"
# What torch puts before the end of every zip: counts, size and offset in 64 bits, and where they stand.
END_64, END_64_SIGNATURE = struct.Struct("<4sQ2H2L4Q"), b"PK\x06\x06"
LOCATOR, LOCATOR_SIGNATURE = struct.Struct("<4sLQL"), b"PK\x06\x07"
RECORD_SIGNATURE = b"PK\x03\x04"


class BrokenCheckpointError(ValueError):
    """A stored version that must not be used.

    Args:
        path: of the version.
        reason: what is wrong with it, a clause such as "3 bytes were changed".
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path} cannot be used: {reason}.")
        self.path, self.reason = Path(path), reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return type(self), (self.path, self.reason)


def verify(path: str | Path) -> Seal:
    """Read all of a version and hold it against its seal; a sharded one file by file.

    Raises:
        BrokenCheckpointError: if it has no seal, a byte differs, or its records are not laid out as torch writes them.
    """
    path = Path(path)
    try:
        seal = read_seal(path)
        if seal.kind == "sharded":
            _verify_directory(path, seal)
        else:
            _compare(path, seal)
            check_records(path)
    except SealError as error:
        raise BrokenCheckpointError(path, str(error)) from error
    except OSError as error:
        raise BrokenCheckpointError(path, f"{UNREADABLE} ({error.strerror or error})") from error
    return seal


def _compare(path: Path, seal: Seal) -> None:
    size, digest = digest_of(path, seal.size)
    if size != seal.size or digest != seal.sha256:
        raise BrokenCheckpointError(path, f"its bytes are not those that were sealed (SHA-256 {digest[:12]}, sealed {seal.sha256[:12]})")


def digest_of(path: str | Path, size: int | None = None) -> tuple[int, str]:
    """How many bytes were read, and their SHA-256 in hexadecimal: of the first ``size`` bytes of a file, or of all."""
    descriptor = open_regular(path)
    digest, done = hashlib.sha256(), 0
    buffer = bytearray(BLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file, memoryview(buffer) as view:
        while size is None or done < size:
            count = file.readinto(view[: BLOCK if size is None else min(BLOCK, size - done)])
            if not count:
                break
            digest.update(view[:count])
            done += count
    return done, digest.hexdigest()


def check_records(path: str | Path) -> None:
    """Refuse a zip that torch would read, but never writes: packed records (a bomb), records twice, overlapping, outside the archive, or
    listed in a place where another reader would not look.

    Raises:
        BrokenCheckpointError: naming the record.
    """
    path = Path(path)
    try:
        descriptor = open_regular(path)
    except SealError as error:
        raise BrokenCheckpointError(path, f"it is no zip file that can be read ({error})") from error
    with os.fdopen(descriptor, "rb") as file:
        check_zip(file, os.fstat(file.fileno()).st_size, path)


def check_zip(file: BinaryIO, end: int, path: Path) -> None:
    """The same of an open zip of ``end`` bytes that lies in ``path``.

    Raises:
        BrokenCheckpointError: naming the record.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            fault = _fault_of_layout(file, end - len(archive.comment), len(records))
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise BrokenCheckpointError(path, f"it is no zip file that can be read ({error})") from error
    if fault := fault or _fault_of(records, end):
        raise BrokenCheckpointError(path, fault)


def _fault_of_layout(file: BinaryIO, end: int, num_records: int) -> str:
    """What makes readers disagree about the list of records: Python looks for it before the end, torch where the end says that it is."""
    position = end - END_OF_ZIP.size
    signature, *_, num, size, offset, _ = END_OF_ZIP.unpack(_bytes_at(file, position, END_OF_ZIP.size))
    here, _, where, _ = LOCATOR.unpack(_bytes_at(file, position - LOCATOR.size, LOCATOR.size))
    if signature == END_SIGNATURE and here == LOCATOR_SIGNATURE:
        position -= LOCATOR.size + END_64.size
        signature, *_, num, size, offset = END_64.unpack(_bytes_at(file, position, END_64.size))
        if signature != END_64_SIGNATURE or where != position:
            return "its end is not laid out as torch lays it out"
    elif signature != END_SIGNATURE:
        return "something stands behind the end of its zip: its seal was changed, or it was added to"
    if offset + size != position or num != num_records or _bytes_at(file, 0, 4) != RECORD_SIGNATURE:
        return "it does not begin with its first record, or its list of records is not where its end says"
    return ""


def _bytes_at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(max(0, position))
    return file.read(size).ljust(size, b"\0")


def _fault_of(records: list[zipfile.ZipInfo], end: int) -> str:
    names = [record.filename for record in records]
    if not records or len(records) > MOST_RECORDS:
        return f"it holds {len(records):,} records"
    if len(set(names)) != len(names):
        return "it holds a record twice"
    for record in records:
        parts = PurePosixPath(record.filename).parts
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            return f"its record {record.filename!r} is compressed, which torch never does: a small file could fill the memory"
        if ".." in parts or record.filename.startswith(("/", "\\")) or "\0" in record.filename:
            return f"its record {record.filename!r} points out of the file"
        if record.flag_bits & 0x1:
            return f"its record {record.filename!r} is encrypted"
    return _overlap(records, end)


def _overlap(records: list[zipfile.ZipInfo], end: int) -> str:
    reached = 0
    if min(record.header_offset for record in records) != 0:
        return "its first record does not stand at its beginning"
    for record in sorted(records, key=lambda each: each.header_offset):
        # A header is 30 bytes and the name at least, so that records which share bytes cannot pass.
        start = record.header_offset
        if start < reached or (stop := start + 30 + len(record.filename.encode()) + record.file_size) > end:
            return f"its record {record.filename!r} overlaps another or the end of the file"
        reached = stop
    return ""


def _verify_directory(path: Path, seal: Seal) -> None:
    found = set()
    for folder, names, files in os.walk(path, followlinks=False):
        for name in [*names, *files]:
            inside = Path(folder) / name
            relative = inside.relative_to(path).as_posix()
            if inside.is_symlink():
                raise BrokenCheckpointError(path, f"its {relative} is a symbolic link")
            if name in files and relative != SEAL_FILE:
                found.add(relative)
    if odd := sorted(found ^ set(seal.files)):
        what = "is not covered by its seal" if odd[0] in found else "is missing"
        raise BrokenCheckpointError(path, f"its {odd[0]} {what}")
    for relative, expected in seal.files.items():
        size, digest = digest_of(path / relative)
        if [size, digest] != [expected.get("size"), expected.get("sha256")]:
            raise BrokenCheckpointError(path, f"the bytes of its {relative} are not those that were sealed")
