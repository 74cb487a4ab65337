"""``fit --init_from RUN[@VERSION]|FILE``: a new run that begins with what another has learned."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from musictrain.batch_seed import run_seed
from musictrain.checkpoints.averaging import average_versions, select
from musictrain.checkpoints.catalog import NoGoodVersionError, Version, first_that_verifies, list_versions
from musictrain.checkpoints.chosen_version import NoSuchVersionError, find_version
from musictrain.checkpoints.resume_report import CIRCUMSTANCES
from musictrain.checkpoints.starting_weights import StartMismatchError, give_optimizer, named, optimizer_start, start_from
from musictrain.checkpoints.stored_network import instantiated, tokenizer_in
from musictrain.checkpoints.verification import BrokenCheckpointError
from musictrain.checkpoints.vocabulary_rows import VocabularyChange, token_names
from musictrain.checkpoints.weights import name_of, read_tree
from musictrain.cli.exits import CommandError, UsageError
from musictrain.cli.one_decision import first_decides
from musictrain.cli.resume import read_config, value_at
from musictrain.cli.trained_run import TOKENIZER
from musictrain.data.tokenizers import Tokenizer, VoiceGrid, load_tokenizer
from musictrain.optim.partial_states import set_aside
from musictrain.runs import RunFolder, find_run

log = logging.getLogger(__name__)

AVERAGE = "average"
AVERAGED = 3
"""So many of the last versions are averaged where no average is stored."""


@dataclass(frozen=True)
class Source:
    """What a run is to begin with.

    Args:
        paths: of the version; several are averaged.
        run: that it comes from, None for a file in no run's folder.
    """

    paths: tuple[Path, ...]
    run: RunFolder | None = None

    @property
    def version(self) -> str:
        """What to call it: ``v000003_step000450``, or ``average of`` several."""
        names = ", ".join(name_of(path) for path in self.paths)
        return f"average of {names}" if len(self.paths) > 1 else names

    def sentence(self) -> str:
        """Such as ``v000003_step000450 of 2025-01-01_100000-a-calm-fugue``."""
        return f"{self.version} of {self.run.name}" if self.run is not None else str(self.paths[0])

    def tree(self) -> dict[str, Any]:
        """The checkpoint.

        Raises:
            UsageError: if it is none, or what is to be averaged does not fit together.
            CommandError: if it is damaged.
        """
        try:
            return read_tree(self.paths[0]) if len(self.paths) == 1 else average_versions(self.paths)[0]
        except BrokenCheckpointError as error:
            raise CommandError(f"--init_from: {error}") from error
        except ValueError as error:
            raise UsageError(f"--init_from: {error}") from error


def source_of(text: str, runs_dir: Path) -> Source:
    """What ``RUN``, ``RUN@VERSION`` or a file means; of several processes the first one looks, for all.

    Args:
        text: a run, by whatever names one, its ``best`` version by default; after an ``@`` that, ``last``, ``average``, a number or a name.
            Or the path of a checkpoint, a file or a directory of shards.
        runs_dir: where runs are kept.

    Raises:
        UsageError: if there is no such thing, or several.
        CommandError: if there are versions and none can be used.
    """
    told = first_decides(f"init_from {text}", lambda: [str(path) for path in _find(text, runs_dir)])
    paths = tuple(Path(each) for each in told)
    if missing := [path for path in paths if not path.exists()]:
        raise UsageError(
            f"On {socket.gethostname()}, {missing[0]} is not there, which this run begins with. All machines must see it under the same "
            "path."
        )
    run = RunFolder(paths[0].parent.parent)
    return Source(paths, run if run.is_run() else None)


def _find(text: str, runs_dir: Path) -> list[Path]:
    name, _, which = text.rpartition("@")
    if which == AVERAGE and name:
        return averaged_versions(find_run(name, runs_dir))
    try:
        return [find_version(text, runs_dir)[1].resolve()]
    except NoSuchVersionError as error:
        raise UsageError(f"--init_from: {error}") from error
    except NoGoodVersionError as error:
        raise CommandError(f"--init_from: {error}") from error


def averaged_versions(run: RunFolder) -> list[Path]:
    """The newest average that a run has stored, else what to average: its last versions, each of another step.

    Raises:
        UsageError: if there are too few.
    """
    versions = list_versions(run.checkpoints)
    stored = [version for version in versions if version.seal is not None and version.seal.kind == AVERAGE and version.good]
    found, _ = first_that_verifies(reversed(stored))
    if found is not None:
        return [found.path]
    try:
        by_step: dict[int, Version] = {version.step: version for version in select(versions, steps=(1, None))}
    except ValueError as error:
        raise UsageError(f"There is no average of {run.name}: {error} Say @last or @best.") from error
    return [version.path for _, version in sorted(by_step.items())[-AVERAGED:]]


def check_one_beginning(text: str | None, path: str | None, *, goes_on: bool, typed: bool) -> None:
    """Refuse to begin with two things. A run that goes on began with what its configuration says, and does not do so again.

    Args:
        text: of ``--init_from``.
        path: of the checkpoint that is loaded.
        goes_on: whether that is one of the run's own.
        typed: whether ``--init_from`` stands on the command line itself.

    Raises:
        UsageError: if both are asked for.
    """
    if text is not None and path is not None and (typed or not goes_on):
        raise UsageError(
            f"Both a checkpoint to go on from ({path}) and --init_from {text} say what to begin with. To go on, leave --init_from out"
            f"{' (or say --init_from null)' if not typed else ''}; to begin a new run with those weights, leave --ckpt_path out."
        )


# The tokens it was learned with.


def tokenizer_behind(source: Source, tree: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer that a version was trained with, as its run or the version itself tells; None if neither does."""
    try:
        if source.run is not None and source.run.tokenizer.is_file():
            found: Tokenizer | None = load_tokenizer(source.run.tokenizer)
        else:
            found = _described_tokenizer(_config_behind(source, tree))
    except Exception as error:
        log.warning("The tokenizer of %s cannot be rebuilt, so that tokens cannot go by name: %s", source.sentence(), error)
        return None
    said = tokenizer_in(tree)
    if found is not None and said and said.get("fingerprint") != found.fingerprint:
        log.warning("%s was trained with another tokenizer than its run has (%s).", source.sentence(), said.get("name"))
        return None
    return found


