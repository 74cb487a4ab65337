"""What a real fit leaves in its folder and in its mirror: by rule, by name, by health, and nothing of anybody else's touched."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import Tensor

from musictrain.checkpoints.catalog import Version, best_good, last_good, list_versions, version_path
from musictrain.checkpoints.storing import load
from musictrain.checkpoints.verification import verify
from musictrain.runs.records import read_records
from tests.checkpoints.fault_injection import folder_in_memory, make_read_only, small_disk
from tests.checkpoints.small_fits import At, Line, batches, checkpoint_in, fit, steps_in, trainer_in

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:You're resuming")


@pytest.fixture
def run() -> Iterator[Path]:
    """A run folder where fsync costs nothing, with a file of events in it."""
    with folder_in_memory() as parent:
        (parent / "a run").mkdir()
        (parent / "a run" / "events.jsonl").touch()
        yield parent / "a run"


@pytest.fixture
def folder(run: Path) -> Path:
    return run / "checkpoints"


class Scripted(Line):
    """Logs given values in its validations, by the step."""

    def __init__(self, **values: Mapping[int, float]) -> None:
        super().__init__()
        self.values = values

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        for name, by_step in self.values.items():
            if self.global_step in by_step:
                self.log(f"val/{name}", by_step[self.global_step])


def fit_scripted(folder: Path, steps: int, model: Scripted, *callbacks: Any, **options: Any) -> None:
    """Validate, and save, after each step."""
    saving = checkpoint_in(folder, every_n_train_steps=0, after_validation=True, monitor="val/loss", **options)
    trainer = trainer_in(folder.parent, saving, *callbacks, steps=steps, val_check_interval=1, limit_val_batches=1)
    trainer.fit(model, batches(num=max(8, steps)), batches())


def at_step(folder: Path, step: int) -> Version:
    (version,) = [version for version in list_versions(folder) if version.step == step]
    return version


LOSSES = {1: 0.9, 2: 0.3, 3: 0.5, 4: 0.6, 5: 0.7, 6: 0.8, 7: 0.4, 8: 0.9}
GROOVES = {1: 0.1, 2: 0.2, 3: 0.9, 4: 0.8, 5: 0.3, 6: 0.2, 7: 0.1, 8: 0.1}


# Rules.


def test_the_best_by_two_metrics_the_newest_and_every_so_many_steps_stay(folder: Path) -> None:
    fit_scripted(folder, 8, Scripted(loss=LOSSES, groove=GROOVES), metrics={"val/groove": "max"}, newest=2, best=2, keep_every_n_steps=5)
    assert steps_in(folder) == [2, 3, 4, 5, 7, 8]
    assert best_good(folder, "val/loss").step == 2  # type: ignore[union-attr]
    assert best_good(folder, "val/groove", "max").step == 3  # type: ignore[union-attr]
    assert at_step(folder, 3).metric("val/groove") == pytest.approx(0.9)
    saving = checkpoint_in(folder, monitor="val/loss")
    assert saving.best_model_path == str(at_step(folder, 2).path)
    assert float(saving.best_model_score) == pytest.approx(0.3)  # type: ignore[arg-type]
    assert saving.last_model_path == str(at_step(folder, 8).path)


def test_what_is_pinned_by_its_name_stays_and_files_of_others_are_not_touched(folder: Path) -> None:
    others = {"last.ckpt": b"mine", "notes.txt": b"", "v1_step1.ckpt": b"v", "v000001_step000001.ckpt.bak": b"x"}

    def pin() -> None:
        version = at_step(folder, 2)
        version.path.rename(version_path(folder, version.number, version.step, "pinned"))
        for name, content in others.items():
            (folder / name).write_bytes(content)
        (folder / "samples").mkdir()

    fit(folder, At({2: pin}), steps=6, newest=1)
    assert [(version.step, version.pinned) for version in list_versions(folder)] == [(2, True), (6, False)]
    assert {name: (folder / name).read_bytes() for name in others} == others
    assert (folder / "samples").is_dir()
    fit(folder, steps=8, newest=1, ckpt_path=list_versions(folder)[0].path)
    assert [version.step for version in list_versions(folder)] == [2, 8]


def test_an_old_version_is_thinned_to_a_ninth_and_its_weights_are_readable(folder: Path) -> None:
    model = Line(width=250_000)
    weights: dict[int, Tensor] = {}
    note = At({step: (lambda step=step: weights.update({step: model.layer.weight.detach().clone()})) for step in (1, 2, 3)})  # type: ignore[misc]
    fit(folder, note, steps=5, model=model, newest=1, keep_every_n_steps=1, thin_after=2)
    versions = list_versions(folder)
    assert [(version.step, version.thin) for version in versions] == [(1, True), (2, True), (3, False), (4, False), (5, False)]
    for version in versions[:2]:
        seal = verify(version.path)
        assert (seal.kind, seal.step) == ("weights", version.step)
        assert version.stored_bytes < versions[-1].seal.plain_size / 8  # type: ignore[union-attr]
        assert torch.equal(load(version.path)["state_dict"]["layer.weight"], weights[version.step].to(torch.bfloat16))
    assert last_good(folder).step == 5  # type: ignore[union-attr]
    assert not list(folder.glob("v000002_step000001.ckpt"))


# Health.


def test_versions_that_are_not_finite_never_push_out_a_good_one(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = Scripted(loss={step: 1.0 / (step + 1) for step in range(12)})

    def spoil() -> None:
        with torch.no_grad():
            model.layer.weight[0, 0] = float("nan")

    fit_scripted(folder, 8, model, At({4: spoil}), newest=2)
    good = [version.step for version in list_versions(folder) if version.good]
    assert good == [3, 4]
    assert last_good(folder).step == 4  # type: ignore[union-attr]
    assert best_good(folder, "val/loss").step == 4, "later losses are better, of weights that are no numbers"  # type: ignore[union-attr]
    (ill,) = [version for version in list_versions(folder) if not version.good]
    assert ill.step == 8
    assert "['state_dict']['layer.weight'] is not finite" in ill.seal.ill or "the loss is nan" in ill.seal.ill  # type: ignore[union-attr]
    assert "does not count as good" in caplog.text
    model.layer.reset_parameters()
    fit(folder, steps=6, model=model, ckpt_path="last", newest=2)
    assert torch.isfinite(load(last_good(folder).path)["state_dict"]["layer.weight"]).all()  # type: ignore[union-attr]
    assert (folder / f"{ill.path.name}.abandoned").exists()


def test_an_optimizer_that_is_not_finite_makes_a_version_ill_too(folder: Path) -> None:
    model = Line()

    def spoil() -> None:
        optimizer: Any = model.optimizers()
        optimizer.state[model.layer.bias]["exp_avg_sq"].fill_(float("inf"))

    fit(folder, At({3: spoil}), model=model, steps=4, newest=1)
    assert [(version.step, version.good) for version in list_versions(folder)] == [(3, True), (4, False)]
    assert at_step(folder, 4).seal.ill == "['optimizer_states'][0]['state'][1]['exp_avg_sq'] is not finite"  # type: ignore[union-attr]


def test_versions_from_a_loss_spike_never_push_out_a_good_one(folder: Path) -> None:
    model = Line()

    def scale(factor: float) -> None:
        model.scale = factor

    fit(folder, At({20: lambda: scale(1e4), 24: lambda: scale(1.0)}), model=model, steps=25, newest=2, trainer={"max_epochs": 9})
    ill = {version.step: version.seal.ill for version in list_versions(folder) if version.seal and version.seal.ill}
    assert all(text.startswith("inside a loss spike") for text in ill.values())
    records = [event for event in read_records(folder.parent / "events.jsonl") if event["event"] == "saved"]
    unhealthy = {event["step"] for event in records if not event["healthy"]}
    assert {21, 22, 23, 24} <= unhealthy <= {21, 22, 23, 24, 25}
    good = [version.step for version in list_versions(folder) if version.good]
    assert len(good) == 2
    assert 20 in good


# The mirror.


def test_a_mirror_in_memory_gets_every_version_verified_under_the_runs_name(folder: Path) -> None:
    fit(folder, steps=3, newest=1, mirror="memory://mirror-of-fits")
    there = fsspec.filesystem("memory")
    assert version_path(folder, 4, 3).read_bytes() == there.cat_file("/mirror-of-fits/a run/v000004_step000003.ckpt")
    assert all(Path(name).name.startswith("v0000") for name in there.ls("/mirror-of-fits/a run", detail=False))
    mirrored = [event["version"] for event in read_records(folder.parent / "events.jsonl") if event["event"] == "mirrored"]
    assert mirrored[-1] == "v000004_step000003.ckpt"
    there.rm("/mirror-of-fits", recursive=True)


@pytest.mark.parametrize("state", ["whole", "full", "read-only"])
def test_a_mirror_on_a_disk_disturbs_no_training_whatever_becomes_of_it(state: str, folder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        if state == "full":
            (disk / "filler").write_bytes(bytes(60 * 1024))
        if state == "read-only":
            make_read_only(disk)
        saving = fit(folder, steps=4, newest=9, mirror=str(disk / "mirror"))
        there = list((disk / "mirror" / "a run").glob("v*.ckpt"))
        events = [event["event"] for event in read_records(folder.parent / "events.jsonl")]
        make_read_only(disk, False)
        assert steps_in(folder) == [0, 1, 2, 3, 4]
        assert [verify(path).step for path in sorted(there)] == ([0, 1, 2, 3, 4] if state == "whole" else [])
        assert events.count("mirror_failed") == (0 if state == "whole" else 5)
        assert events.count("saved") == 5
        assert saving.stalls


def test_a_mirror_of_an_unknown_scheme_is_refused_before_the_training(folder: Path) -> None:
    model = Line()
    before = model.layer.weight.detach().clone()
    with pytest.raises(ValueError, match=r"mirror='s33://bucket' cannot be used: Protocol not known: s33\. Did you mean 's3'\?"):
        fit(folder, model=model, mirror="s33://bucket")
    assert torch.equal(model.layer.weight, before)
    assert not folder.exists()
    fit(folder, model=model, steps=1)


# Odd folders and clocks.


@pytest.mark.parametrize("name", ["with spaces", "Übung №5", "100%s %d", "two\nlines", "a" * 250, "*[a]?"])
def test_fits_in_folders_with_odd_names_resume(name: str, run: Path) -> None:
    folder = run.parent / name / "checkpoints"
    fit(folder, steps=2)
    fit(folder, steps=3, ckpt_path="last")
    assert steps_in(folder)[-1] == 3
    assert [path.name for path in run.parent.iterdir() if path != run] == [name]


def test_a_clock_that_jumps_back_and_equal_dates_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def jump_back() -> None:
        monkeypatch.setattr("musictrain.checkpoints.version_folder.time.time", lambda: 1e6)

    fit(folder, At({2: jump_back}), steps=4, newest=2)
    monkeypatch.undo()
    for version in list_versions(folder):
        os.utime(version.path, (1e9, 1e9))
    os.utime(list_versions(folder)[0].path, (3e9, 3e9))
    assert steps_in(folder) == [3, 4]
    saving = fit(folder, steps=5, ckpt_path="last")
    assert saving.report is not None
    assert saving.report.step == 4
