"""From a tree to a sealed file and back: whole or not at all, and never more than tensors and plain values."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints.comparing import first_difference
from musictrain.checkpoints.seal import END_OF_ZIP, SCHEMA, Seal, read_seal, seal_comment
from musictrain.checkpoints.storing import check, load, parameters_fingerprint, store
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from tests.checkpoints.fault_injection import file_size_limit, folder_in_memory, small_disk
from tests.checkpoints.hostile_zips import write_sealed
from tests.checkpoints.small_versions import tiny_tree


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder where fsync costs nothing."""
    with folder_in_memory() as folder:
        yield folder


def rich_tree() -> dict[str, Any]:
    """Everything that a checkpoint may hold."""
    weight = torch.arange(3000.0).reshape(30, 100)
    weights = OrderedDict(weight=weight, tied=weight, view=weight[3:], transposed=weight.T, half=weight.to(torch.bfloat16))
    moments = {"exp_avg": torch.full((3000,), 1e-3), "step": torch.tensor(7.0), "odd": torch.tensor([float("nan"), float("inf")])}
    values = [1, 2.5, -0.0, "text\n", None, True, b"bytes", (3, {4}), torch.Size([2]), torch.float16]
    return {"state_dict": weights, "optimizer_states": [{"state": {0: moments}}], "loops": {"values": values}, "empty": torch.empty(0)}


@pytest.mark.parametrize("packing", ["none", "optimizer", "all", "gzip"])
def test_what_was_stored_is_what_is_loaded_to_the_bit(packing: str, tmp_path: Path) -> None:
    seal = store(rich_tree(), tmp_path / "a.ckpt", Seal("", 0, step=3), packing=packing)
    loaded = load(tmp_path / "a.ckpt")
    assert first_difference(rich_tree(), loaded) is None
    assert loaded["state_dict"]["tied"].data_ptr() == loaded["state_dict"]["weight"].data_ptr()
    assert seal == verify(tmp_path / "a.ckpt") == check(tmp_path / "a.ckpt")
    assert (seal.packing, seal.step, seal.parameters) == (packing, 3, parameters_fingerprint(rich_tree()["state_dict"]))


def test_the_digest_is_that_of_all_bytes_before_the_seal(tmp_path: Path) -> None:
    seal = store(tiny_tree(1), tmp_path / "a.ckpt")
    content = (tmp_path / "a.ckpt").read_bytes()
    assert hashlib.sha256(content[: seal.size]).hexdigest() == seal.sha256
    assert content[seal.size :] == seal_comment(seal)


def test_nothing_handed_in_is_changed(tmp_path: Path) -> None:
    tree, facts = rich_tree(), Seal("", 0, step=3)
    store(tree, tmp_path / "a.ckpt", facts, packing="all")
    assert first_difference(tree, rich_tree()) is None
    assert facts == Seal("", 0, step=3)


def test_the_fingerprint_is_of_names_and_shapes_alone() -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.ones(4)}
    same = {"b": torch.zeros(4, dtype=torch.bfloat16), "a": torch.zeros(2, 3), "_extra_state": {"x": 1}}
    assert parameters_fingerprint(weights) == parameters_fingerprint(same) != parameters_fingerprint({**weights, "a": torch.ones(3, 2)})
    assert parameters_fingerprint(None) == ""


# Disks that fail.


@pytest.mark.parametrize("size_mib", [0.05, 6])
def test_a_full_disk_is_an_oserror_whatever_torch_makes_of_it(size_mib: float, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size_kib=max(64, int(size_mib * 700))) as disk:
        store(tiny_tree(1), disk / "older.ckpt", replace=True)
        before = (disk / "older.ckpt").read_bytes()
        tree = {"state_dict": {"w": torch.rand(int(size_mib * 2**18) + 2**14)}}
        for path, over in ((disk / "new.ckpt", False), (disk / "older.ckpt", True)):
            with pytest.raises(OSError, match="No space left on device") as error:
                store(tree, path, replace=over)
            assert error.value.errno == errno.ENOSPC
        assert [path.name for path in disk.iterdir()] == ["older.ckpt"]
        assert (disk / "older.ckpt").read_bytes() == before


