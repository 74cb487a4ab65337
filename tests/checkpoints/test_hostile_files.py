"""Files made by somebody who means harm are refused: nothing runs, nothing is written elsewhere, no memory fills up."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import re
import resource
import shutil
import signal
import stat
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from musictrain.checkpoints.catalog import last_good, list_versions, version_path
from musictrain.checkpoints.disk import TEMPORARY, temporary_name
from musictrain.checkpoints.lock import LOCK
from musictrain.checkpoints.packing import pack
from musictrain.checkpoints.seal import END_OF_ZIP, SEAL_FILE, Seal, seal_comment
from musictrain.checkpoints.storing import load, store
from musictrain.checkpoints.verification import BrokenCheckpointError, digest_of, verify
from tests.checkpoints.fault_injection import folder_in_memory
from tests.checkpoints.hostile_zips import PICKLE, records_of, with_pickle, write_sealed, zip_of
from tests.checkpoints.small_fits import At, fit, steps_in
from tests.checkpoints.small_versions import tiny_tree, write_version

pytestmark = pytest.mark.filterwarnings(
    "ignore:You defined a `validation_step`", "ignore:Detected pickle protocol", "ignore:You're resuming"
)

MOST_GROWTH_MIB = 64
NAME = "v000009_step000009.ckpt"


class Harm:
    """Its pickle makes a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder where fsync costs nothing."""
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """What exists if a pickle was obeyed."""
    return tmp_path / "harm was done"


def grown_mib(act: Callable[[], Any]) -> int:
    """By how much the memory of a forked child grew at most while it did something that raises BrokenCheckpointError."""
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            act()
        except BrokenCheckpointError:
            os._exit(min(250, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024))
        except BaseException:
            os._exit(252)
        os._exit(251)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert 0 <= code <= 250, "it hung, or raised something else or nothing"
    return code


# Pickles.


def test_a_pickle_that_would_run_something_is_refused_sealed_or_not(tmp_path: Path, canary: Path) -> None:
    content = zip_of(with_pickle(pickle.dumps({"state_dict": Harm(canary)}, protocol=2)))
    sealed, plain = write_sealed(tmp_path / "sealed.ckpt", content), tmp_path / "plain.ckpt"
    plain.write_bytes(content)
    assert verify(sealed).size == len(content), "a seal can be forged: it is no signature"
    for path in (sealed, plain):
        with pytest.raises(BrokenCheckpointError, match="cannot be read as tensors and plain values"):
            load(path)
    torch.load(plain, weights_only=False)
    assert canary.exists(), "it would have run"


def test_a_run_is_never_gone_on_from_a_pickle_that_would_run_something(tmp_path: Path, canary: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    harm = zip_of(with_pickle(pickle.dumps({"state_dict": Harm(canary)}, protocol=2)))
    write_sealed(folder / NAME, harm, number=9, step=9)
    with pytest.raises(BrokenCheckpointError, match="cannot be read as tensors and plain values"):
        fit(folder, steps=12, ckpt_path="last")
    assert not canary.exists()


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), pickle.dumps([1, 2]), b"\x80\x02K\x01."], ids=["protocol 4", "list", "number"])
def test_a_pickle_without_a_checkpoint_in_it_is_refused(content: bytes, tmp_path: Path) -> None:
    path = write_sealed(tmp_path / NAME, zip_of(with_pickle(content)))
    with pytest.raises(BrokenCheckpointError, match=r"cannot be read as tensors|where a checkpoint is a dict"):
        load(path)


@pytest.mark.parametrize("num", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_garbled_pickle_is_read_or_refused_and_nothing_else(num: int, tmp_path: Path) -> None:
    weights = OrderedDict(w=torch.arange(4.0), p=torch.nn.Parameter(torch.ones(2)))
    tree = {"state_dict": weights, "n": [1, 2.5, None, (1, 2), {3}, b"x"], "size": torch.Size([2]), "m": torch.ones(2000)}
    records = records_of(pack(tree, "all"))
    content, dice = dict(records)[PICKLE], random.Random(1)
    refused = 0
    for _ in range(num):
        changed = bytearray(content)
        for _ in range(dice.choice((1, 3))):
            changed[dice.randrange(len(changed))] = dice.randrange(256)
        path = write_sealed(tmp_path / NAME, zip_of([(name, bytes(changed) if name == PICKLE else data) for name, data in records]))
        try:
            load(path)
        except BrokenCheckpointError:
            refused += 1
    assert refused > num // 2


# Zip files.


def bomb(path: Path, size_mib: int) -> Path:
    """A small file with a record that unpacks to much, in a place from where torch would unpack it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records_of({}):
            archive.writestr(name, data)
        with archive.open(zipfile.ZipInfo("archive/data/0"), "w"):
            pass
        packed = zipfile.ZipInfo("archive/data/1")
        packed.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(packed, "w") as record:
            for _ in range(size_mib):
                record.write(bytes(2**20))
    return path


