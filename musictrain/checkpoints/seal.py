"""The seal of a stored version: what it is, and by which every changed bit is found out. Standard library only.

Conventions:

- A version is one ordinary ``torch.save`` zip file. Its ZIP archive comment, which every other reader passes over, is a line of JSON, then
  its CRC-32, its length and a magic word. ``unzip -z`` shows it.
- ``sha256`` and ``size`` are those of all bytes before the comment. So a seal vouches for the file it stands in, and nothing beside the
  file can disagree with it.
- A sharded version is a directory of such files with the same JSON in ``SEAL.json``, written last, which lists every file's digest.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from musictrain.runs.folder import number as as_number
from musictrain.runs.records import plain

SCHEMA = 1
LATER_SCHEMA = "update musictrain"
MAGIC = b"musictrain-seal-1"
SEAL_FILE = "SEAL.json"
LONGEST_COMMENT = 65_535
LONGEST_DIRECTORY_SEAL = 64 * 2**20
END_OF_ZIP = struct.Struct("<4s4H2LH")  # signature, four counts, size and offset of the directory, length of the comment
END_SIGNATURE = b"PK\x05\x06"
HEXADECIMAL = re.compile(rb"[0-9a-f]{8}")
TRAILER_SIZE = len(f"\n{0:08x} {0:08x} ") + len(MAGIC)


class SealError(ValueError):
    """A file has no seal, or one that cannot be read; the message says why."""


@dataclass(frozen=True)
class Seal:
    """What is known of a stored version without opening it.

    Args:
        sha256: of all bytes before the seal, in hexadecimal; of a sharded version, of its list of files.
        size: number of those bytes.
        kind: ``full``, which can be resumed; ``weights``; ``average`` of several versions; ``sharded``, full and a directory.
        number: counts the versions of a folder, 0 outside one.
        step: optimizer steps done.
        epoch: epochs done.
        created: seconds since 1970.
        reason: why it was saved: ``start``, ``step``, ``time``, ``validation``, ``epoch``, ``signal``, ``exception``, ``end``...
        run: name of the run.
        parent: name of the version that training went on from, empty for the first.
        metrics: values logged at this step.
        ill: why the version is not healthy (not finite, inside a loss spike), empty if it is.
        vetoed: why it is never called best, empty if it may be: what its validation has shown. It is healthy all the same.
        parameters: fingerprint of the names and shapes of the weights.
        config: fingerprint of the configuration.
        tokenizer: fingerprint of the tokenizer.
        corpus: fingerprint of the corpus.
        packing: how its tensors are compressed: ``none``, ``optimizer``, ``all`` or ``gzip``.
        plain_size: bytes of all tensors unpacked.
        world_size: processes that trained.
        strategy: Lightning's name of how they shared the work.
        sources: of an average, the versions it was made of.
        files: of a sharded version, size and digest of every file by its relative name.
    """

    sha256: str
    size: int
    kind: str = "full"
    number: int = 0
    step: int = 0
    epoch: int = 0
    created: float = 0.0
    reason: str = ""
    run: str = ""
    parent: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    ill: str = ""
    vetoed: str = ""
    parameters: str = ""
    config: str = ""
    tokenizer: str = ""
    corpus: str = ""
    packing: str = "none"
    plain_size: int = 0
    world_size: int = 1
    strategy: str = ""
    sources: tuple[str, ...] = ()
    files: Mapping[str, Any] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Whether it counts as good: finite weights, not inside a loss spike."""
        return not self.ill

    @property
    def resumable(self) -> bool:
        """Whether training can go on from it: it holds more than weights."""
        return self.kind in ("full", "sharded")

    def of_one_file(self) -> Seal:
        """What it says of the same version in one file, which a sharded one becomes when it is put together."""
        return replace(self, kind="full" if self.kind == "sharded" else self.kind, files={})

    def as_json(self) -> str:
        """One line of JSON; what has its default value is left out."""
        values = {key: value for key, value in asdict(self).items() if value not in ("", {}, (), [])}
        return json.dumps(plain({"schema": SCHEMA, **values}), sort_keys=True)


