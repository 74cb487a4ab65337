"""A seal says what a version is, and finds out every changed bit of the file it stands in."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from musictrain.checkpoints.seal import MAGIC, Seal, SealError, read_seal, seal_comment, seal_from_json, seal_of_comment
from musictrain.checkpoints.storing import load, store
from musictrain.checkpoints.verification import BrokenCheckpointError, verify


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    path = tmp_path / "v000003_step000120.ckpt"
    facts = Seal("", 0, number=3, step=120, epoch=2, run="a-run", metrics={"val/loss": 0.25, "odd": float("inf")}, sources=("a", "b"))
    store({"state_dict": {"weight": torch.arange(20.0)}, "global_step": 120}, path, facts)
    return path


def test_a_seal_reads_back_as_it_was_written(sealed: Path) -> None:
    seal = read_seal(sealed)
    assert (seal.number, seal.step, seal.epoch, seal.run, seal.sources) == (3, 120, 2, "a-run", ("a", "b"))
    assert seal.metrics == {"val/loss": 0.25, "odd": float("inf")}
    assert seal.size + len(seal_comment(seal)) == sealed.stat().st_size
    assert seal_from_json(seal.as_json()) == seal_of_comment(seal_comment(seal)) == seal


def test_every_zip_reader_takes_a_sealed_file_for_an_ordinary_one(sealed: Path) -> None:
    with zipfile.ZipFile(sealed) as archive:
        assert archive.testzip() is None
        assert archive.comment.endswith(MAGIC)
    assert torch.equal(torch.load(sealed, weights_only=True)["state_dict"]["weight"], torch.arange(20.0))
    assert torch.equal(torch.load(sealed, weights_only=True, mmap=True)["state_dict"]["weight"], torch.arange(20.0))


@pytest.mark.parametrize("stride", [23, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_bit_flip_is_detected(stride: int, sealed: Path) -> None:
    content = sealed.read_bytes()
    for bit in range(0, 8 * len(content), stride):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        sealed.write_bytes(changed)
        with pytest.raises(BrokenCheckpointError):
            verify(sealed)
    sealed.write_bytes(content)
    assert verify(sealed).step == 120


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_truncation_and_everything_added_is_detected(stride: int, sealed: Path) -> None:
    content = sealed.read_bytes()
    for length in range(0, len(content), stride):
        sealed.write_bytes(content[:length])
        with pytest.raises(BrokenCheckpointError):
            verify(sealed)
    for added in (b"\0", b"garbage", content):
        sealed.write_bytes(content + added)
        with pytest.raises(BrokenCheckpointError):
            verify(sealed)


@pytest.mark.parametrize("content", [b"", bytes(4096), MAGIC, b"\n0000000g 00000000 " + MAGIC, b"PK\x05\x06" + bytes(18)])
def test_what_is_no_sealed_file_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SealError, match="seal"):
        read_seal(path)


def test_an_edited_or_stripped_seal_is_detected(sealed: Path) -> None:
    content = sealed.read_bytes()
    sealed.write_bytes(content.replace(b'"step": 120', b'"step": 121'))
    with pytest.raises(BrokenCheckpointError, match="its seal was changed"):
        verify(sealed)
    with zipfile.ZipFile(sealed, "a") as archive:
        archive.comment = b""
    with pytest.raises(BrokenCheckpointError, match="no seal"):
        verify(sealed)


def test_a_seal_of_a_later_schema_asks_for_an_update() -> None:
    text = Seal("ab", 1).as_json().replace('"schema": 1', '"schema": 2')
    with pytest.raises(SealError, match="schema 2, and this musictrain reads up to 1: update musictrain"):
        seal_from_json(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "no JSON"),
        ("[]", "not one of musictrain's"),
        ('{"schema": "1"}', "not one of musictrain's"),
        ('{"schema": 1}', "lacks or garbles sha256 or size"),
        ('{"schema": 1, "sha256": "a", "size": "1"}', "lacks or garbles size"),
        ('{"schema": 1, "sha256": "a", "size": 1, "metrics": 3}', "lacks or garbles metrics"),
    ],
)
def test_a_garbled_seal_names_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(SealError, match=complaint):
        seal_from_json(text)


def test_a_seal_too_long_for_a_zip_comment_is_refused() -> None:
    with pytest.raises(SealError, match="log fewer metrics"):
        seal_comment(Seal("", 0, metrics={f"metric_{number}": 0.1 for number in range(4000)}))


def test_a_pipe_or_directory_under_a_versions_name_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SealError, match="not a regular file"):
        read_seal(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SealError, match=r"a directory without SEAL\.json"):
        read_seal(tmp_path / "folder")


def test_a_seal_with_another_number_than_the_name_is_not_believed(sealed: Path) -> None:
    from musictrain.checkpoints.catalog import list_versions

    sealed.rename(sealed.with_name("v000009_step000999.ckpt"))
    (version,) = list_versions(sealed.parent)
    assert version.seal is None
    assert "renamed or copied" in version.problem
    assert load(version.path)["global_step"] == 120


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"schema": 1, "sha256": "a", "size": 1, "metrics": {"loss": 1' + b"0" * 400 + b"}}",
        b'{"schema": 1, "sha256": "a", "size": 1, "kind": "sharded", "files": {"a": 5}}',
        b'{"schema": 1, "sha256": "a", "size": 1, "kind": "sharded"}',
        b'{"schema": 1, "sha256": "a", "size": 1, "files": {"a": {"size": 1, "sha256": "b"}}}',
    ],
    ids=["not text", "deep", "huge number", "no list of files", "no files", "files of a single file"],
)
def test_a_seal_made_to_confuse_is_an_error_and_no_crash(text: bytes, sealed: Path) -> None:
    comment = text + f"\n{zlib.crc32(text):08x} {len(text):08x} ".encode() + MAGIC
    with pytest.raises(SealError, match="its seal"):
        seal_of_comment(comment)
    from musictrain.checkpoints.catalog import list_versions

    with zipfile.ZipFile(sealed, "a") as archive:
        archive.comment = comment
    (version,) = list_versions(sealed.parent)
    assert version.seal is None


def test_a_seal_of_a_negative_length_is_garbled(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100) + b"\n00000000 -fffffff " + MAGIC)
    with pytest.raises(SealError, match="garbled"):
        read_seal(tmp_path / "file")


def test_a_file_that_calls_itself_sharded_is_refused(sealed: Path) -> None:
    files = {"a": {"size": 1, "sha256": "b"}}
    with zipfile.ZipFile(sealed, "a") as archive:
        archive.comment = b""
    size = sealed.stat().st_size
    with zipfile.ZipFile(sealed, "a") as archive:
        archive.comment = seal_comment(Seal("0" * 64, size, kind="sharded", number=3, step=120, files=files))
    with pytest.raises(BrokenCheckpointError, match="a file, and its seal is that of a sharded version"):
        verify(sealed)


def test_a_pipe_in_place_of_a_directorys_seal_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "SEAL.json")
    with pytest.raises(SealError, match="not a regular file"):
        read_seal(tmp_path)


def test_the_length_field_of_a_sealed_zip_is_watched_when_it_is_loaded(sealed: Path) -> None:
    content = bytearray(sealed.read_bytes())
    position = len(content) - len(seal_comment(read_seal(sealed)))
    content[position - 2 : position] = b"\0\0"
    sealed.write_bytes(content)
    with pytest.raises(BrokenCheckpointError, match=r"seal was changed|no zip file"):
        load(sealed)
