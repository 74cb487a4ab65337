"""Sharded versions: a directory that several processes write into, sealed as one by ``SEAL.json`` and committed by one rename."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from musictrain.checkpoints import disk
from musictrain.checkpoints.seal import SEAL_FILE, Seal, directory_comment
from musictrain.checkpoints.verification import digest_of


def writes_directories(strategy: Any) -> bool:
    """Whether a Lightning strategy saves each process's share by itself (FSDP, ModelParallel), past the checkpoint plugin."""
    shards = getattr(strategy, "_save_distributed_checkpoint", False)
    return bool(shards) or getattr(strategy, "_state_dict_type", "full") == "sharded"


def seal_directory(temporary: Path, final: Path, facts: Seal) -> Seal:
    """Seal what all processes have written into ``temporary``, and give it its final name; gives back the seal.

    Every file is synced and its digest taken; ``SEAL.json`` is written last; the rename is the one step by which the version exists.

    Raises:
        FileExistsError: if the name is taken.
        OSError: whatever the disk says; the temporary directory stays, and is cleared away by the next run.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
        sync(path)
        size, digest = digest_of(path)
        files[path.relative_to(temporary).as_posix()] = {"size": size, "sha256": digest}
    listed = json.dumps(files, sort_keys=True).encode()
    size = sum(each["size"] for each in files.values())
    seal = replace(facts, kind="sharded", files=files, size=size, plain_size=size, sha256=_digest(listed))
    with disk.new_file(temporary / SEAL_FILE, replace=False) as file:
        file.write(directory_comment(seal))
    for folder in sorted({path.parent for path in temporary.rglob("*")}):
        disk.sync_folder(folder)
    disk.rename(temporary, final)
    return seal


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sync(path: Path) -> None:
    """Wait until the disk has a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
