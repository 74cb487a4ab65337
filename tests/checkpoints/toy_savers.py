"""Savers of a few lines, one of them right, the others wrong in one known way each: what the fault finders must find."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

Saver = Callable[[Path, int], None]
DIGEST_SIZE = 32
BROKEN = -1


def sealed(step: int) -> bytes:
    """A version's bytes: a digest, and what it is of. All versions have one size."""
    content = f"weights after {step:8d}".encode()
    return hashlib.sha256(content).digest() + content


def is_whole(content: bytes) -> bool:
    return hashlib.sha256(content[DIGEST_SIZE:]).digest() == content[:DIGEST_SIZE]


def has_the_right_size(content: bytes) -> bool:
    """A check that believes too much."""
    return len(content) == len(sealed(0))


def last_good(folder: Path, passes: Callable[[bytes], bool] = is_whole) -> int:
    """The highest step whose file passes the check, 0 if none does, ``BROKEN`` if one does that is not whole."""
    contents = [path.read_bytes() for path in folder.glob("**/*.version")]
    steps = [int(content.split()[-1]) if is_whole(content) else BROKEN for content in contents if passes(content)]
    return BROKEN if BROKEN in steps else max(steps, default=0)


def write(path: Path, content: bytes, sync: bool = True, flags: int = os.O_EXCL) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags)
    try:
        for start in range(0, len(content), 20):
            piece = content[start : start + 20]
            while piece:
                piece = piece[os.write(descriptor, piece) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_existing(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def name_of(step: int) -> str:
    return f"step_{step}.version"


def forget_temporary(folder: Path) -> Path:
    (folder / "temporary").unlink(missing_ok=True)
    return folder / "temporary"


def by_rename(folder: Path, step: int) -> None:
    """Right."""
    temporary = forget_temporary(folder)
    write(temporary, sealed(step))
    temporary.replace(folder / name_of(step))
    sync_existing(folder)
    forget(folder, step - 1)


def by_link(folder: Path, step: int) -> None:
    """Right."""
    temporary = forget_temporary(folder)
    write(temporary, sealed(step))
    os.link(temporary, folder / name_of(step))
    temporary.unlink()
    sync_existing(folder)
    forget(folder, step - 1)


def over_one_name(folder: Path, step: int) -> None:
    """Right, with one file for all."""
    temporary = forget_temporary(folder)
    write(temporary, sealed(step))
    temporary.replace(folder / "last.version")
    sync_existing(folder)


def forget(folder: Path, step: int) -> None:
    (folder / name_of(step)).unlink(missing_ok=True)
    sync_existing(folder)


def without_sync_of_the_file(folder: Path, step: int) -> None:
    temporary = forget_temporary(folder)
    write(temporary, sealed(step), sync=False)
    temporary.replace(folder / name_of(step))
    sync_existing(folder)


def without_sync_of_the_folder(folder: Path, step: int) -> None:
    temporary = forget_temporary(folder)
    write(temporary, sealed(step))
    temporary.replace(folder / name_of(step))


def rename_before_sync(folder: Path, step: int) -> None:
    temporary = forget_temporary(folder)
    write(temporary, sealed(step), sync=False)
    temporary.replace(folder / "last.version")
    sync_existing(folder / "last.version")
    sync_existing(folder)


def in_place(folder: Path, step: int) -> None:
    write(folder / "last.version", sealed(step), flags=os.O_TRUNC)
    sync_existing(folder)


def in_place_without_truncation(folder: Path, step: int) -> None:
    write(folder / "last.version", sealed(step), flags=0)
    sync_existing(folder)


def old_away_before_new_is_there(folder: Path, step: int) -> None:
    (folder / name_of(step - 1)).unlink(missing_ok=True)
    by_rename(folder, step)


def old_away_before_new_is_durable(folder: Path, step: int) -> None:
    """Safe where names reach the disk in order; nothing else promises that."""
    temporary = forget_temporary(folder)
    write(temporary, sealed(step))
    temporary.replace(folder / name_of(step))
    (folder / name_of(step - 1)).unlink(missing_ok=True)
    sync_existing(folder)


def into_a_new_folder(folder: Path, step: int) -> None:
    """The new folder's own name stands in its parent, which nobody syncs."""
    (folder / "run").mkdir(exist_ok=True)
    by_rename(folder / "run", step)


def by_renaming_a_folder(folder: Path, step: int) -> None:
    """Right, with a version that is a folder."""
    temporary = folder / f"temporary_{step}"
    temporary.mkdir()
    write(temporary / "shard.version", sealed(step))
    sync_existing(temporary)
    temporary.rename(folder / f"step_{step}")
    sync_existing(folder)


def by_renaming_an_unsynced_folder(folder: Path, step: int) -> None:
    """The file's name stands in the temporary folder, which nobody syncs."""
    temporary = folder / f"temporary_{step}"
    temporary.mkdir()
    write(temporary / "shard.version", sealed(step))
    temporary.rename(folder / f"step_{step}")
    sync_existing(folder)


RIGHT: tuple[Saver, ...] = (by_rename, by_link, over_one_name, by_renaming_a_folder)
WRONG: tuple[Saver, ...] = (
    without_sync_of_the_file,
    without_sync_of_the_folder,
    rename_before_sync,
    in_place,
    in_place_without_truncation,
    old_away_before_new_is_there,
)
WRONG_WHERE_NAMES_ARE_LOST_IN_ANY_ORDER: tuple[Saver, ...] = (
    old_away_before_new_is_durable,
    into_a_new_folder,
    by_renaming_an_unsynced_folder,
)
