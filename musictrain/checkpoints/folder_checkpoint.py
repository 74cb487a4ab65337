"""What Lightning and its loggers ask of a ModelCheckpoint, answered from the folder of versions and nothing else."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from musictrain.checkpoints.catalog import Version, best_versions, last_good, list_versions


class FolderCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint without memory: ``best_model_path`` and the like are looked up in ``dirpath`` whenever they are asked for.

    So ``ckpt_path="best"`` works in a new Trainer, and what was removed or set aside is never named.
    """

    @property
    def state_key(self) -> str:
        """One key whatever the arguments are, so that a changed rule does not lose the memory."""
        return "VersionedCheckpoint"

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
        good = last_good(folder)
        return {str(good.path)} if good is not None else set()
