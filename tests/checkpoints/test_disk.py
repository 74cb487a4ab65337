"""A file appears whole under its name, or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from musictrain.checkpoints import disk


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("sizes", [[1], [10, 20, 5], [disk.CHUNK + 7], [3, disk.CHUNK, 3], [disk.CHUNK - 1, 1, 30], [2 * disk.CHUNK, 1]])
@pytest.mark.parametrize("hold_back", [0, 22])
def test_what_is_written_in_pieces_arrives_in_one(sizes: list[int], hold_back: int, tmp_path: Path) -> None:
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes, start=1)]
    whole = b"".join(pieces)
    with disk.new_file(tmp_path / "file", replace=False, hold_back=hold_back) as file:
        for piece in pieces:
            assert file.write(piece) == len(piece)
        if len(whole) >= hold_back > 0:
            end = file.held_back()
            assert end == whole[-hold_back:]
            assert file.replace_end(end) == hashlib.sha256(whole).hexdigest()
    assert (tmp_path / "file").read_bytes() == whole
    assert file.size == len(whole)
    assert names(tmp_path) == ["file"]


def test_a_taken_name_is_an_error_and_the_older_file_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("older")
    with pytest.raises(FileExistsError), disk.new_file(tmp_path / "file", replace=False) as file:
        file.write(b"newer")
    assert (tmp_path / "file").read_text() == "older"
    with disk.new_file(tmp_path / "file", replace=True) as file:
        file.write(b"newer")
    assert (tmp_path / "file").read_text() == "newer"
    assert names(tmp_path) == ["file"]


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with disk.new_file(tmp_path / "file", replace=False) as file:
            file.write(bytes(10))
            raise ZeroDivisionError("half way")

    with pytest.raises(ZeroDivisionError, match="half way"):
        fail_half_way()
    assert names(tmp_path) == []


def test_a_symbolic_link_in_place_of_the_temporary_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    trap = tmp_path / ".incoming-trap"
    trap.symlink_to(victim)
    monkeypatch.setattr(disk, "temporary_name", lambda final: trap)
    with pytest.raises(FileExistsError), disk.new_file(tmp_path / "file", replace=True) as file:
        file.write(b"evil")
    assert victim.read_text() == "precious"


def test_a_name_that_is_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "file").symlink_to(victim)
    with disk.new_file(tmp_path / "file", replace=True) as file:
        file.write(b"new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "file").is_symlink()


def test_without_hard_links_a_taken_name_is_still_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object) -> None:
        raise PermissionError(1, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    with disk.new_file(tmp_path / "file", replace=False) as file:
        file.write(b"one")
    with pytest.raises(FileExistsError), disk.new_file(tmp_path / "file", replace=False) as file:
        file.write(b"two")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_a_directory_is_removed_as_one_thing(tmp_path: Path) -> None:
    folder = tmp_path / "v000001_step000001.ckpt"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_text("x")
    disk.remove(folder)
    assert names(tmp_path) == []
    disk.remove(folder)


def test_only_leftovers_of_writers_are_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".incoming-99999999-0-v000001_step000001.ckpt").write_text("half")
    (tmp_path / ".incoming-99999999-1-v000002_step000001.ckpt").mkdir()
    (tmp_path / "mine.ckpt").write_text("whole")
    assert disk.remove_leftovers(tmp_path) == 2
    assert names(tmp_path) == ["mine.ckpt"]
    assert disk.remove_leftovers(tmp_path / "missing") == 0


def test_what_a_living_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    (tmp_path / f".incoming-{os.getppid()}-0-v000001_step000001.ckpt").write_text("half")
    assert disk.remove_leftovers(tmp_path) == 0
