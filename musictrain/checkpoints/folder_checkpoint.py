"""What Lightning and its loggers ask of a ModelCheckpoint, answered from the folder of versions and nothing else."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from musictrain.checkpoints.catalog import NoGoodVersionError, Version, best_versions, last_good, list_versions
from musictrain.checkpoints.seal import LATER_SCHEMA


class FolderCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint without memory: ``best_model_path`` and the like are looked up in ``dirpath`` whenever they are asked for.

    So ``ckpt_path="best"`` works in a new Trainer, and what was removed or set aside is never named.
    """

    @property
    def state_key(self) -> str:
        """One key whatever the arguments are, so that a changed rule does not lose the memory."""
        return "VersionedCheckpoint"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder.

        Raises:
            ValueError: if it is none of this machine.
        """
        super().setup(trainer, pl_module, stage)
        if "://" in str(self.dirpath):
            raise ValueError(f"Versions are written to a local folder, not to {self.dirpath}: set dirpath, and give the URL as mirror.")

    def versions(self) -> list[Version]:
        """The versions in the folder, none before a run has one."""
        return list_versions(str(self.dirpath)) if getattr(self, "dirpath", None) else []

    @property
    def best_model_path(self) -> str:
        """The healthy version with the best ``monitor``, empty if there is none."""
        ranked = best_versions(self.versions(), self.monitor, self.mode) if self.monitor else []
        return str(ranked[0].path) if ranked else ""

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        """Nothing: the folder is the truth."""

    @property
    def best_model_score(self) -> Tensor | None:
        """The value of ``monitor`` there."""
        ranked = best_versions(self.versions(), self.monitor, self.mode) if self.monitor else []
        return torch.tensor(ranked[0].metric(cast(str, self.monitor))) if ranked else None

    @best_model_score.setter
    def best_model_score(self, score: Tensor | None) -> None:
        """Nothing: the folder is the truth."""

    @property
    def last_model_path(self) -> str:
        """The version with the highest step, empty if there is none; whether it is whole shows when it is resumed."""
        there = [version for version in self.versions() if version.resumable]
        return str(max(there, key=lambda version: (version.step, version.number)).path) if there else ""

    @last_model_path.setter
    def last_model_path(self, path: str) -> None:
        """Nothing: the folder is the truth."""

    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        # What Lightning calls for ckpt_path="last"; it would take the newest file by its date.
        folder = cast(Any, self)._ModelCheckpoint__resolve_ckpt_dir(trainer)
        if newer := [version for version in list_versions(folder) if LATER_SCHEMA in version.problem]:
            # Passing them over would turn to a branch of its own, and set them aside.
            raise NoGoodVersionError(f"{newer[-1].path.name} is of a later musictrain: {newer[-1].problem}.")
        good = last_good(folder)
        return {str(good.path)} if good is not None else set()
