"""A second place for versions: what is there was whole there, and whatever goes wrong is one kind of error."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from musictrain.checkpoints import disk
from musictrain.checkpoints.catalog import version_path
from musictrain.checkpoints.mirror import Mirror, MirrorError
from musictrain.checkpoints.seal import SEAL_FILE, Seal, seal_comment
from musictrain.checkpoints.storing import store
from musictrain.checkpoints.verification import verify

FIRST, SECOND, THIRD = (f"v00000{number}_step0000{number}0.ckpt" for number in (1, 2, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two versions."""
    place = tmp_path / "checkpoints"
    place.mkdir()
    for number in (1, 2):
        write_version(place, number)
    return place


def write_version(folder: Path, number: int, *tags: str, run: str = "a-run") -> Path:
    path = version_path(folder, number, 10 * number, *tags)
    tree = {"state_dict": {"w": torch.full((64,), float(number))}, "run": run}
    store(tree, path, Seal("", 0, number=number, step=10 * number, run=run))
    return path


def write_sharded(folder: Path, number: int = 3, names: tuple[str, ...] = ("inside/0.distcp", ".metadata")) -> Path:
    path = version_path(folder, number, 10 * number)
    listed: dict[str, Any] = {}
    for name in names:
        content = f"{name} {number}".encode() * 100
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
        listed[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    seal_directory(path, Seal("0" * 64, 1, kind="sharded", number=number, step=10 * number, files=listed))
    return path


def seal_directory(path: Path, seal: Seal) -> None:
    digest = hashlib.sha256(repr(seal.files).encode()).hexdigest()
    (path / SEAL_FILE).write_bytes(seal_comment(replace(seal, sha256=digest)))


@pytest.fixture(params=["a folder", "file://", "memory://"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mirror]:
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    place = tmp_path / "second disk" / "run"
    yield Mirror({"a folder": str(place), "file://": f"file://{place}", "memory://": "memory://bucket/run"}[request.param])
    MemoryFileSystem.store.clear()


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A folder as a mirror, to be damaged by hand."""
    return tmp_path / "second"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Copies.


def test_what_was_copied_comes_back_byte_for_byte(mirror: Mirror, folder: Path, tmp_path: Path) -> None:
    write_sharded(folder)
    assert mirror.names() == []
    for name in (FIRST, SECOND, THIRD):
        assert mirror.copy(folder / name) == name
    assert mirror.names() == [FIRST, SECOND, THIRD]
    back = tmp_path / "new" / "checkpoints"
    for name in mirror.names():
        assert mirror.fetch(name, back) == back / name
        verify(back / name)
    assert contents(back) == contents(folder)


def test_nothing_but_versions_is_left_in_the_mirror(second: Path, folder: Path) -> None:
    write_sharded(folder)
    for name in (FIRST, SECOND, THIRD):
        Mirror(str(second)).copy(folder / name)
    assert contents(second) == contents(folder)


def test_a_version_that_is_there_is_not_copied_again(mirror: Mirror, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sharded(folder)
    for name in (FIRST, THIRD):
        mirror.copy(folder / name)
    for filesystem in (LocalFileSystem, MemoryFileSystem):
        monkeypatch.setattr(filesystem, "put_file", lambda *_: pytest.fail("it was copied again"))
    assert mirror.copy(folder / FIRST) == FIRST
    assert mirror.copy(folder / THIRD) == THIRD


def test_a_mirror_is_opened_only_when_it_is_used_and_travels_to_other_processes(folder: Path, tmp_path: Path) -> None:
    mirror = Mirror("nosuchprotocol://somewhere")
    assert pickle.loads(pickle.dumps(mirror)) == mirror
    with pytest.raises(MirrorError, match=r"v000001_step000010\.ckpt could not be copied.*nosuchprotocol.*Protocol not known"):
        mirror.copy(folder / FIRST)
    used = Mirror(str(tmp_path / "second"))
    used.copy(folder / FIRST)
    assert pickle.loads(pickle.dumps(used)).names() == [FIRST]


def test_a_relative_folder_is_that_of_the_moment_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    mirror = Mirror("second")
    monkeypatch.chdir(folder)
    mirror.copy(folder / FIRST)
    assert (tmp_path / "second" / FIRST).is_file()


def test_files_and_names_reach_the_other_disk_before_the_copy_counts(second: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    move, sync = LocalFileSystem.mv, disk.sync_folder
    monkeypatch.setattr("os.fsync", lambda _: done.append("fsync"))
    monkeypatch.setattr(LocalFileSystem, "mv", lambda *arguments: [done.append("mv"), move(*arguments)])
    monkeypatch.setattr(disk, "sync_folder", lambda where: [done.append(where.name), sync(where)])
    Mirror(str(second)).copy(folder / FIRST)
    assert done[:3] == ["fsync", "mv", "second"]


# What is refused.


@pytest.mark.parametrize("url", ["", None, 7])
def test_a_mirror_needs_a_place(url: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a folder or a URL such as s3://bucket/run"):
        Mirror(url)


def test_damaged_missing_foreign_or_own_versions_are_not_copied(mirror: Mirror, folder: Path) -> None:
    (folder / "best.ckpt").write_bytes((folder / FIRST).read_bytes())
    with pytest.raises(MirrorError, match=r"best\.ckpt is not called as a version is"):
        mirror.copy(folder / "best.ckpt")
    with pytest.raises(MirrorError, match=r"v000003_step000030\.ckpt could not be copied.*it cannot be read"):
        mirror.copy(folder / THIRD)
    flip(folder / FIRST, 300)
    with pytest.raises(MirrorError, match=r"could not be copied.*its bytes are not those that were sealed"):
        mirror.copy(folder / FIRST)
    assert mirror.names() == []
    with pytest.raises(MirrorError, match="is the folder of the versions itself"):
        Mirror(str(folder)).copy(folder / SECOND)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_another_runs_version_of_the_same_name_is_never_overwritten(mirror: Mirror, folder: Path, tmp_path: Path) -> None:
    mirror.copy(folder / FIRST)
    other = tmp_path / "other"
    other.mkdir()
    write_version(other, 1, run="another-run")
    with pytest.raises(MirrorError, match=r"holds another v000001_step000010\.ckpt already, of step 10 of run a-run.*a mirror of its own"):
        mirror.copy(other / FIRST)
    mirror.fetch(FIRST, tmp_path / "back")
    assert (tmp_path / "back" / FIRST).read_bytes() == (folder / FIRST).read_bytes()


@pytest.mark.parametrize("damage", ["a bit of the weights", "a bit of the seal", "cut off", "empty"])
def test_a_copy_that_was_damaged_over_there_is_made_anew(second: Path, folder: Path, damage: str) -> None:
    mirror = Mirror(str(second))
    mirror.copy(folder / FIRST)
    there = second / FIRST
    size = there.stat().st_size
    if damage.startswith("a bit"):
        flip(there, 300 if "weights" in damage else size - 60)
    else:
        there.write_bytes(there.read_bytes()[: size // 2 if damage == "cut off" else 0])
    with pytest.raises(MirrorError, match=r"v000001_step000010\.ckpt is damaged in .* too: .*Bring back another one"):
        mirror.fetch(FIRST, folder.parent / "back")
    mirror.copy(folder / FIRST)
    assert there.read_bytes() == (folder / FIRST).read_bytes()
    assert list((folder.parent / "back").iterdir()) == []


def test_a_sharded_version_without_its_seal_is_none_until_it_is_copied_again(mirror: Mirror, folder: Path) -> None:
    version = write_sharded(folder)
    mirror.copy(version)
    mirror._there.remove(f"{THIRD}/{SEAL_FILE}")
    assert mirror.names() == []
    with pytest.raises(MirrorError, match=r"holds no version v000003_step000030\.ckpt\. It holds: none"):
        mirror.fetch(THIRD, folder.parent / "back")
    mirror.copy(version)
    assert mirror.names() == [THIRD]


# What goes wrong on the way.


class Stopped(BaseException):
    """The process is told to stop."""


def truncating(self: Any, source: str, target: str) -> None:
    self.pipe_file(target, Path(source).read_bytes()[:-1])


def flipping(self: Any, source: str, target: str) -> None:
    content = bytearray(Path(source).read_bytes())
    content[100] ^= 4
    self.pipe_file(target, bytes(content))


@pytest.mark.parametrize("fault", [truncating, flipping])
def test_a_place_that_gives_back_other_bytes_is_found_out(
    mirror: Mirror, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    with monkeypatch.context() as patch:
        for filesystem in (LocalFileSystem, MemoryFileSystem):
            patch.setattr(filesystem, "put_file", fault)
        with pytest.raises(MirrorError, match=r"could not be copied.*it gave back .* bytes with SHA-256 .*, and was given"):
            mirror.copy(folder / FIRST)
    assert mirror._there.entries() == []
    assert mirror.copy(folder / FIRST) == FIRST


@pytest.mark.parametrize("call", ["put_file", "rename", "makedirs"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError(28, "No space left"), MirrorError), (RuntimeError("a library's own"), MirrorError), (Stopped("now"), Stopped)],
)
def test_a_copy_that_fails_leaves_nothing_and_can_be_made_again(
    mirror: Mirror, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException, expected: type[BaseException]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        for filesystem in (LocalFileSystem, MemoryFileSystem):
            renaming = "mv" if filesystem is LocalFileSystem else "cp_file"
            patch.setattr(filesystem, renaming if call == "rename" else call, fail)
        with pytest.raises(expected, match=r"No space left|a library's own|now"):
            mirror.copy(folder / FIRST)
    assert mirror._there.entries() == []
    mirror.copy(folder / FIRST)
    assert mirror.names() == [FIRST]


def test_a_name_with_brackets_or_stars_is_no_pattern_that_reaches_into_other_runs(folder: Path) -> None:
    names = ["run[1]", "run1", "a?b", "a b", "a*", "abc", "**"]
    mirrors = [Mirror(f"memory://of-many/{name}") for name in names]
    for mirror in mirrors:
        mirror.copy(folder / FIRST)
    for name, mirror in zip(names, mirrors, strict=True):
        MemoryFileSystem().pipe_file(f"/of-many/{name}/{FIRST}", b"damaged")
        mirror.copy(folder / FIRST)
        mirror.prune([])
        assert mirror.names() == []
        mirror.copy(folder / FIRST)
        assert [each.names() for each in mirrors] == [[FIRST]] * len(mirrors)
    MemoryFileSystem().rm("/of-many", recursive=True)


def test_what_a_killed_copy_left_is_no_version_and_goes_with_the_next_one(second: Path, folder: Path) -> None:
    second.mkdir()
    leftovers = [second / f".incoming-{number}-0-{name}" for number, name in ((77, FIRST), (78, SECOND))]
    for path in leftovers:
        path.write_bytes(b"half")
    mirror = Mirror(str(second))
    assert mirror.names() == []
    mirror.copy(folder / FIRST)
    assert [path.exists() for path in leftovers] == [False, True]


def test_a_place_that_cannot_be_written_or_listed_is_a_mirror_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    mirror = Mirror(str(tmp_path / "file" / "run"))
    with pytest.raises(MirrorError, match=r"could not be copied, mirror .*See whether the place is there"):
        mirror.copy(folder / FIRST)
    with pytest.raises(MirrorError, match=r"The versions could not be listed, mirror .*NotADirectoryError"):
        mirror.fetch(FIRST, tmp_path / "back")


# Back.


def test_what_is_there_already_is_not_overwritten(mirror: Mirror, folder: Path) -> None:
    mirror.copy(folder / FIRST)
    flip(folder / FIRST, 300)
    before = (folder / FIRST).read_bytes()
    with pytest.raises(MirrorError, match=r"v000001_step000010\.ckpt is there already\. Rename or remove it first"):
        mirror.fetch(FIRST, folder)
    assert (folder / FIRST).read_bytes() == before


def test_a_version_that_is_not_there_is_refused_with_what_is(mirror: Mirror, folder: Path, tmp_path: Path) -> None:
    mirror.copy(folder / FIRST)
    for name in (SECOND, "../checkpoints", "best.ckpt"):
        with pytest.raises(MirrorError, match=r"holds no version .*It holds: v000001_step000010\.ckpt\."):
            mirror.fetch(name, tmp_path / "back")


def test_a_version_that_was_renamed_over_there_is_refused(second: Path, folder: Path, tmp_path: Path) -> None:
    Mirror(str(second)).copy(folder / FIRST)
    (second / FIRST).rename(second / THIRD)
    with pytest.raises(MirrorError, match=r"v000003_step000030\.ckpt in .* holds v000001_step000010: it was renamed"):
        Mirror(str(second)).fetch(THIRD, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/outside", "inside/../../outside", "..\\outside"])
def test_a_seal_that_names_files_outside_of_its_version_is_refused(second: Path, tmp_path: Path, name: str) -> None:
    path = write_sharded(second)
    (tmp_path / "outside").write_text("x")
    seal = Seal("", 1, kind="sharded", number=3, step=30, files={name: {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}})
    seal_directory(path, seal)
    back = tmp_path / "back"
    with pytest.raises(MirrorError, match="which lies outside of it: it was tampered with"):
        Mirror(str(second)).fetch(THIRD, back)
    assert list(back.iterdir()) == []


def test_a_sharded_version_that_was_damaged_over_there_does_not_come_back(second: Path, folder: Path, tmp_path: Path) -> None:
    Mirror(str(second)).copy(write_sharded(folder))
    flip(second / THIRD / "inside" / "0.distcp", 5)
    with pytest.raises(MirrorError, match=r"damaged in .* too: the bytes of its inside/0\.distcp"):
        Mirror(str(second)).fetch(THIRD, tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


# Removals.


def test_removed_versions_stay_until_the_mirror_is_pruned(mirror: Mirror, folder: Path) -> None:
    write_sharded(folder)
    for name in (FIRST, SECOND, THIRD):
        mirror.copy(folder / name)
    shutil.rmtree(folder)
    assert mirror.names() == [FIRST, SECOND, THIRD]
    assert mirror.prune(["v000002_step000020"]) == [FIRST, THIRD]
    assert mirror.names() == [SECOND]
    assert mirror.prune([]) == [SECOND]


def test_a_version_that_is_thin_or_pinned_by_now_keeps_its_full_copy(mirror: Mirror, folder: Path) -> None:
    for name in (FIRST, SECOND):
        mirror.copy(folder / name)
    assert mirror.prune(["v000001_step000010.thin.ckpt", "v000002_step000020.pinned.ckpt"]) == []


def test_pruning_touches_nothing_that_is_no_version_but_its_own_leftovers(second: Path, folder: Path) -> None:
    Mirror(str(second)).copy(folder / FIRST)
    for name in ("notes.txt", "best.ckpt", f"{FIRST}.corrupt", ".incoming-7-0-x.ckpt"):
        (second / name).write_text("mine")
    (second / "other").mkdir()
    Mirror(str(second)).prune([])
    assert sorted(path.name for path in second.iterdir()) == ["best.ckpt", "notes.txt", "other", f"{FIRST}.corrupt"]


def test_a_name_to_keep_with_a_typo_removes_nothing(mirror: Mirror, folder: Path) -> None:
    mirror.copy(folder / FIRST)
    with pytest.raises(MirrorError, match=r"'v1_step10' is no version's name, such as v000012_step000450\. Nothing was removed"):
        mirror.prune([FIRST, "v1_step10"])
    assert mirror.names() == [FIRST]
