"""The last version is the highest step that verifies, whatever else lies in the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from musictrain.checkpoints.catalog import (
    NoGoodVersionError,
    best_good,
    last_good,
    list_versions,
    next_number,
    put_aside,
    version_path,
)
from tests.checkpoints.small_versions import spoil, write_version


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_empty_or_missing_folder_has_no_last_version(tmp_path: Path) -> None:
    assert last_good(tmp_path) is None
    assert last_good(tmp_path / "missing") is None
    assert list_versions(tmp_path / "missing") == []
    assert next_number(tmp_path / "missing") == 1


def test_the_newest_three_of_five_are_corrupt_and_the_fourth_is_used(tmp_path: Path) -> None:
    paths = [write_version(tmp_path, number, 10 * number) for number in range(1, 6)]
    spoil(paths[4])
    paths[3].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    chosen = last_good(tmp_path)
    assert chosen is not None
    assert chosen.path == paths[1]
    assert len(names(tmp_path)) == 5, "looking changes nothing"
    assert last_good(tmp_path, set_aside=True) == chosen
    assert [name for name in names(tmp_path) if name.endswith(".corrupt")] == [
        "v000003_step000030.ckpt.corrupt",
        "v000004_step000040.ckpt.corrupt",
        "v000005_step000050.ckpt.corrupt",
    ]


def test_versions_of_which_none_is_good_are_an_error_that_says_why(tmp_path: Path) -> None:
    for number in (1, 2):
        spoil(write_version(tmp_path, number, number))
    with pytest.raises(NoGoodVersionError, match=r"None of the 2 versions .* v000002_step000002\.ckpt: its bytes are not those") as error:
        last_good(tmp_path)
    assert "v000001_step000001.ckpt" in str(error.value)
    assert "Nothing was started from step 0" in str(error.value)


def test_neither_dates_nor_numbers_outweigh_the_step(tmp_path: Path) -> None:
    high = write_version(tmp_path, 1, 90)
    low = write_version(tmp_path, 2, 30)
    os.utime(high, (0, 0))
    os.utime(low, (2e9, 2e9))
    assert last_good(tmp_path).path == high  # type: ignore[union-attr]
    same_step = write_version(tmp_path, 3, 90)
    assert last_good(tmp_path).path == same_step  # type: ignore[union-attr]


def test_only_our_own_names_count_and_nothing_else_is_touched(tmp_path: Path) -> None:
    version = write_version(tmp_path, 1, 5)
    for name in (
        "last.ckpt",
        "v1_step5.ckpt",
        "v000002_step000009.ckpt.corrupt",
        ".incoming-1-0-v000002_step000009.ckpt",
        "v000002_step.ckpt",
    ):
        (tmp_path / name).write_bytes(version.read_bytes())
    os.mkfifo(tmp_path / "v000008_step000008.ckpt")
    (tmp_path / "v000009_step000009.ckpt").mkdir()
    (tmp_path / "v000007_step000007.ckpt").symlink_to(version)
    found = {each.name: each.problem for each in list_versions(tmp_path)}
    assert found["v000001_step000005"] == ""
    assert "regular file" in found["v000008_step000008"]
    assert "directory without" in found["v000009_step000009"]
    assert "symbolic link" in found["v000007_step000007"]
    assert last_good(tmp_path, set_aside=True).path == version  # type: ignore[union-attr]
    assert (tmp_path / "last.ckpt").exists()


def test_numbers_are_never_given_out_twice(tmp_path: Path) -> None:
    write_version(tmp_path, 4, 5)
    (tmp_path / "v000011_step000002.ckpt.abandoned").touch()
    assert next_number(tmp_path) == 12


def test_the_best_version_is_healthy_and_whole(tmp_path: Path) -> None:
    paths = [write_version(tmp_path, n, n, metrics={"val/loss": loss}) for n, loss in enumerate((0.5, 0.3, 0.2, 0.4), start=1)]
    write_version(tmp_path, 5, 5, metrics={"val/loss": 0.1}, ill="inside a loss spike")
    write_version(tmp_path, 6, 6, metrics={"val/loss": float("nan")})
    assert best_good(tmp_path, "val/loss").path == paths[2]  # type: ignore[union-attr]
    assert best_good(tmp_path, "val/loss", "max").path == paths[0]  # type: ignore[union-attr]
    spoil(paths[2])
    assert best_good(tmp_path, "val/loss").path == paths[1]  # type: ignore[union-attr]
    assert best_good(tmp_path, "val/groove") is None


def test_weights_that_are_not_finite_are_gone_on_from_only_if_there_is_nothing_else(tmp_path: Path) -> None:
    broken = write_version(tmp_path, 2, 20, ill="['state_dict']['weight'] is not finite")
    assert last_good(tmp_path).path == broken  # type: ignore[union-attr]
    sound = write_version(tmp_path, 1, 10)
    assert last_good(tmp_path).path == sound  # type: ignore[union-attr]
    spike = write_version(tmp_path, 3, 15, ill="inside a loss spike")
    assert last_good(tmp_path).path == spike  # type: ignore[union-attr]


def test_weights_alone_cannot_be_gone_on_from(tmp_path: Path) -> None:
    write_version(tmp_path, 1, 10, kind="average")
    with pytest.raises(NoGoodVersionError, match="of kind average"):
        last_good(tmp_path)


def test_what_is_set_aside_never_replaces_anything(tmp_path: Path) -> None:
    path = write_version(tmp_path, 1, 1)
    path.with_name(path.name + ".corrupt").write_text("an earlier one")
    aside = put_aside(path, "corrupt")
    assert aside is not None
    assert aside.name == "v000001_step000001.ckpt.corrupt-1"
    assert path.with_name(path.name + ".corrupt").read_text() == "an earlier one"


def test_a_thinned_version_gives_way_to_its_original(tmp_path: Path) -> None:
    original = write_version(tmp_path, 1, 1)
    thin = version_path(tmp_path, 1, 1, "thin")
    thin.write_bytes(original.read_bytes())
    assert [version.path for version in list_versions(tmp_path)] == [original]
    original.unlink()
    assert [version.thin for version in list_versions(tmp_path)] == [True]


def test_two_versions_of_one_number_are_two_versions(tmp_path: Path) -> None:
    write_version(tmp_path, 12, 450)
    newest = write_version(tmp_path, 12, 600)
    assert [version.step for version in list_versions(tmp_path)] == [450, 600]
    assert last_good(tmp_path).path == newest  # type: ignore[union-attr]