def _config_behind(source: Source, tree: dict[str, Any]) -> dict[str, Any]:
    if source.run is not None:
        return read_config(source.run)
    return yaml.safe_load((tree.get(CIRCUMSTANCES) or {}).get("config") or "{}") or {}


def _described_tokenizer(config: dict[str, Any]) -> Tokenizer | None:
    described = value_at(config, TOKENIZER)
    if described is not None:
        return instantiated(Tokenizer, described)  # type: ignore[no-any-return]
    return VoiceGrid() if str(value_at(config, "data.class_path")).endswith(".MusicDataModule") else None


# Beginning.


def begin_with(source: Source, model: LightningModule, datamodule: Any, settings: Any) -> tuple[list[str], Callback | None]:
    """Let a module begin with a version; gives back lines for people, and what gives the optimizer its memory, if that is asked for.

    Args:
        source: the version.
        model: whose weights are replaced.
        datamodule: whose tokenizer tells the tokens to go on with.
        settings: of the command: ``init_vocabulary``, ``init_optimizer``.

    Raises:
        UsageError: if they do not fit; nothing is changed then.
        CommandError: if the version is damaged.
    """
    tree = source.tree()
    then, now = tokenizer_behind(source, tree), getattr(datamodule, "tokenizer", None)
    old, new = token_names(then), token_names(now)
    if settings.get("init_vocabulary") == "same" and _fingerprint_then(then, tree) != getattr(now, "fingerprint", None):
        raise UsageError(
            f"--init_vocabulary same: {source.sentence()} was trained with the tokenizer {getattr(then, 'name', 'unknown')}, and this run "
            f"has {getattr(now, 'name', 'none')}, with other tokens. Take the tokenizer of then, or say --init_vocabulary extend."
        )
    seed = run_seed(datamodule)
    try:
        started = start_from(model, tree, old=old, new=new, seed=seed, source=source.sentence())
    except StartMismatchError as error:
        raise UsageError(str(error)) from error
    change = VocabularyChange(old, new, seed) if old is not None and new is not None else None
    lines = [f"start {source.sentence()}: {started.sentence()}", *(f"start {note}" for note in notes(then, now, change))]
    callback = None
    if settings.get("init_optimizer"):
        lines[0] += "; and what its optimizer remembers"
        callback = OptimizerStart(tree, change, source.sentence())
    return lines, callback


