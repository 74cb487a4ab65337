"""A version that is held stays readable, whatever the run removes meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from musictrain.checkpoints.catalog import Version
from musictrain.replay import holding
from musictrain.replay.holding import Hold


@pytest.fixture(params=["links", "copies"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "copies":

        def refuse(source: object, target: object) -> None:
            raise PermissionError("no links here")

        monkeypatch.setattr(holding.os, "link", refuse)


@pytest.mark.usefixtures("disk")
def test_files_and_directories_outlive_their_removal(tmp_path: Path) -> None:
    file, folder = tmp_path / "v000001_step000001.ckpt", tmp_path / "v000002_step000002.ckpt"
    file.write_bytes(b"one")
    (folder / "shards").mkdir(parents=True)
    (folder / "shards" / "a").write_bytes(b"two")
    gone = tmp_path / "v000003_step000003.ckpt"
    with Hold(tmp_path / "replay") as hold:
        held = hold.take([Version(file, 1, 1), Version(folder, 2, 2), Version(gone, 3, 3)])
        file.unlink()
        (folder / "shards" / "a").unlink()
        assert [version.step for version in held] == [1, 2]
        assert held[0].path.read_bytes() == b"one"
        assert (held[1].path / "shards" / "a").read_bytes() == b"two"
        assert [version.path.name for version in held] == [file.name, folder.name]
    assert list((tmp_path / "replay").iterdir()) == []


def test_where_nothing_can_be_made_another_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "replay").write_text("a file in the way")
    file = tmp_path / "v000001_step000001.ckpt"
    file.write_bytes(b"one")
    with Hold(tmp_path / "replay") as hold:
        assert hold.take([Version(file, 1, 1)])[0].path.read_bytes() == b"one"
