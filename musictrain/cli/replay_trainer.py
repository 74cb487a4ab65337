"""A run's module, data and Trainer, built again from its configuration for one step to be done again: on one device, writing nothing."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningCLI

from musictrain.callbacks import RunRecorder, VersionedCheckpoint
from musictrain.checkpoints import CompressedCheckpointIO
from musictrain.cli.exits import UsageError
from musictrain.cli.lightning_cli import MusicCLI
from musictrain.cli.resume import imported, value_at
from musictrain.cli.run_defaults import default_callbacks
from musictrain.cli.spread_trainer import settle_device
from musictrain.data.accumulation import AccumulationRule, rule_of
from musictrain.data.passed_over import PassedOver
from musictrain.replay import FollowStep, ReadVersions
from musictrain.runs import RunFolder
from musictrain.runs.lineage import parents_of
from musictrain.suggestions import did_you_mean

# Callbacks on which the weights depend, by the names of their classes or of a class they descend from; no other is woken.
CHANGE_TRAINING = frozenset(
    {
        *("WeightAveraging", "StochasticWeightAveraging", "EMAWeightAveraging", "BaseFinetuning"),
        *("AccumulationSchedule", "GradientAccumulationScheduler", "CurriculumSchedule", "GradualUnfreezing", "AnomalyAlerts"),
    }
)
# Those that are known to change nothing, so that nobody need be told that they are left out.
CHANGE_NOTHING = frozenset(
    {
        *("RunRecorder", "Announcement", "SamplingCallback", "ThroughputReport", "LivePage", "ProgressBar", "Checkpoint", "ModelSummary"),
        *("Notifications", "MusicalEarlyStopping", "EarlyStopping", "LearningRateMonitor", "DeviceStatsMonitor", "Timer"),
    }
)


class ReplayCLI(MusicCLI):
    """A run's parts, built as ``fit`` builds them; whoever made it calls ``trainer.fit``.

    Args:
        config: the configuration, as ``replay_config`` gives it.
        follow: what is to be found out.
        keep: names of further callbacks to keep.
    """

    def __init__(self, config: dict[str, Any], follow: FollowStep, keep: Sequence[str] = ()) -> None:
        self.follow, self._keep = follow, set(keep)
        self.left_out: list[str] = []
        self.versions: ReadVersions | None = None
        with tempfile.TemporaryDirectory(prefix="replay-") as folder:
            self._scratch = folder
            path = Path(folder) / "config.yaml"
            path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
            super().__init__("fit", ["--config", str(path)])

    def _run_subcommand(self, subcommand: str) -> None:
        """Not yet."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Quiet, on one device; the callbacks that change what is trained, and ours."""
        settings = self._get(self.config_init, "trainer", default={})
        options, self.reasons = settle_device(self.settings, settings, self.model, self.datamodule)
        every = default_callbacks(settings.get("callbacks"), settings, RunRecorder(), None, self.settings.get("global_batch_tokens"))
        self._check_kept([type(callback).__name__ for callback in every])
        kept = [callback for callback in every if self._changes_training(callback)]
        saves = [callback for callback in every if isinstance(callback, VersionedCheckpoint)]
        self.left_out = sorted(type(each).__name__ for each in every if each not in kept and not descends(each, CHANGE_NOTHING))
        reseed = all(callback.reseed for callback in saves)
        self.versions = ReadVersions(str(Path(self._scratch) / "versions"), reseed=reseed, config=self.resolved_config())
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": True}
        plugins = [*plugins_of(settings), CompressedCheckpointIO(background=False)]
        callbacks = [self.follow, *kept, self.versions]
        return LightningCLI.instantiate_trainer(self, **{**quiet, **options, **kwargs, "plugins": plugins, "callbacks": callbacks})

    def _check_kept(self, there: Sequence[str]) -> None:
        for name in sorted(self._keep - CHANGE_NOTHING - set(there)):
            hint = did_you_mean(name, there) or f"There are: {', '.join(sorted(there))}."
            raise UsageError(f"The run has no callback {name!r} to keep. {hint}")

    def _changes_training(self, callback: Callback) -> bool:
        return descends(callback, CHANGE_TRAINING) or type(callback).__name__ in self._keep


def descends(thing: Any, names: frozenset[str]) -> bool:
    """Whether a thing's class, or one that it descends from, has one of some names."""
    return any(each.__name__ in names for each in type(thing).__mro__)