def _fingerprint_then(tokenizer: Any, tree: dict[str, Any]) -> Any:
    return getattr(tokenizer, "fingerprint", None) or tokenizer_in(tree).get("fingerprint")


def notes(then: Any, now: Any, change: VocabularyChange | None) -> list[str]:
    """What should be known of two tokenizers whose tokens went by name."""
    if change is None or getattr(then, "fingerprint", None) == getattr(now, "fingerprint", None):
        return []
    told = []
    common = len(change.new) - len(change.added)
    if 2 * common < len(change.new):
        told.append(f"of {len(change.new):,} tokens only {common:,} go by a name that was known: what was learned of music is mostly lost")
    settings = [(each.config() if hasattr(each, "config") else {}) for each in (then, now)]
    differing = [key for key in {**settings[0], **settings[1]} if settings[0].get(key) != settings[1].get(key)]
    if type(then) is type(now) and (times := [key for key in differing if key not in ("lowest", "highest")]):
        told.append(f"the tokenizers differ in {named(times)}: tokens of one name may not mean the same")
    for line in told:
        log.warning("%s.", line.capitalize())
    return told


class OptimizerStart(Callback):
    """Gives the optimizer of a run that begins what another one's remembers of the same weights: once, before the first step.

    Args:
        tree: the checkpoint.
        change: as the weights were taken by.
        source: what to call it.

    Raises:
        StartMismatchError: when the fit starts, if the optimizers do not fit.
    """

    def __init__(self, tree: dict[str, Any], change: VocabularyChange | None, source: str) -> None:
        self._tree: dict[str, Any] | None = tree
        self._change, self._source = change, source

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Optimizers exist, and have made no step."""
        tree, self._tree = self._tree, None
        if tree is None or trainer.ckpt_path is not None:
            return
        if isinstance(trainer.strategy, FSDPStrategy) or len(trainer.optimizers) != 1:
            raise StartMismatchError(
                f"--init_optimizer gives one optimizer its memory, under one device, DDP or ShardedStrategy; this run has "
                f"{len(trainer.optimizers)} under {type(trainer.strategy).__name__}. Leave it out."
            )
        optimizer = trainer.optimizers[0]
        remembered = optimizer_start(pl_module, optimizer, tree, self._change, self._source)
        if isinstance(trainer.strategy, ModelParallelStrategy):
            _deal_out(pl_module, optimizer, remembered)
        else:
            give_optimizer(pl_module, optimizer, remembered)


def _deal_out(module: LightningModule, optimizer: Any, remembered: dict[str, dict[str, Any]]) -> None:
    """Give every process its share of what is remembered; settings stay those of the optimizer."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    from musictrain.checkpoints.sharded_average import clean

    names = {id(parameter): clean(name) for name, parameter in module.named_parameters()}
    groups = [{**group, "params": [names[id(each)] for each in group["params"]]} for group in optimizer.param_groups]
    state: Any = {"state": remembered, "param_groups": groups}
    with set_aside(((names[id(each)], each) for group in optimizer.param_groups for each in group["params"]), remembered):
        set_optimizer_state_dict(module, optimizer, state, options=StateDictOptions(full_state_dict=True))
