"""The owner of a folder: numbers, names, branches, failures in any order, room, the mirror, and what a run is told in the end."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from musictrain.checkpoints.catalog import last_good, list_versions, version_path
from musictrain.checkpoints.checkpoint_io import REQUEST, CompressedCheckpointIO
from musictrain.checkpoints.lock import FolderInUseError, FolderLock
from musictrain.checkpoints.retention import Retention
from musictrain.checkpoints.seal import SCHEMA, Seal
from musictrain.checkpoints.verification import verify
from musictrain.checkpoints.version_folder import LostCheckpointError, VersionFolder
from tests.checkpoints.fault_injection import folder_in_memory, make_read_only, small_disk
from tests.checkpoints.small_fits import LONGEST_SECONDS, hung_disk, steps_in
from tests.checkpoints.small_versions import spoil, tiny_tree, write_version

SHORT = 0.05
Events = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder where fsync costs nothing."""
    with folder_in_memory() as folder:
        yield folder


class Run:
    """A folder, a plugin and what was recorded."""

    def __init__(self, folder: Path, wait_seconds: float = LONGEST_SECONDS, mirror: str | None = None, **retention: Any) -> None:
        self.events: Events = []
        self.io = CompressedCheckpointIO(packing="none", wait_seconds=wait_seconds)
        rule = Retention(**{"newest": 100, "metrics": {}, **retention})
        self.versions = VersionFolder(folder, rule, mirror, record=lambda event, **details: self.events.append((event, details)))
        self.versions.open()

    def ask(self, step: int, **facts: Any) -> Path:
        """Ask for a save and go on."""
        path, request = self.versions.request(Seal("", 0, step=step, **facts))
        self.io.save_checkpoint(tiny_tree(step), path, {REQUEST: request})
        return path

    def save(self, step: int, **facts: Any) -> Path:
        """Save and wait for it."""
        path = self.ask(step, **facts)
        assert self.io.wait(LONGEST_SECONDS)
        return path

    def happened(self, *events: str) -> list[str]:
        """What was recorded of some events, with the version's name."""
        return [f"{event} {details['version']}" for event, details in self.events if event in events]

    def close(self) -> None:
        self.versions.close(LONGEST_SECONDS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts runs and closes them in the end."""
    runs: list[Run] = []

    def begin(folder: Path = tmp_path / "run" / "checkpoints", **options: Any) -> Run:
        runs.append(Run(folder, **options))
        return runs[-1]

    yield begin
    for run in runs:
        run.io.wait(LONGEST_SECONDS)
        run.close()


# Numbers and branches.


def test_versions_are_numbered_and_know_their_parent(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start()
    paths = [run.save(step) for step in (0, 10, 20)]
    assert [path.name for path in paths] == ["v000001_step000000.ckpt", "v000002_step000010.ckpt", "v000003_step000020.ckpt"]
    assert [verify(path).parent for path in paths] == ["", "v000001_step000000", "v000002_step000010"]
    assert run.happened("saved") == [f"saved {path.name}" for path in paths]


def test_going_on_from_an_older_version_leaves_the_other_branch_behind(start: Callable[..., Run]) -> None:
    first = start()
    paths = [first.save(step) for step in (10, 20, 30, 40)]
    spoil(paths[3])
    first.close()
    second = start()
    second.versions.go_on_from(paths[1], 20)
    names = sorted(path.name for path in second.versions.folder.iterdir())
    assert names[1:] == [
        "v000001_step000010.ckpt",
        "v000002_step000020.ckpt",
        "v000003_step000030.ckpt.abandoned",
        "v000004_step000040.ckpt.corrupt",
    ]
    saved = second.save(30)
    assert saved.name == "v000005_step000030.ckpt", "a number is never given out twice"
    assert verify(saved).parent == "v000002_step000020"
    assert last_good(second.versions.folder).path == saved  # type: ignore[union-attr]
    reasons = {details["version"]: details["reason"] for event, details in second.events if event == "version_set_aside"}
    assert reasons["v000003_step000030"] == "another branch is trained"
    assert "not those that were sealed" in reasons["v000004_step000040"]


def test_a_later_version_of_the_same_step_is_another_branch_too(start: Callable[..., Run]) -> None:
    first = start()
    first.save(10)
    chosen, later = first.save(20), first.save(20)
    first.close()
    second = start()
    second.versions.go_on_from(chosen, 20)
    assert steps_in(second.versions.folder) == [10, 20]
    assert not later.exists()


def test_a_version_of_a_later_musictrain_is_abandoned_and_not_called_corrupt(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start()
    parent = first.save(10)
    first.close()
    with monkeypatch.context() as patch:
        patch.setattr("musictrain.checkpoints.seal.SCHEMA", SCHEMA + 1)
        later = write_version(first.versions.folder, 2, 20)
    start().versions.go_on_from(parent, 10)
    assert later.with_name(f"{later.name}.abandoned").exists()


def test_a_thinned_version_beyond_is_of_the_other_branch_and_an_average_is_the_users(start: Callable[..., Run]) -> None:
    run = start(newest=1, best=1, metrics={"val/loss": "min"}, thin_after=1)
    base = run.save(10, metrics={"val/loss": 0.9})
    run.save(20, metrics={"val/loss": 0.1})
    run.save(30, metrics={"val/loss": 0.5})
    run.save(40, metrics={"val/loss": 0.5})
    assert [version.step for version in list_versions(run.versions.folder) if version.thin] == [20]
    write_version(run.versions.folder, 9, 40, kind="average")
    shutil.copy(version_path(run.versions.folder, 4, 40), base)
    run.close()
    again = start()
    again.versions.go_on_from(None, 10)
    assert [(version.step, version.seal and version.seal.kind) for version in list_versions(again.versions.folder)][-1] == (40, "average")
    assert not list(again.versions.folder.glob("*.thin.ckpt"))
    assert list(again.versions.folder.glob("v000002_step000020.thin.ckpt.abandoned"))


def test_the_version_a_run_goes_on_from_is_not_removed(start: Callable[..., Run]) -> None:
    first = start()
    parent = first.save(10)
    first.close()
    second = start(newest=1)
    second.versions.go_on_from(parent, 10)
    for step in (20, 30, 40):
        second.save(step)
    assert steps_in(second.versions.folder) == [10, 40]


def test_dates_and_a_clock_that_goes_back_change_nothing(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(newest=2)
    for step, now in ((10, 2e9), (20, 1e9), (30, 5e8), (40, -7.0)):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        os.utime(run.save(step), (1e9, 1e9))
    assert steps_in(run.versions.folder) == [30, 40]
    assert last_good(run.versions.folder).step == 40  # type: ignore[union-attr]


def test_a_number_taken_meanwhile_is_not_overwritten(start: Callable[..., Run]) -> None:
    run = start()
    run.save(10)
    run.io.wait()
    path, request = run.versions.request(Seal("", 0, step=20))
    write_version(run.versions.folder, 2, 20, run="another's")
    run.io.save_checkpoint(tiny_tree(20), path, {REQUEST: request})
    assert run.io.wait()
    assert verify(path).run == "another's"
    assert run.happened("saved")[-1] == "saved v000003_step000020.ckpt"


@pytest.mark.parametrize("name", ["with spaces", "Übung №5 🎹", "100%s %d %(x)s", "two\nlines", "a" * 255, "-rf", "*[a]?", "#x;y&z", " "])
def test_odd_folder_names_are_names_like_any_other(name: str, start: Callable[..., Run], tmp_path: Path) -> None:
    run = start(tmp_path / name / "checkpoints", newest=1, mirror=str(tmp_path / "mirror"))
    for step in (10, 20):
        run.save(step, run=name)
    run.close()
    assert verify(last_good(run.versions.folder).path).run == name  # type: ignore[union-attr]
    assert steps_in(tmp_path / "mirror" / name)[-1] == 20


# Failures.


def test_a_failed_save_is_told_in_three_places_and_made_up_for_by_the_next(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run = start()
    run.save(10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _fail)
        run.save(20)
    run.versions.check_stored(10)
    with pytest.raises(
        LostCheckpointError, match=r"reached step 20, .*Input/output error\. The last version is .*v000001_step000010\.ckpt"
    ):
        run.versions.check_stored(20)
    assert "NOT SAVED  v000002_step000020.ckpt: Input/output error. Training goes on" in capsys.readouterr().out
    assert "v000002_step000020.ckpt could not be stored: Input/output error" in caplog.text
    assert run.happened("save_failed") == ["save_failed v000002_step000020.ckpt"]
    run.save(30)
    run.versions.check_stored(30)
    assert steps_in(run.versions.folder) == [10, 30]
    assert verify(version_path(run.versions.folder, 3, 30)).parent == "v000002_step000020", "so the seals tell that one is missing"


def _fail(*arguments: Any, **options: Any) -> None:
    raise OSError(5, "Input/output error")


def test_an_older_save_that_succeeds_late_does_not_hide_that_the_last_one_failed(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(wait_seconds=SHORT)
    with hung_disk(monkeypatch):
        for step in (10, 20, 30):
            run.ask(step)
    assert run.io.wait(LONGEST_SECONDS)
    assert steps_in(run.versions.folder) == [10, 20]
    with pytest.raises(LostCheckpointError, match=r"step 30, but could not be saved: the disk has not taken .* after step 20"):
        run.versions.check_stored(30)


def test_a_last_save_that_still_hangs_is_not_taken_for_stored(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(wait_seconds=SHORT)
    with hung_disk(monkeypatch):
        run.ask(10)
        with pytest.raises(LostCheckpointError, match=r"not taken it in time \(see wait_seconds .* There is no version\."):
            run.versions.check_stored(10)
    assert run.io.wait(LONGEST_SECONDS)
    run.versions.check_stored(10)


def test_a_step_that_is_stored_is_not_lost_because_its_second_save_failed(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start()
    run.save(10)
    monkeypatch.setattr(os, "link", _fail)
    run.save(10)
    run.versions.check_stored(10)


def test_a_version_that_does_not_read_back_is_set_aside_and_nothing_is_removed_for_it(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(newest=1)
    run.save(10)
    real = os.link

    def link_and_spoil(source: Any, target: Any, **options: Any) -> None:
        spoil(Path(source))
        real(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link_and_spoil)
        run.save(20)
    assert steps_in(run.versions.folder) == [10]
    assert (run.versions.folder / "v000002_step000020.ckpt.corrupt").exists()
    assert run.happened("save_failed", "removed") == ["save_failed v000002_step000020.ckpt"]


@pytest.mark.parametrize("broken", ["events", "stdout"])
def test_nobody_to_tell_it_to_does_not_keep_versions_from_being_stored_and_removed(
    broken: str, start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(newest=1)
    run.save(10)
    if broken == "events":
        run.versions._record = _fail
    else:
        monkeypatch.setattr("builtins.print", _fail)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", _fail)
        run.save(20)
    run.save(30)
    assert steps_in(run.versions.folder) == [30]
    if broken == "events":
        assert "The event 'saved' could not be recorded: [Errno 5] Input/output error" in caplog.text


def test_a_folder_that_cannot_be_listed_does_not_end_the_training(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = start()
    run.save(10)
    monkeypatch.setattr("musictrain.checkpoints.version_folder.next_number", _fail)
    assert run.save(20).name == "v000002_step000020.ckpt"


def test_a_deleted_folder_is_made_anew_and_held_anew(start: Callable[..., Run]) -> None:
    run = start()
    run.save(10)
    shutil.rmtree(run.versions.folder.parent)
    assert run.save(20).name == "v000002_step000020.ckpt", "numbers go on"
    with pytest.raises(FolderInUseError, match="Another trainer of this process"):
        FolderLock(run.versions.folder).acquire()
    child = os.fork()
    if child == 0:
        from musictrain.checkpoints import lock

        lock._held_here.clear()
        try:
            FolderLock(run.versions.folder).acquire()
        except FolderInUseError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# Room.


def test_a_full_disk_takes_the_room_of_the_version_that_would_have_gone(tmp_path: Path, start: Callable[..., Run]) -> None:
    with small_disk(tmp_path / "disk", 96) as disk:
        run = start(disk / "checkpoints", newest=3)
        for step in (10, 20, 30):
            run.save(step)
        size = version_path(run.versions.folder, 1, 10).stat().st_blocks * 512
        filler = disk / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(disk).free - size // 2))
        run.save(40)
        assert steps_in(run.versions.folder) == [20, 30, 40]
        assert run.happened("save_failed", "removed") == ["removed v000001_step000010.ckpt"]


def test_a_disk_that_stays_full_costs_no_more_than_the_version_that_would_have_gone(
    tmp_path: Path, start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", 96) as disk:
        run, filler, real = start(disk / "checkpoints", newest=3), disk / "filler", os.unlink

        def fill() -> None:
            with filler.open("ab") as file:
                file.write(bytes(shutil.disk_usage(disk).free))

        def unlink_and_fill(path: Any, **options: Any) -> None:
            real(path, **options)
            fill()

        for step in (10, 20, 30):
            run.save(step)
        fill()
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", unlink_and_fill)
            for step in (40, 50, 60):
                run.save(step)
        assert steps_in(run.versions.folder) == [20, 30]
        assert len(run.happened("save_failed")) == 3
        filler.unlink()
        run.save(70)
        assert steps_in(run.versions.folder) == [20, 30, 70]


def test_a_disk_too_small_for_two_versions_is_refused(tmp_path: Path, start: Callable[..., Run]) -> None:
    with small_disk(tmp_path / "disk", 96) as disk:
        run = start(disk / "checkpoints")
        run.versions.check_room(40 * 1024)
        with pytest.raises(
            OSError, match=r"checkpoints has \d+\.\d KiB left, and a version .* up to 60\.0 KiB, of which 2 must fit\. Make room"
        ):
            run.versions.check_room(60 * 1024)


@pytest.mark.parametrize("state", ["read-only", "full", "a file"])
def test_a_folder_that_cannot_be_written_is_refused_in_plain_words(state: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        if state == "a file":
            (disk / "checkpoints").touch()
        elif state == "read-only":
            make_read_only(disk)
        else:
            with pytest.raises(OSError, match="No space"):
                (disk / "filler").write_bytes(bytes(2**20))
        why = {"read-only": "Read-only file system", "full": "No space left on device", "a file": "File exists"}[state]
        with pytest.raises(OSError, match=f"No version can be saved in .*checkpoints: {why}. Free it, or give another dirpath"):
            VersionFolder(disk / "checkpoints", Retention()).open()
        if state == "read-only":
            make_read_only(disk, False)


# The mirror.


def test_versions_appear_in_the_mirror_under_the_runs_name(start: Callable[..., Run]) -> None:
    run = start(mirror="memory://version-folder")
    for step in (10, 20):
        run.save(step)
    run.close()
    there = fsspec.filesystem("memory")
    assert there.ls("/version-folder/run", detail=False) == [
        "/version-folder/run/v000001_step000010.ckpt",
        "/version-folder/run/v000002_step000020.ckpt",
    ]
    assert there.cat_file("/version-folder/run/v000002_step000020.ckpt") == version_path(run.versions.folder, 2, 20).read_bytes()
    assert run.happened("mirrored") == ["mirrored v000001_step000010.ckpt", "mirrored v000002_step000020.ckpt"]
    there.rm("/version-folder", recursive=True)


def test_a_mirror_that_fails_disturbs_nothing_and_is_recorded(tmp_path: Path, start: Callable[..., Run]) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        run = start(mirror=str(disk / "mirror"), newest=2)
        for step in range(10, 70, 10):
            run.save(step)
            run.versions._copies.wait(LONGEST_SECONDS)
        assert steps_in(run.versions.folder) == [50, 60]
        run.versions.check_stored(60)
        failed = run.happened("mirror_failed")
        assert failed
        assert len(failed) + len(run.happened("mirrored")) == 6
        assert all(verify(path) for path in (disk / "mirror" / "run").glob("v*.ckpt"))
        make_read_only(disk)
        run.save(70)
        run.close()
        assert run.happened("mirror_failed")[-1] == "mirror_failed v000007_step000070.ckpt"
        assert "Read-only file system" in [details["error"] for event, details in run.events if event == "mirror_failed"][-1]
        make_read_only(disk, False)


@pytest.mark.parametrize(
    ("url", "why"),
    [("s33://bucket", r"Protocol not known: s33\. Did you mean 's3'\?"), ("s3://bucket", "s3fs"), ("nonsense://x", "Protocol not known")],
)
def test_a_mirror_that_nothing_knows_is_refused_at_the_start(url: str, why: str, tmp_path: Path) -> None:
    if why == "s3fs":
        pytest.importorskip("fsspec")
        try:
            fsspec.get_filesystem_class("s3")
        except ImportError:
            pass
        else:
            pytest.skip("s3fs is installed here")
    with pytest.raises(ValueError, match=f"mirror='{url}' cannot be used: .*{why}"):
        VersionFolder(tmp_path, Retention(), mirror=url)
