"""Versions as other files: plain checkpoints, safetensors, and the small thing an old version is reduced to."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import load_file

from musictrain.checkpoints import exporting
from musictrain.checkpoints.averaging import save_average
from musictrain.checkpoints.catalog import Version, last_good, list_versions
from musictrain.checkpoints.comparing import first_difference
from musictrain.checkpoints.exporting import export, thin, thin_version
from musictrain.checkpoints.retention import Retention, decide
from musictrain.checkpoints.seal import Seal
from musictrain.checkpoints.storing import load, store
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from tests.checkpoints.some_trees import QUIET, Numbers, Tied, as_versions, plain_load, train


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return train(tmp_path_factory.mktemp("stock"))


@pytest.fixture
def stored(stock: list[Path], tmp_path: Path) -> list[Path]:
    return as_versions(stock, tmp_path / "checkpoints", packing="all")


def metadata_of(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, read by hand."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])["__metadata__"]  # type: ignore[no-any-return]


# .ckpt


def test_a_plain_checkpoint_holds_everything_and_stock_lightning_goes_on_from_it(
    stock: list[Path], stored: list[Path], tmp_path: Path
) -> None:
    target = export(stored[1], tmp_path / "plain.ckpt")
    assert target == tmp_path / "plain.ckpt"
    assert first_difference(plain_load(stock[1]), plain_load(target)) is None
    assert Tied.load_from_checkpoint(target).hparams.width == 3
    trainer = lightning.Trainer(max_steps=3, default_root_dir=tmp_path, **QUIET)
    trainer.fit(Tied(), Numbers(), ckpt_path=str(target))
    assert {int(state["step"]) for state in trainer.optimizers[0].state.values()} == {3}
    assert (verify(target).number, verify(target).step, verify(target).packing) == (2, 2, "none")


def test_weights_alone_load_but_hold_no_optimizer(stored: list[Path], tmp_path: Path) -> None:
    target = export(stored[1], tmp_path / "weights.ckpt", weights_only=True)
    tree, whole = plain_load(target), load(stored[1])
    assert set(whole) - set(tree) == {"optimizer_states", "lr_schedulers", "loops", "callbacks"}
    assert first_difference(tree["state_dict"], whole["state_dict"]) is None
    assert tree["Numbers"]["tokenizer"] == {"name": "numbers", "fingerprint": "abc"}
    assert verify(target).kind == "weights"
    assert torch.equal(Tied.load_from_checkpoint(target).norm.weight, whole["state_dict"]["norm.weight"])


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_a_dtype_converts_floats_alone_and_keeps_weights_alone(
    stored: list[Path], tmp_path: Path, dtype: str, expected: torch.dtype, ending: str
) -> None:
    target = export(stored[1], tmp_path / f"small{ending}", dtype=dtype)
    weights = plain_load(target)["state_dict"] if ending == ".ckpt" else load_file(target)
    whole = load(stored[1])["state_dict"]
    assert torch.equal(weights["norm.weight"], whole["norm.weight"].to(expected))
    assert torch.equal(weights["norm.num_batches_tracked"], whole["norm.num_batches_tracked"])
    assert ending == ".safetensors" or "optimizer_states" not in plain_load(target)


def test_an_unsealed_checkpoint_can_be_exported_too(stock: list[Path], tmp_path: Path) -> None:
    target = export(stock[2], tmp_path / "again.ckpt")
    assert first_difference(plain_load(stock[2]), plain_load(target)) is None
    assert verify(target).step == 3


# .safetensors


def test_safetensors_hold_every_name_and_say_where_they_come_from(stored: list[Path], tmp_path: Path) -> None:
    target = export(stored[2], tmp_path / "weights.safetensors")
    weights = load(stored[2])["state_dict"]
    assert first_difference(load_file(target), weights) is None
    assert metadata_of(target) == {"format": "pt", "step": "3", "epoch": "3", "run": "a-run", "version": "v000003_step000003"}
    module = Tied(width=3)
    module.load_state_dict(load_file(target))
    assert module.head.weight is module.embedding.weight
    assert torch.equal(module.head.weight, weights["head.weight"])


def test_views_and_transposed_weights_are_written_as_their_elements(tmp_path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3)
    weights = {"t": whole.t(), "row": whole[1], "point": torch.tensor(1.5), "none": torch.empty(0, 2)}
    store({"state_dict": weights, "global_step": 1}, tmp_path / "views.ckpt")
    read = load_file(export(tmp_path / "views.ckpt", tmp_path / "views.safetensors"))
    assert first_difference(read, weights) is None
    assert metadata_of(tmp_path / "views.safetensors")["version"] == "views.ckpt"


@pytest.mark.parametrize("odd", [{"k": 1}, torch.zeros(2).to_sparse()])
def test_what_safetensors_cannot_hold_is_refused_by_name(tmp_path: Path, odd: Any) -> None:
    store({"state_dict": {"a": torch.ones(1), "odd": odd}}, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match=r"safetensors holds dense tensors only, and odd is a (dict|Tensor): export to \.ckpt instead"):
        export(tmp_path / "odd.ckpt", tmp_path / "odd.safetensors")
    assert not (tmp_path / "odd.safetensors").exists()


# What is refused.


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("weights.pt", {}, r"weights\.pt ends in '\.pt', expected \.ckpt or \.safetensors"),
        ("weights", {}, r"weights ends in 'nothing', expected"),
        ("x.ckpt", {"dtype": "int8"}, r"dtype='int8', expected bf16 or fp16"),
        ("v000009_step000009.ckpt", {}, r"is what a version is called.*choose another name"),
        ("v000001_step000001.pinned.ckpt", {"replace": True}, r"is what a version is called"),
    ],
)
def test_targets_that_cannot_be_are_refused_before_anything_is_read(tmp_path: Path, target: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "not there", tmp_path / target, **options)


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_an_older_file_gives_way_only_when_asked(stored: list[Path], tmp_path: Path, ending: str) -> None:
    target = export(stored[0], tmp_path / f"out{ending}")
    before = target.read_bytes()
    with pytest.raises(FileExistsError, match=r"is there already\. Choose another name, or say that it is to be replaced"):
        export(stored[1], target)
    assert target.read_bytes() == before
    export(stored[1], target, replace=True)
    assert target.read_bytes() != before


def test_missing_and_damaged_versions_are_refused(stored: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        export(tmp_path / "gone.ckpt", tmp_path / "out.ckpt")
    content = bytearray(stored[0].read_bytes())
    content[500] ^= 1
    stored[0].write_bytes(content)
    with pytest.raises(BrokenCheckpointError, match="its bytes are not those that were sealed"):
        export(stored[0], tmp_path / "out.ckpt")


def test_weights_too_large_for_fp16_are_refused_by_name_and_infinities_stay(tmp_path: Path) -> None:
    store({"state_dict": {"small": torch.tensor([float("inf"), 1.0]), "large": torch.tensor([1.0, -7e4])}}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"large has values up to 7e\+04, and torch\.float16 ends at 6\.55e\+04\. Choose bf16"):
        export(tmp_path / "a.ckpt", tmp_path / "b.ckpt", dtype="fp16")
    export(tmp_path / "a.ckpt", tmp_path / "b.ckpt", dtype="bf16")
    assert plain_load(tmp_path / "b.ckpt")["state_dict"]["small"][0].item() == float("inf")


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors"])
def test_a_full_disk_leaves_the_older_file_and_no_other(
    stored: list[Path], tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    target = export(stored[0], out / f"weights{ending}")
    before = target.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            export(stored[1], target, replace=True)
    assert list(out.iterdir()) == [target]
    assert target.read_bytes() == before


# Thinning.


def version_of(path: Path) -> Version:
    return next(version for version in list_versions(path.parent) if version.path == path)


def test_thinning_keeps_what_loading_needs_and_leaves_the_tree_alone(stored: list[Path]) -> None:
    tree = load(stored[1])
    small = thin(tree)
    assert first_difference(tree, load(stored[1])) is None
    assert set(tree) - set(small) == {"optimizer_states", "lr_schedulers", "loops", "callbacks"}
    assert {"epoch", "global_step", "pytorch-lightning_version", "hyper_parameters", "Numbers"} <= set(small)
    weights = small["state_dict"]
    assert weights["norm.weight"].dtype == torch.bfloat16
    assert torch.equal(weights["norm.num_batches_tracked"], tree["state_dict"]["norm.num_batches_tracked"])
    assert weights["head.weight"] is weights["embedding.weight"]
    assert first_difference(thin(small), small) is None


def test_of_a_moving_average_the_average_stays(tmp_path: Path) -> None:
    tree = plain_load(train(tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)])[-1])
    small = thin(tree)
    assert torch.equal(small["state_dict"]["norm.weight"], tree["state_dict"]["norm.weight"].bfloat16())
    assert {"current_model_state", "averaging_state"}.isdisjoint(small)


def test_a_thinned_version_takes_the_place_of_the_full_one(stored: list[Path]) -> None:
    whole = load(stored[0])
    path = thin_version(version_of(stored[0]))
    assert path.name == "v000001_step000001.thin.ckpt"
    assert sorted(path.parent.iterdir()) == [path, *stored[1:]]
    seal = verify(path)
    assert (seal.kind, seal.packing, seal.number, seal.step, seal.run, seal.created) == ("weights", "all", 1, 1, "a-run", 9.0)
    assert seal.metrics == {"val/loss": 1.0}
    assert first_difference(load(path), thin(whole)) is None
    listed = list_versions(path.parent)[0]
    assert (listed.thin, listed.resumable, listed.good) == (True, False, True)
    plain = export(path, path.parent / "again.ckpt")
    assert torch.equal(Tied.load_from_checkpoint(plain).norm.weight, whole["state_dict"]["norm.weight"].bfloat16().float())


def test_retention_and_thinning_together_settle(stored: list[Path]) -> None:
    folder = stored[0].parent
    rules = Retention(newest=1, best=1, metrics={"val/loss": "max"}, thin_after=1)
    first = decide(list_versions(folder), rules)
    assert ([each.path for each in first.thin], [each.path for each in first.remove]) == ([stored[0]], [stored[1]])
    thin_version(first.thin[0])
    stored[1].unlink()
    again = decide(list_versions(folder), rules)
    assert (again.thin, again.remove, len(again.keep)) == ((), (), 2)


def test_an_interruption_before_the_removal_leaves_the_full_version_and_is_finished_later(
    stored: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored[0].parent

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exporting.disk, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            thin_version(version_of(stored[2]))
    assert len(list(folder.iterdir())) == 4
    assert [each.path for each in list_versions(folder)] == stored
    good = last_good(folder)
    assert good is not None
    assert good.path == stored[2]
    path = thin_version(version_of(stored[2]))
    assert sorted(folder.iterdir()) == [*stored[:2], path]


def test_a_thinned_file_that_is_not_what_was_meant_goes_and_the_version_stays(stored: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(path: Path) -> dict[str, Any]:
        return {**load(path), "epoch": 99}

    monkeypatch.setattr(exporting, "load", forgetful)
    with pytest.raises(BrokenCheckpointError, match=r"v000001_step000001\.thin\.ckpt cannot be used: \['epoch'\] was not stored.*0 and 99"):
        thin_version(version_of(stored[0]))
    assert sorted(stored[0].parent.iterdir()) == stored


def test_only_full_versions_that_can_be_read_are_thinned(stored: list[Path]) -> None:
    folder = stored[0].parent
    average = save_average(folder, stored)
    with pytest.raises(ValueError, match=r"v000004_step000003\.ckpt cannot be thinned: it holds no more than weights"):
        thin_version(version_of(average))
    with pytest.raises(ValueError, match=r"\.thin\.ckpt cannot be thinned: it holds no more than weights"):
        thin_version(version_of(thin_version(version_of(stored[0]))))
    stored[1].write_bytes(b"")
    with pytest.raises(ValueError, match=r"v000002_step000002\.ckpt cannot be thinned: it has no seal"):
        thin_version(version_of(stored[1]))


def test_a_full_version_too_large_for_bfloat16_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "v000001_step000001.ckpt"
    store({"state_dict": {"w": torch.tensor([3.4e38])}}, path, Seal("", 0, number=1, step=1))
    with pytest.raises(ValueError, match=r"w has values up to 3\.4e\+38, and torch\.bfloat16 ends at 3\.39e\+38"):
        thin_version(version_of(path))
    assert list(tmp_path.iterdir()) == [path]