def test_a_file_that_may_not_grow_is_an_oserror(tmp_path: Path) -> None:
    with file_size_limit(2**20), pytest.raises(OSError, match="File too large") as error:
        store({"state_dict": {"w": torch.rand(2**19)}}, tmp_path / "a.ckpt")
    assert error.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_a_few_bytes_at_a_time_takes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, memoryview(data)[:999]))
    store(rich_tree(), tmp_path / "a.ckpt", packing="optimizer")
    monkeypatch.undo()
    assert first_difference(rich_tree(), load(tmp_path / "a.ckpt")) is None


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musictrain.checkpoints.storing.torch.save", lambda *_: (_ for _ in ()).throw(RuntimeError("a bad tensor")))
    with pytest.raises(RuntimeError, match="a bad tensor"):
        store(tiny_tree(1), tmp_path / "a.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_is_an_error_unless_the_older_file_may_go(tmp_path: Path) -> None:
    store(tiny_tree(1), tmp_path / "a.ckpt")
    with pytest.raises(FileExistsError, match=r"a\.ckpt"):
        store(tiny_tree(2), tmp_path / "a.ckpt")
    assert load(tmp_path / "a.ckpt")["global_step"] == 1
    store(tiny_tree(2), tmp_path / "a.ckpt", replace=True)
    assert load(tmp_path / "a.ckpt")["global_step"] == 2


# Files that were damaged.


def offsets_by_class(path: Path) -> dict[str, range]:
    """Where the kinds of bytes of a sealed file lie."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        start = archive.start_dir  # type: ignore[attr-defined]
    size = read_seal(path).size
    data = largest.header_offset + 30 + len(largest.filename)
    return {
        "local header": range(largest.header_offset, data),
        "data": range(data + 64, data + 64 + largest.file_size - 128),
        "list of records": range(start, size - END_OF_ZIP.size),
        "end": range(size - END_OF_ZIP.size, size),
        "seal": range(size, path.stat().st_size),
    }


@pytest.mark.parametrize(("size_mib", "num"), [(1, 8), pytest.param(25, 80, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_a_large_file_is_found_wherever_it_lies(size_mib: int, num: int, tmp_path: Path) -> None:
    path, dice = tmp_path / "a.ckpt", random.Random(size_mib)
    store({"state_dict": {"w": torch.rand(size_mib * 2**18)}, "optimizer_states": [{"m": torch.rand(1000)}]}, path)
    content = bytearray(path.read_bytes())
    for where, offsets in offsets_by_class(path).items():
        for _ in range(num):
            offset, bit = dice.choice(offsets), 1 << dice.randrange(8)
            _flip(path, offset, bit)
            with pytest.raises(BrokenCheckpointError):
                verify(path)
            with pytest.raises(BrokenCheckpointError):
                load(path)
            _flip(path, offset, bit)
        assert path.read_bytes() == content, where
    assert verify(path).size == read_seal(path).size


def _flip(path: Path, offset: int, bit: int) -> None:
    with path.open("rb+") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bit]))


def test_a_stock_file_is_loaded_if_its_checksums_fit(tmp_path: Path) -> None:
    path = tmp_path / "stock.ckpt"
    torch.save(rich_tree(), path)
    assert check(path) is None
    assert first_difference(rich_tree(), load(path)) is None
    position = path.read_bytes().index(torch.arange(1000.0, 1010.0).numpy().tobytes())
    _flip(path, position, 2)
    torch.load(path, weights_only=True)
    with pytest.raises(BrokenCheckpointError, match=r"checksum of its record 'stock/data/\d+' does not fit"):
        load(path)


def test_a_stripped_seal_leaves_a_file_that_must_pass_its_own_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    seal = store(rich_tree(), path)
    stripped = bytearray(path.read_bytes()[: seal.size])
    stripped[-2:] = b"\0\0"
    path.write_bytes(stripped)
    assert check(path) is None
    _flip(path, stripped.index(torch.arange(1000.0, 1010.0).numpy().tobytes()), 2)
    with pytest.raises(BrokenCheckpointError, match="checksum of its record"):
        load(path)


def test_a_version_of_a_later_musictrain_asks_for_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musictrain.checkpoints.seal.SCHEMA", SCHEMA + 1)
    store(tiny_tree(1), tmp_path / "a.ckpt")
    monkeypatch.undo()
    for read in (load, verify, check):
        with pytest.raises(
            BrokenCheckpointError, match=rf"schema {SCHEMA + 1}, and this musictrain reads up to {SCHEMA}: update musictrain"
        ):
            read(tmp_path / "a.ckpt")


def test_what_an_older_musictrain_left_out_of_a_seal_has_its_default(tmp_path: Path) -> None:
    bare = Seal("", 0)
    assert bare.as_json().count(":") < replace(bare, run="r", ill="i", parent="p").as_json().count(":")
    path = tmp_path / "a.ckpt"
    store(tiny_tree(1), tmp_path / "b.ckpt")
    content = (tmp_path / "b.ckpt").read_bytes()[: read_seal(tmp_path / "b.ckpt").size]
    write_sealed(path, content[:-2] + b"\0\0", step=4)
    assert read_seal(path).run == ""
    assert load(path)["global_step"] == 1


def test_a_directory_or_nothing_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(BrokenCheckpointError, match="a directory without a seal"):
        load(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        load(tmp_path / "nothing")
    with pytest.raises(BrokenCheckpointError, match="it cannot be read"):
        verify(tmp_path / "nothing")
