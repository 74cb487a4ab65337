"""A directory that several processes write is one version: sealed as a whole, resumed as a whole, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from musictrain.checkpoints.catalog import last_good, list_versions
from musictrain.checkpoints.seal import SEAL_FILE, Seal, read_seal
from musictrain.checkpoints.sharded import seal_directory
from musictrain.checkpoints.verification import BrokenCheckpointError, verify


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A sealed directory of two shares and what describes them."""
    hidden = tmp_path / ".incoming-99999999-0-v000002_step000040.ckpt"
    (hidden / "inner").mkdir(parents=True)
    for name, content in ((".metadata", b"which share holds what"), ("__0_0.distcp", b"one" * 100), ("inner/__1_0.distcp", b"two" * 100)):
        (hidden / name).write_bytes(content)
    final = tmp_path / "v000002_step000040.ckpt"
    seal_directory(hidden, final, Seal("", 0, number=2, step=40, world_size=2))
    return final


def test_a_sealed_directory_is_a_version_that_can_be_resumed(version: Path) -> None:
    seal = verify(version)
    assert (seal.kind, seal.resumable, seal.world_size) == ("sharded", True, 2)
    assert sorted(seal.files) == [".metadata", "__0_0.distcp", "inner/__1_0.distcp"]
    assert last_good(version.parent).path == version  # type: ignore[union-attr]
    (listed,) = list_versions(version.parent)
    assert listed.stored_bytes == seal.size == 622
    assert [path.name for path in version.parent.iterdir()] == [version.name]


def test_every_file_of_it_is_covered(version: Path) -> None:
    for path in [path for path in version.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            changed = bytearray(content)
            changed[position] ^= 1
            path.write_bytes(changed)
            with pytest.raises(BrokenCheckpointError, match=r"are not those that were sealed|seal"):
                verify(version)
        path.write_bytes(content)
    assert verify(version).step == 40


@pytest.mark.parametrize("what", ["a file more", "a file less", "a link", "no seal", "a directory's seal in a file"])
def test_what_is_not_as_it_was_sealed_is_refused(what: str, version: Path, tmp_path: Path) -> None:
    if what == "a file more":
        (version / "__2_0.distcp").write_bytes(b"x")
    elif what == "a file less":
        (version / "__0_0.distcp").unlink()
    elif what == "a link":
        (version / "__0_0.distcp").rename(tmp_path / "elsewhere")
        (version / "__0_0.distcp").symlink_to(tmp_path / "elsewhere")
    elif what == "no seal":
        (version / SEAL_FILE).unlink()
    else:
        seal = (version / SEAL_FILE).read_bytes()
        version.rename(tmp_path / "aside")
        version.write_bytes(seal)
    with pytest.raises(BrokenCheckpointError, match=r"not covered|missing|symbolic link|without SEAL\.json|seal"):
        verify(version)


def test_a_taken_name_stays_who_has_it(version: Path, tmp_path: Path) -> None:
    hidden = tmp_path / ".incoming-99999999-1-v000002_step000040.ckpt"
    hidden.mkdir()
    (hidden / "other").write_bytes(b"x")
    with pytest.raises(FileExistsError, match="File exists"):
        seal_directory(hidden, version, Seal("", 0, number=2, step=40))
    assert "other" not in read_seal(version).files


TRAINING = """
import sys
import lightning, torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from musictrain.callbacks import VersionedCheckpoint

class Sharded(BoringModel):
    def __init__(self):
        super().__init__()
        self.layer = None
    def configure_model(self):
        if self.layer is None:
            torch.manual_seed(3)
            self.layer = torch.nn.Linear(32, 2)
            fully_shard(self.layer, mesh=self.device_mesh["data_parallel"])
    def configure_optimizers(self):
        return torch.optim.AdamW(self.layer.parameters(), lr=1e-2)

folder, processes, steps, resume, kind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "last", sys.argv[5]
strategy = ModelParallelStrategy(data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=kind == "sharded")
saving = VersionedCheckpoint(dirpath=folder, every_n_train_steps=2, monitor=None)
trainer = lightning.Trainer(max_steps=steps, accelerator="cpu", devices=processes, strategy=strategy, callbacks=[saving], logger=False,
                            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)
module = Sharded()
trainer.fit(module, ckpt_path="last" if resume else None)
total = module.layer.weight.full_tensor().double().abs().sum().item()
if trainer.is_global_zero:
    print("steps", trainer.global_step, "weights", total, "optimizer" in " ".join(saving.report.restored) if saving.report else "")
"""


def train(folder: Path, processes: int, steps: int, resume: str, kind: str) -> str:
    script = folder.with_name("train.py")
    script.write_text(TRAINING)
    words = [sys.executable, str(script), str(folder), str(processes), str(steps), resume, kind]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(line for line in done.stdout.splitlines() if line.startswith("steps"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sharded", "full"])
def test_two_processes_save_versions_and_go_on_from_them(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "versions"
    train(folder, 2, 4, "new", kind)
    versions = list_versions(folder)
    assert [(version.step, version.seal.kind, version.seal.world_size) for version in versions if version.seal is not None] == [
        (0, kind, 2),
        (2, kind, 2),
        (4, kind, 2),
    ]
    resumed = train(folder, 2, 6, "last", kind)
    assert resumed.startswith("steps 6 ")
    assert resumed.endswith("True"), "the optimizer came back"
    assert last_good(folder).step == 6  # type: ignore[union-attr]
    assert not list(folder.glob(".incoming-*"))
