"""A directory of shards gives the checkpoint that one process would have written, and a crafted one does no harm."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

from musictrain.checkpoints.averaging import average_versions, save_average
from musictrain.checkpoints.catalog import last_good, list_versions
from musictrain.checkpoints.checkpoint_io import CompressedCheckpointIO
from musictrain.checkpoints.comparing import differences
from musictrain.checkpoints.consolidating import FRESH, META_FILE, OPTIMIZERS, RAW, TIED
from musictrain.checkpoints.exporting import export, thin_version
from musictrain.checkpoints.mirror import Mirror
from musictrain.checkpoints.seal import SEAL_FILE, Seal, read_seal
from musictrain.checkpoints.shards import METADATA
from musictrain.checkpoints.storing import load, store
from musictrain.checkpoints.verification import BrokenCheckpointError, verify
from musictrain.checkpoints.weights import read_tree
from tests.checkpoints.some_shards import sealed_shards, small_tree, with_metadata, write_shards

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
FACTS = Seal("", 0, number=2, step=4, world_size=2, run="name")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", *small_tree())


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return sealed_shards(tmp_path / "checkpoints", *small_tree(), FACTS)


def same(one: Any, other: Any) -> bool:
    assert [str(each) for each in differences(one, other)] == []
    return True


def test_a_directory_gives_what_a_file_of_the_same_state_would_give(folder: Path, version: Path) -> None:
    tree, _ = small_tree()
    for path in (folder, version):
        found = load(path)
        assert same(found, tree)
        assert found["optimizer_states"][0]["param_groups"][1]["params"] == [1, 2], "numbered over all groups"
        assert same(read_tree(path), tree)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64, torch.bool, torch.int8])
def test_every_precision_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    tree = {"state_dict": {"a": torch.tensor([[0, 1, 5]]).to(dtype), "empty": torch.zeros(0, 3, dtype=dtype)}, "optimizer_states": []}
    assert same(load(write_shards(tmp_path / "shards", tree, [])), {"state_dict": tree["state_dict"]})


def test_on_meta_only_shapes_are_read(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outline = load(version, map_location="meta")
    assert {name: tuple(value.shape) for name, value in outline["state_dict"].items()} == {
        **{"one.weight": (2, 3), "one.bias": (2,), "two.weight": (3, 2), "counts": (2,)}
    }
    assert outline["state_dict"]["one.weight"].device.type == "meta"
    assert outline["loops"] == {"a": [1, 2]}


def test_tied_weights_are_one_tensor_again(tmp_path: Path) -> None:
    tree, names = small_tree()
    tree["state_dict"]["head.weight"] = tree["state_dict"]["one.weight"].clone()
    found = load(write_shards(tmp_path / "shards", {**tree, TIED: {"head.weight": "one.weight"}}, names))["state_dict"]
    assert found["head.weight"] is found["one.weight"]


def test_the_state_that_torch_makes_up_for_an_optimizer_without_a_step_is_left_out(tmp_path: Path) -> None:
    tree, names = small_tree()
    (state,) = tree["optimizer_states"]
    found = load(write_shards(tmp_path / "shards", {**tree, OPTIMIZERS: [{"class": "AdamW", "groups": [1, 2], FRESH: True}]}, names))
    assert same(found["optimizer_states"], [{**state, "state": {}}])


def test_raw_weights_beside_an_average_have_a_place_of_their_own(tmp_path: Path) -> None:
    tree, names = small_tree()
    raw = {name: value + 1 for name, value in tree["state_dict"].items()}
    weights = {**tree["state_dict"], **{RAW + name: value for name, value in raw.items()}}
    found = load(write_shards(tmp_path / "shards", {**tree, "state_dict": weights}, names))
    assert same(found, {**tree, "current_model_state": raw})


def test_several_optimizers_stay_in_order(tmp_path: Path) -> None:
    tree, names = small_tree()
    first = tree["optimizer_states"][0]
    states = [{**first, "param_groups": [{**group, "lr": float(number)} for group in first["param_groups"]]} for number in range(12)]
    found = load(write_shards(tmp_path / "shards", {**tree, "optimizer_states": states}, names))
    assert same(found["optimizer_states"], states)


# What is done with versions.


def test_a_sharded_version_is_put_together_by_exporting_it(version: Path, tmp_path: Path) -> None:
    path = export(version, tmp_path / "plain.ckpt")
    seal = verify(path)
    assert (seal.kind, seal.step, seal.run, seal.files) == ("full", 4, "name", {})
    assert seal.resumable
    assert same(torch.load(path, weights_only=True), small_tree()[0])
    small = export(version, tmp_path / "small.ckpt", dtype="bf16")
    assert read_seal(small).kind == "weights"
    assert load(small)["state_dict"]["one.weight"].dtype == torch.bfloat16
    assert export(version, tmp_path / "weights.safetensors").stat().st_size > 0


def test_a_sharded_version_is_thinned_to_a_file(version: Path) -> None:
    (listed,) = list_versions(version.parent)
    path = thin_version(listed)
    assert [each.name for each in version.parent.iterdir()] == ["v000002_step000004.thin.ckpt"]
    assert verify(path).kind == "weights"
    assert torch.equal(load(path)["state_dict"]["one.weight"], small_tree()[0]["state_dict"]["one.weight"].bfloat16())


def test_sharded_and_plain_versions_are_averaged_together(version: Path) -> None:
    store(small_tree(scale=3.0, step=8)[0], version.parent / "v000003_step000008.ckpt", Seal("", 0, number=3, step=8))
    paths = [each.path for each in list_versions(version.parent)]
    tree, sources = average_versions(paths)
    assert sources == ("v000002_step000004", "v000003_step000008")
    assert torch.equal(tree["state_dict"]["one.weight"], small_tree(scale=2.0)[0]["state_dict"]["one.weight"])
    assert verify(save_average(version.parent, list(reversed(paths)))).kind == "average"
    assert last_good(version.parent).step == 8  # type: ignore[union-attr]


def test_an_average_of_sharded_versions_alone_is_a_file(version: Path) -> None:
    other = sealed_shards(version.parent, *small_tree(3.0, step=8), Seal("", 0, number=3, step=8))
    assert read_seal(save_average(version.parent, [version, other])).kind == "average"


def test_a_sharded_version_goes_to_a_mirror_and_comes_back(version: Path, tmp_path: Path) -> None:
    mirror = Mirror(str(tmp_path / "mirror"))
    assert mirror.names() == [] and mirror.copy(version) == version.name  # noqa: PT018
    (tmp_path / "mirror" / version.name / "__0_0.distcp").write_bytes(b"damaged")
    mirror.copy(version)
    shutil.rmtree(version)
    assert same(load(mirror.fetch(version.name, version.parent)), small_tree()[0])


# What is refused.


def test_a_plugin_verifies_a_sharded_version_and_hands_out_what_is_not_sharded(version: Path) -> None:
    plugin, seen = CompressedCheckpointIO(), []
    plugin.before_use = lambda path, tree: seen.append((path, tree))
    assert set(plugin.load_metadata(version)) == {"global_step", "epoch", "loops", OPTIMIZERS}
    ((path, tree),) = seen
    assert path == version
    assert set(tree) >= {"state_dict", "optimizer_states"}
    content = bytearray((version / "__0_0.distcp").read_bytes())
    content[100] ^= 1
    (version / "__0_0.distcp").write_bytes(content)
    with pytest.raises(BrokenCheckpointError, match=r"bytes of its __0_0\.distcp are not those that were sealed"):
        plugin.load_metadata(version)
    with pytest.raises(BrokenCheckpointError, match=r"bytes of its __0_0\.distcp are not those that were sealed"):
        plugin.load_checkpoint(version)


def test_a_version_that_has_lost_its_seal_is_refused_and_not_taken_for_somebody_elses(version: Path) -> None:
    (version / SEAL_FILE).unlink()
    with pytest.raises(BrokenCheckpointError, match=r"a directory without a seal .*SEAL\.json"):
        load(version)


class Harm:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def first_key(metadata: Any, tensor: bool = True) -> str:
    return next(key for key, entry in metadata.state_dict_metadata.items() if hasattr(entry, "chunks") is tensor)


def place(metadata: Any, **changes: Any) -> None:
    key = MetadataIndex(first_key(metadata), (0, 0))
    metadata.storage_data[key] = _StorageInfo(**{**vars(metadata.storage_data[key]), **changes})


def resize(metadata: Any, size: tuple[int, ...], chunks: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
    entry = metadata.state_dict_metadata[first_key(metadata)]
    entry.size, entry.chunks = torch.Size(size), [ChunkStorageMetadata(torch.Size(at), torch.Size(how)) for at, how in chunks]


def drop(metadata: Any) -> None:
    metadata.storage_data.pop(MetadataIndex(first_key(metadata), (0, 0)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda metadata: {"a": 1}, "not what torch.distributed.checkpoint writes"),
        (lambda metadata: place(metadata, relative_path="../outside"), r"lies in '\.\./outside', which is not there"),
        (lambda metadata: place(metadata, relative_path="/etc/passwd"), "lies in '/etc/passwd', which is not there"),
        (lambda metadata: place(metadata, offset=10**9), r"beyond the end of __0_0\.distcp"),
        (lambda metadata: place(metadata, offset=-5), r"beyond the end of __0_0\.distcp"),
        (lambda metadata: place(metadata, offset=3), "cannot be used"),
        (lambda metadata: place(metadata, transform_descriptors=["zstd"]), "packed by an extension"),
        (lambda metadata: resize(metadata, (10**6, 10**6), [((0, 0), (10**6, 10**6))]), "claims 4,000,000,000"),
        (lambda metadata: resize(metadata, (2, 6), [((0, 0), (2, 3)), ((0, 4), (2, 3))]), "a piece of state_dict.one.weight lies outside"),
        (lambda metadata: resize(metadata, (2, 6), [((0, 0), (2, 3))]), "do not make it whole"),
        (lambda metadata: resize(metadata, (3, 2), [((0, 0), (3, 2))]), "another shape or type"),
        (drop, r"it does not say where state_dict\.one\.weight lies"),
        (lambda metadata: metadata.planner_data.update({first_key(metadata): ()}), "its parts do not make a checkpoint"),
        (lambda metadata: metadata.planner_data.update({first_key(metadata): ("loops",)}), "its parts do not make a checkpoint"),
        (lambda metadata: metadata.planner_data.update({first_key(metadata): ("optimizer_0", "state")}), "its parts do not make"),
        (lambda metadata: metadata.planner_data.update({first_key(metadata): ("optimizer_0",)}), "its parts do not make"),
    ],
)
def test_a_crafted_description_is_refused(change: Callable[[Any], Any], reason: str, folder: Path) -> None:
    with pytest.raises(BrokenCheckpointError, match=reason):
        load(with_metadata(folder, change))


def test_nothing_is_executed_that_somebody_hid_in_it(folder: Path, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    sound = (folder / METADATA).read_bytes()
    (folder / METADATA).write_bytes(pickle.dumps(Harm(harm)))
    with pytest.raises(BrokenCheckpointError, match=r"it holds a posix\.mkdir|it holds a nt\.mkdir"):
        load(folder)
    (folder / METADATA).write_bytes(sound)
    meta = (folder / META_FILE).read_bytes()
    torch.save({"callbacks": Harm(harm)}, folder / META_FILE)
    with pytest.raises(BrokenCheckpointError, match="cannot be read as tensors and plain values"):
        load(folder)
    (folder / META_FILE).write_bytes(meta)
    hide_in_shards(folder, Harm(harm))
    with pytest.raises(BrokenCheckpointError, match=r"its optimizer_0\.param_groups.* cannot be read as tensors and plain values"):
        load(folder)
    assert not harm.exists()


def hide_in_shards(folder: Path, what: Any) -> None:
    """Put something in the place of the first value that is no tensor."""
    metadata = pickle.loads((folder / METADATA).read_bytes())
    torch.save(what, folder / "more.distcp")
    key = MetadataIndex(first_key(metadata, tensor=False))
    metadata.storage_data[key] = _StorageInfo("more.distcp", 0, (folder / "more.distcp").stat().st_size)
    (folder / METADATA).write_bytes(pickle.dumps(metadata))


def test_an_allowed_type_in_a_wrong_place_is_refused(folder: Path) -> None:
    def change(metadata: Any) -> None:
        metadata.state_dict_metadata[first_key(metadata)].properties.dtype = torch.Size([1])

    with pytest.raises(BrokenCheckpointError, match=r"\.metadata cannot be read"):
        load(with_metadata(folder, change))


def test_the_path_of_another_system_is_no_fault(folder: Path) -> None:
    def change(metadata: Any) -> None:
        metadata.storage_meta.checkpoint_id = PurePosixPath("elsewhere")

    assert same(load(with_metadata(folder, change)), small_tree()[0])


def test_whatever_bytes_are_changed_it_is_read_or_refused(folder: Path) -> None:
    draw = random.Random(3)
    tree = small_tree()[0]
    for name in (METADATA, "__0_0.distcp", META_FILE):
        sound = (folder / name).read_bytes()
        for _ in range(150):
            content = bytearray(sound)
            for _ in range(draw.choice((1, 3, 20))):
                content[draw.randrange(len(content))] = draw.randrange(256)
            (folder / name).write_bytes(content[: draw.choice((None, None, draw.randrange(len(content))))])
            try:
                found = load(folder)
            except BrokenCheckpointError:
                continue
            assert isinstance(found, dict)
        (folder / name).write_bytes(sound)
    assert same(load(folder), tree)