def seal_from_json(text: str) -> Seal:
    """The seal of a line of JSON.

    Raises:
        SealError: if it is no seal, or one of a later schema.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SealError(f"its seal is no JSON ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get("schema"), int):
        raise SealError("its seal is not one of musictrain's")
    if values["schema"] > SCHEMA:
        raise SealError(f"its seal has schema {values['schema']}, and this musictrain reads up to {SCHEMA}: {LATER_SCHEMA}")
    known = {each.name: each for each in fields(Seal)}
    given = {key: value for key, value in values.items() if key in known}
    faults = [key for key, value in given.items() if not _fits(known[key].type, value)]
    if faults or not {"sha256", "size"} <= given.keys():
        raise SealError(f"its seal lacks or garbles {', '.join(faults) or 'sha256 or size'}")
    try:
        metrics = {
            str(key): float(value) if isinstance(value, int) else as_number(value) for key, value in given.pop("metrics", {}).items()
        }
    except OverflowError as error:
        raise SealError("its seal holds a metric that is no number") from error
    _check_kind(given)
    return Seal(**{**given, "metrics": metrics, "sources": tuple(given.get("sources", ()))})


def _check_kind(given: Mapping[str, Any]) -> None:
    files = given.get("files", {})
    fits = all(isinstance(each, dict) and type(each.get("size")) is int and isinstance(each.get("sha256"), str) for each in files.values())
    if not fits or bool(files) != (given.get("kind") == "sharded"):
        raise SealError("its seal lacks or garbles the list of files that a sharded version has, and no other")


def _fits(annotation: Any, value: Any) -> bool:
    kinds: dict[str, Any] = {"str": str, "int": int, "float": int | float}
    if annotation in kinds:
        return isinstance(value, kinds[annotation]) and not isinstance(value, bool)
    return isinstance(value, list | tuple if annotation.startswith("tuple") else dict)


def seal_comment(seal: Seal) -> bytes:
    """The ZIP archive comment that carries a seal.

    Raises:
        SealError: if it is longer than a comment can be (64 KiB): only thousands of metrics make it so.
    """
    comment = directory_comment(seal)
    if len(comment) > LONGEST_COMMENT:
        raise SealError(f"a seal of {len(comment):,} bytes does not fit into a ZIP comment ({LONGEST_COMMENT:,}); log fewer metrics")
    return comment


def directory_comment(seal: Seal) -> bytes:
    """The content of ``SEAL.json``: as a ZIP comment, of any length."""
    text = seal.as_json().encode("ascii")
    return text + f"\n{zlib.crc32(text):08x} {len(text):08x} ".encode() + MAGIC


def seal_of_comment(comment: bytes) -> Seal:
    """The seal in a comment.

    Raises:
        SealError: if there is none, or a bit of it was changed.
    """
    trailer = comment[-TRAILER_SIZE:]
    if not trailer.endswith(MAGIC):
        raise SealError("it has no seal")
    try:
        crc, length = (int(word, 16) for word in trailer[: -len(MAGIC)].split())
    except ValueError as error:
        raise SealError("the end of its seal is garbled") from error
    text = comment[:-TRAILER_SIZE]
    if length != len(text) or crc != zlib.crc32(text) or comment[-TRAILER_SIZE:] != f"\n{crc:08x} {length:08x} ".encode() + MAGIC:
        raise SealError("its seal was changed")
    return seal_from_json(text.decode("ascii", errors="replace"))


def open_regular(path: str | Path) -> int:
    """A descriptor to read a file by; a directory, pipe or device under that name is refused without waiting for it.

    Raises:
        SealError: if it is no file.
        OSError: if it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SealError("it is not a regular file")
    return descriptor


def read_seal(path: str | Path) -> Seal:
    """The seal of a version, a file or a directory, from its last 64 KiB alone; the rest of the bytes is not looked at.

    Raises:
        SealError: if it has none, or a garbled one.
        OSError: if it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return read_directory_seal(path)
    descriptor = open_regular(path)
    try:
        end = os.fstat(descriptor).st_size
        start = max(0, end - LONGEST_COMMENT - END_OF_ZIP.size)
        tail = os.pread(descriptor, end - start, start)
    finally:
        os.close(descriptor)
    seal = _seal_of_tail(tail, start)
    if seal.kind == "sharded":
        raise SealError("it is a file, and its seal is that of a sharded version")
    return seal


def _seal_of_tail(tail: bytes, start: int) -> Seal:
    if not tail.endswith(MAGIC):
        raise SealError("it has no seal: it was cut off, added to, or not written by musictrain")
    length = comment_length(tail)
    position = len(tail) - length - END_OF_ZIP.size
    signature, *_, stated = END_OF_ZIP.unpack_from(tail, position) if position >= 0 else (b"", 0)
    if signature != END_SIGNATURE or stated != length:
        raise SealError("its seal does not stand at the end of a zip file")
    seal = seal_of_comment(tail[len(tail) - length :])
    if seal.size != start + len(tail) - length:
        raise SealError(f"it holds {start + len(tail) - length:,} bytes before its seal, which vouches for {seal.size:,}")
    return seal


def comment_length(tail: bytes) -> int:
    """Length of the comment that ends ``tail``, by what its trailer says."""
    word = tail[-len(MAGIC) - 9 : -len(MAGIC) - 1]
    if not HEXADECIMAL.fullmatch(word):
        raise SealError("the end of its seal is garbled")
    return int(word, 16) + TRAILER_SIZE


def read_directory_seal(path: Path) -> Seal:
    """The seal of a sharded version.

    Raises:
        SealError: if the directory has none, or a garbled one.
    """
    try:
        descriptor = open_regular(path / SEAL_FILE)
    except FileNotFoundError as error:
        raise SealError(f"it is a directory without {SEAL_FILE}: its save was never finished") from error
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(LONGEST_DIRECTORY_SEAL + 1)
    if len(content) > LONGEST_DIRECTORY_SEAL:
        raise SealError(f"its {SEAL_FILE} is larger than any")
    seal = seal_of_comment(content)
    if seal.kind != "sharded":
        raise SealError(f"it is a directory, and its seal is that of a {seal.kind} version")
    return seal