def plugins_of(settings: Any) -> list[Any]:
    """The user's plugins, but for those that find other processes or read checkpoints."""
    given = settings.get("plugins")
    plugins = given if isinstance(given, list) else [given] if given is not None else []
    return [plugin for plugin in plugins if not isinstance(plugin, CheckpointIO | ClusterEnvironment)]


def replay_config(config: dict[str, Any], scratch: str, precision: str | None = None, *, validates: bool = False) -> dict[str, Any]:
    """A run's configuration for one process that shows and writes nothing.

    What the weights depend on stays: ``max_steps`` too, since schedules end there. Callbacks that change nothing are not even built.

    Args:
        config: the run's own.
        scratch: a folder for whatever wants one.
        precision: what ``auto`` was in the run.
        validates: whether validations are needed on the way.
    """
    trainer = dict(config.get("trainer") or {})
    trainer |= {"devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False, "profiler": None, "default_root_dir": scratch}
    trainer |= {"max_time": None, "fast_dev_run": False, "num_sanity_val_steps": 0, "barebones": False}
    trainer |= {} if validates else {"limit_val_batches": 0}
    trainer |= {} if precision is None else {"precision": precision}
    given = trainer.get("callbacks")
    callbacks = given if isinstance(given, list) else [given] if given is not None else []
    trainer["callbacks"] = [each for each in callbacks if not is_idle(each)]
    found = {key: value for key, value in config.items() if key not in ("ckpt_path", "runs", "name")} | {"trainer": trainer}
    if isinstance(value_at(found, "data.init_args.num_workers"), int):
        arguments = {**found["data"]["init_args"], "num_workers": 0}
        found["data"] = {**found["data"], "init_args": arguments}
    return found


def with_teacher(config: dict[str, Any], run: RunFolder) -> dict[str, Any]:
    """A run's configuration that names the very version it learned from, if it was distilled, and where that run lies."""
    asked = value_at(config, "model.init_args.distillation")
    if not isinstance(asked, dict):
        return config
    taught = {"runs": str(run.path.parent), **{key: value for key, value in asked.items() if value is not None}}
    versions = [each for each in parents_of(run) if each.relation == "distilled from" and each.version is not None]
    if versions and not Path(str(asked.get("teacher"))).exists():
        taught["teacher"] = f"{versions[-1].run}@{versions[-1].version}"
    arguments = {**config["model"]["init_args"], "distillation": taught}
    return {**config, "model": {**config["model"], "init_args": arguments}}


def is_idle(described: Any) -> bool:
    """Whether a configuration's callback changes nothing, and does nothing but write or show; ``VersionedCheckpoint`` says how it seeds."""
    kind = imported(described.get("class_path")) if isinstance(described, dict) else None
    names = {each.__name__ for each in getattr(kind, "__mro__", ())}
    return bool(names & CHANGE_NOTHING) and "VersionedCheckpoint" not in names


def numbers_of_step(cli: ReplayCLI, state: Mapping[str, Any], began_at: int, step: int) -> list[int]:
    """The numbers of the batches that an optimizer step gathers, found without training.

    Args:
        cli: the run's parts.
        state: of the data module, in the version to begin from; empty at the beginning.
        began_at: optimizer steps done there.
        step: from 1.
    """
    rule = accumulation_of(cli)
    passed = sum(rule.at(each) for each in range(began_at, step - 1))
    numbers = stream_of(cli.datamodule, state)
    return list(itertools.islice(numbers, passed, passed + rule.at(step - 1)))


def accumulation_of(cli: ReplayCLI) -> AccumulationRule:
    """How many batches each step gathers; a callback's tokens become batches here, as they do when a fit starts."""
    for callback in cli.trainer.callbacks:  # type: ignore[attr-defined]
        if (tokens := getattr(callback, "tokens", None)) is not None and getattr(callback, "rule", None) is None:
            return AccumulationRule.of_tokens(tokens, cli.datamodule.tokens_per_batch)
    return rule_of(cli.trainer)


def stream_of(datamodule: Any, state: Mapping[str, Any]) -> Iterator[int]:
    """The numbers of the batches that follow a data module's state, in the order of training, without those that are passed over."""
    passed = PassedOver()
    for first, last in getattr(datamodule, "passed_over", ()):
        passed.add(first, last, datamodule.batch_size)
    passed.add_rows(state.get("passed_over", ()))
    before = (state.get("batches") or {}).get("batch_size", datamodule.batch_size)
    start = passed.count(int(state.get("position", 0)) * before // datamodule.batch_size, datamodule.batch_size)
    return (passed.number(start + each, datamodule.batch_size) for each in itertools.count())
