"""From a checkpoint in memory to a sealed file and back.

The file is what ``torch.save`` writes, so ``torch.load`` reads it; the seal is its archive comment (see ``seal``). Tensors that were
packed are small dicts to ``torch.load`` and tensors again after ``load``. A sharded version, a directory, is read as the same tree.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import torch

from musictrain.checkpoints import disk
from musictrain.checkpoints.catalog import NAME
from musictrain.checkpoints.consolidating import META_FILE, consolidated
from musictrain.checkpoints.packing import pack, unpack
from musictrain.checkpoints.seal import END_OF_ZIP, SEAL_FILE, Seal, SealError, read_seal, seal_comment
from musictrain.checkpoints.shards import METADATA
from musictrain.checkpoints.snapshot import plain_size
from musictrain.checkpoints.verification import UNREADABLE, BrokenCheckpointError, check_records, verify

log = logging.getLogger(__name__)

# Packing saves a sixth, all-zero tensors much more; beyond this a small file is a bomb.
MOST_UNPACKED_PER_BYTE = 100
ALWAYS_UNPACKED = 64 * 2**20


def store(tree: Mapping[str, Any], path: str | Path, facts: Seal | None = None, *, packing: str = "none", replace: bool = False) -> Seal:
    """Write a checkpoint as a sealed file, whole and durable when this returns; gives back the seal.

    Args:
        tree: tensors in main memory and plain values.
        path: its folder exists.
        facts: what the seal is to say; digest, size, packing and weights are filled in.
        packing: see ``packing.PACKINGS``.
        replace: whether an older file of that name gives way.

    Raises:
        FileExistsError: if the name is taken and ``replace`` is off.
        OSError: whatever the disk says. No file, or the older one, stays behind.
    """
    packed = pack(tree, packing)
    facts = replaced(
        facts or Seal("", 0), packing=packing, plain_size=plain_size(tree), parameters=parameters_fingerprint(tree.get("state_dict"))
    )
    with disk.new_file(Path(path), replace=replace, hold_back=END_OF_ZIP.size) as file:
        try:
            torch.save(packed, file)  # type: ignore[arg-type]
        except (RuntimeError, ValueError) as error:
            # torch's zip writer answers a full disk with "unexpected pos".
            if file.error is not None:
                raise file.error from error
            raise
        return _seal(file, facts)


def _seal(file: disk.HashedFile, facts: Seal) -> Seal:
    end = file.held_back()
    facts = replaced(facts, sha256="0" * 64, size=file.size + len(end))
    *head, no_comment = END_OF_ZIP.unpack(end)
    if no_comment:
        raise ValueError("torch.save wrote a zip with a comment of its own, where the seal belongs")
    # The digest covers the length of the comment that holds it, which it does not change.
    digest = file.replace_end(END_OF_ZIP.pack(*head, len(seal_comment(facts))))
    seal = replaced(facts, sha256=digest)
    file.append(seal_comment(seal))
    return seal


def load(path: str | Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint: verified first, then with ``weights_only``, then unpacked. A file without a seal must pass its zip's checksums.

    A sharded version, or another directory that Lightning has written, gives what a file of the same state would give; no process group
    is needed, whatever number of processes wrote it. On the device ``meta`` its tensors are shapes alone.

    Raises:
        FileNotFoundError: if there is none.
        BrokenCheckpointError: if it is damaged, was changed, would fill the memory, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    check(path)
    return _read_directory(path, map_location) if path.is_dir() else _read(path, map_location)


def load_outline(path: str | Path) -> dict[str, Any]:
    """A directory of shards with shapes for tensors, in all processes; the first one verifies it for all.

    Raises:
        BrokenCheckpointError: as ``load``, in every process.
    """
    path, problem = Path(path), [""]
    several = torch.distributed.is_initialized()
    if not several or torch.distributed.get_rank() == 0:
        try:
            check(path)
        except BrokenCheckpointError as error:
            problem = [error.reason]
    if several:
        torch.distributed.broadcast_object_list(problem, src=0)
    if problem[0]:
        raise BrokenCheckpointError(path, problem[0])
    return _read_directory(path, "meta")


def _read_directory(path: Path, map_location: Any) -> dict[str, Any]:
    rest = path / META_FILE
    if rest.is_file():
        check_records(rest)
    device = map_location if isinstance(map_location, str | torch.device) else "cpu"
    return consolidated(path, _read(rest, "cpu") if rest.is_file() else {}, device)


def _read(path: Path, map_location: Any) -> dict[str, Any]:
    try:
        tree = torch.load(path, map_location=map_location, weights_only=True)
        limit = ALWAYS_UNPACKED + MOST_UNPACKED_PER_BYTE * path.stat().st_size
        tree = unpack(tree, limit_bytes=limit)
    except MemoryError:
        raise
    except Exception as error:
        # A crafted pickle makes torch raise anything, from IndexError to AssertionError.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BrokenCheckpointError(path, f"it cannot be read as tensors and plain values ({reason})") from error
    if not isinstance(tree, dict):
        raise BrokenCheckpointError(path, f"it holds a {type(tree).__name__}, where a checkpoint is a dict")
    return tree


def check(path: Path) -> Seal | None:
    """Verify a version, and give back its seal; None for a file that never had a seal and passes its zip's checksums, and for a
    directory of shards that musictrain has not written.

    Raises:
        BrokenCheckpointError: if it must not be used.
    """
    try:
        read_seal(path)
    except SealError as error:
        _check_unsealed(path, str(error))
        log.info("%s has no seal; as far as can be known without one, it is whole.", path)
        return None
    except OSError as error:
        raise BrokenCheckpointError(path, f"it cannot be read ({error.strerror or error})") from error
    return verify(path)


def _check_unsealed(path: Path, fault_of_seal: str) -> None:
    if path.is_dir():
        # torch writes this file last. What has a version's name had a seal, or its save was never finished.
        if not (path / METADATA).is_file() or (path / SEAL_FILE).exists() or NAME.fullmatch(path.name):
            raise BrokenCheckpointError(path, f"it is a directory without a seal ({fault_of_seal})")
        return
    try:
        check_records(path)
        with zipfile.ZipFile(path) as archive:
            sealed, bad = bool(archive.comment), archive.testzip()
    except OSError as error:
        raise BrokenCheckpointError(path, f"{UNREADABLE} ({error.strerror or error})") from error
    if sealed:
        raise BrokenCheckpointError(path, fault_of_seal)
    if bad is not None:
        raise BrokenCheckpointError(path, f"the checksum of its record {bad!r} does not fit")


def parameters_fingerprint(state_dict: Any) -> str:
    """Names and shapes of a module's weights as 16 hexadecimal digits; empty if there are none."""
    if not isinstance(state_dict, Mapping):
        return ""
    shapes = sorted(f"{name} {tuple(value.shape)}" for name, value in state_dict.items() if isinstance(value, torch.Tensor))
    return hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16]