@pytest.mark.parametrize("size_mib", [200, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_file_that_unpacks_to_much_more_than_its_size_is_refused(size_mib: int, tmp_path: Path) -> None:
    plain = bomb(tmp_path / "bomb", size_mib)
    sealed = write_sealed(tmp_path / NAME, plain.read_bytes())
    assert plain.stat().st_size < size_mib * 2**20 // 500
    for path in (plain, sealed):
        with pytest.raises(BrokenCheckpointError, match="'archive/data/1' is compressed, which torch never does"):
            load(path)
        assert grown_mib(lambda path=path: load(path)) < MOST_GROWTH_MIB  # type: ignore[misc]


def test_a_packed_tensor_that_claims_more_than_its_file_could_hold_is_refused(tmp_path: Path) -> None:
    claim = {"musictrain_packed": 1, "dtype": "float32", "shape": [2**28], "data": torch.zeros(100, dtype=torch.uint8)}
    store({"state_dict": {}, "optimizer_states": [claim]}, tmp_path / NAME)
    verify(tmp_path / NAME)
    with pytest.raises(BrokenCheckpointError, match="cannot be read as tensors and plain values"):
        load(tmp_path / NAME)
    assert grown_mib(lambda: load(tmp_path / NAME)) < MOST_GROWTH_MIB


def test_a_storage_that_claims_more_than_its_record_is_refused(tmp_path: Path) -> None:
    tree = {"w": torch.arange(4.0)}
    content = dict(records_of(tree))[PICKLE].replace(b"K\x04", b"J" + struct.pack("<i", 4 * 10**8))
    path = write_sealed(tmp_path / NAME, zip_of(with_pickle(content, tree)))
    with pytest.raises(BrokenCheckpointError, match="does not match expected size"):
        load(path)


def two_lists(size: int) -> bytes:
    """A zip in which Python finds one list of records, right before the end, and torch another, where the end says that it is."""
    bad = zip_of(with_pickle(pickle.dumps({"a": bytes(size)}, protocol=2)), zipfile.ZIP_DEFLATED)
    good = zip_of(with_pickle(pickle.dumps({"a": 1}, protocol=2)))
    *_, num, length, offset, _ = END_OF_ZIP.unpack(bad[-END_OF_ZIP.size :])
    start = END_OF_ZIP.unpack(good[-END_OF_ZIP.size :])[6]
    front = bad[: -END_OF_ZIP.size] + good[:start]
    shift = len(front) - length - offset + length
    listing, position = bytearray(good[start : -END_OF_ZIP.size]), 0
    assert len(listing) == length
    while position < length:
        where = len(bad) - END_OF_ZIP.size + struct.unpack_from("<L", listing, position + 42)[0] - shift
        struct.pack_into("<L", listing, position + 42, where % 2**32)
        position += 46 + sum(struct.unpack_from("<3H", listing, position + 28))
    return front + bytes(listing) + END_OF_ZIP.pack(b"PK\x05\x06", 0, 0, num, num, length, offset, 0)


def test_two_lists_of_records_are_refused(tmp_path: Path) -> None:
    content = two_lists(10**6)
    (tmp_path / "plain").write_bytes(content)
    assert len(torch.load(tmp_path / "plain", weights_only=True)["a"]) == 10**6, "torch unpacks the list that Python does not see"
    write_sealed(tmp_path / NAME, content)
    for name in ("plain", NAME):
        with pytest.raises(BrokenCheckpointError, match="its list of records is not where its end says"):
            load(tmp_path / name)


def test_a_zip_behind_something_else_is_refused(tmp_path: Path) -> None:
    # torch.load looks at the first bytes, and reads a file of the time before zips in another way.
    path = write_sealed(tmp_path / NAME, pickle.dumps({"a": 1}, protocol=2) + zip_of(records_of(tiny_tree(1))))
    with pytest.raises(BrokenCheckpointError, match="does not begin with its first record"):
        verify(path)


@pytest.mark.parametrize("name", ["../../outside", "/etc/outside", "archive/../../outside", "\\outside"])
def test_records_that_point_out_of_the_file_are_refused(name: str, tmp_path: Path) -> None:
    path = write_sealed(tmp_path / NAME, zip_of([(PICKLE, b"a"), (name, b"b")]))
    with pytest.raises(BrokenCheckpointError, match="points out of the file"):
        load(path)
    assert [each.name for each in tmp_path.iterdir()] == [NAME]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_that_are_there_twice_or_not_at_all_are_refused(tmp_path: Path) -> None:
    twice = write_sealed(tmp_path / NAME, zip_of([(PICKLE, b"a"), (PICKLE, b"b")]))
    with pytest.raises(BrokenCheckpointError, match="a record twice"):
        load(twice)
    with pytest.raises(BrokenCheckpointError, match="does not begin with its first record"):
        load(write_sealed(tmp_path / NAME, zip_of([])))


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    content = bytearray(zip_of([("archive/data.pkl", b"a" * 100), ("archive/data/0", b"b" * 100)]))
    second = content.rindex(b"PK\x01\x02")
    struct.pack_into("<L", content, second + 42, 50)
    with pytest.raises(BrokenCheckpointError, match="'archive/data/0' overlaps another"):
        load(write_sealed(tmp_path / NAME, bytes(content)))


def test_an_encrypted_record_is_refused(tmp_path: Path) -> None:
    content = bytearray(zip_of([("archive/data.pkl", b"a" * 100)]))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(BrokenCheckpointError, match="is encrypted"):
        load(write_sealed(tmp_path / NAME, bytes(content)))


@pytest.mark.parametrize("num", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_garbled_zip_with_a_valid_seal_is_read_or_refused_and_nothing_else(num: int, tmp_path: Path) -> None:
    buffer, dice = io.BytesIO(), random.Random(2)
    torch.save(tiny_tree(3), buffer)
    content = buffer.getvalue()
    listing = content.index(b"PK\x01\x02")
    for _ in range(num):
        changed = bytearray(content)
        changed[dice.randrange(listing, len(content))] ^= 1 << dice.randrange(8)
        try:
            write_sealed(tmp_path / NAME, bytes(changed))
        except ValueError:
            continue
        with contextlib.suppress(BrokenCheckpointError):
            assert torch.equal(load(tmp_path / NAME)["state_dict"]["weight"], tiny_tree(3)["state_dict"]["weight"])


# What is no file.


def squat(path: Path, what: str, elsewhere: Path) -> None:
    """Put something other than a file under a name."""
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "link":
        path.symlink_to(elsewhere)
    elif what == "link to nothing":
        path.symlink_to(elsewhere.with_name("nothing"))
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("only root makes devices")


@pytest.mark.parametrize("what", ["pipe", "folder", "link", "link to nothing", "device"])
def test_what_is_no_file_is_passed_over_and_set_aside_when_the_run_goes_on(what: str, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    fit(folder, steps=2)
    shutil.copy(version_path(folder, 3, 2), elsewhere)
    before = elsewhere.read_bytes()
    squat(folder / NAME, what, elsewhere)
    assert last_good(folder).step == 2  # type: ignore[union-attr]
    problem = list_versions(folder)[-1].problem
    assert any(words in problem for words in ("not a regular file", "a directory without SEAL.json", "a symbolic link"))
    fit(folder, steps=3, ckpt_path="last")
    assert steps_in(folder)[-1] == 3
    assert os.path.lexists(folder / f"{NAME}.corrupt")
    assert elsewhere.read_bytes() == before
    assert not elsewhere.with_name("nothing").exists()


def link_temporary_names(folder: Path, elsewhere: Path) -> None:
    """Links under the names that this process will give its next temporary files."""
    (used,) = re.findall(rf"{TEMPORARY}\d+-(\d+)-", temporary_name(folder / "v").name)
    for number in range(int(used), int(used) + 50):
        for name in ("v000001_step000000.ckpt", "v000003_step000002.ckpt"):
            with contextlib.suppress(FileExistsError):
                (folder / f"{TEMPORARY}{os.getpid()}-{number}-{name}").symlink_to(elsewhere)


def test_links_in_place_of_temporary_files_are_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    folder.mkdir()
    link_temporary_names(folder, elsewhere)
    fit(folder, At({1: lambda: link_temporary_names(folder, elsewhere)}), steps=3)
    numbers = {version.step: version.number for version in list_versions(folder)}
    assert sorted(numbers) == [1, 2, 3]
    assert numbers[2] > 3, "it found a link in its way and took another name"
    assert elsewhere.read_text() == "precious"


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    folder.mkdir()
    (folder / LOCK).symlink_to(elsewhere)
    with pytest.raises(OSError, match="symbolic link"):
        fit(folder, steps=1)
    assert elsewhere.read_text() == "precious"


# Sharded versions.


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A directory with a seal, and a .metadata that would do harm if it were unpickled."""
    path = tmp_path / "v000001_step000004.ckpt"
    (path / "inside").mkdir(parents=True)
    (path / ".metadata").write_bytes(b"metadata")
    (path / "inside" / "__0_0.distcp").write_bytes(bytes(5000))
    seal_directory(path, ".metadata", "inside/__0_0.distcp")
    return path


def seal_directory(path: Path, *names: str) -> None:
    """Write a SEAL.json over these files."""
    files = {name: dict(zip(("size", "sha256"), digest_of(path / name), strict=True)) for name in names}
    (path / SEAL_FILE).write_bytes(seal_comment(Seal("ab", 8, kind="sharded", number=1, step=4, files=files)))


def test_a_directory_is_whole_if_every_file_is_what_was_sealed(sharded: Path) -> None:
    assert verify(sharded).step == 4
    assert [version.problem for version in list_versions(sharded.parent)] == [""]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: (path / ".metadata").write_bytes(b"metadatA"), r"bytes of its \.metadata are not those that were sealed"),
        (lambda path: (path / ".metadata").unlink(), r"its \.metadata is missing"),
        (lambda path: seal_directory(path, "inside/__0_0.distcp"), r"its \.metadata is not covered by its seal"),
        (lambda path: (path / "extra.py").touch(), r"its extra\.py is not covered by its seal"),
        (lambda path: (path / "inside" / "extra").symlink_to("/etc/hostname"), "its inside/extra is a symbolic link"),
        (lambda path: (path / "more").symlink_to("/etc"), "its more is a symbolic link"),
        (lambda path: (path / SEAL_FILE).unlink(), r"directory without SEAL\.json"),
        (lambda path: os.truncate(path / "inside" / "__0_0.distcp", 4999), "bytes of its inside/__0_0.distcp are not those"),
    ],
    ids=["changed", "missing", "not covered", "extra file", "link to a file", "link to a folder", "no seal", "cut off"],
)
def test_a_directory_that_is_not_what_was_sealed_is_refused(change: Callable[[Path], Any], reason: str, sharded: Path) -> None:
    change(sharded)
    with pytest.raises(BrokenCheckpointError, match=reason):
        verify(sharded)


def test_a_file_replaced_by_a_link_a_pipe_or_a_folder_is_refused(sharded: Path) -> None:
    metadata, copy = sharded / ".metadata", sharded.parent / "copy"
    for what in ("link", "pipe", "folder"):
        shutil.copy(metadata, copy)
        metadata.unlink()
        squat(metadata, what, copy)
        with pytest.raises(BrokenCheckpointError, match=r"symbolic link|regular file|\.metadata is missing"):
            verify(sharded)
        metadata.rmdir() if what == "folder" else metadata.unlink()
        shutil.move(copy, metadata)
    verify(sharded)


def test_a_seal_that_names_files_outside_its_directory_is_refused(sharded: Path) -> None:
    outside = sharded.parent / "outside"
    outside.write_bytes(b"x")
    seal_directory(sharded, ".metadata", "inside/__0_0.distcp", "../outside")
    with pytest.raises(BrokenCheckpointError, match=r"its \.\./outside is missing"):
        verify(sharded)


def test_a_seal_that_is_a_link_or_endless_is_refused(sharded: Path) -> None:
    copy = sharded.parent / "copy"
    shutil.move(sharded / SEAL_FILE, copy)
    (sharded / SEAL_FILE).symlink_to(copy)
    with pytest.raises(BrokenCheckpointError, match=r"SEAL\.json is a symbolic link"):
        verify(sharded)
    (sharded / SEAL_FILE).unlink()
    (sharded / SEAL_FILE).symlink_to("/dev/zero")
    with pytest.raises(BrokenCheckpointError, match=r"regular file|symbolic link"):
        verify(sharded)


def test_one_bad_version_does_not_hide_the_others(tmp_path: Path) -> None:
    good = write_version(tmp_path, 1, 5)
    odd: dict[str, Any] = {"files": {"a": {"size": 1, "sha256": "b"}}, "kind": "sharded"}
    for number, content in enumerate([b"", bytes(100), seal_comment(Seal("", 0)), b"PK\x05\x06" + bytes(18)], start=2):
        version_path(tmp_path, number, 9).write_bytes(content)
    folder = version_path(tmp_path, 7, 9)
    folder.mkdir()
    (folder / SEAL_FILE).write_bytes(seal_comment(Seal("", 0, number=7, step=9, **odd)))
    assert last_good(tmp_path).path == good  # type: ignore[union-attr]
