"""``resume RUN``: go on where a run stopped, in the same folder and the same curves."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from musictrain.checkpoints.catalog import NoGoodVersionError
from musictrain.checkpoints.seal import SealError, read_seal
from musictrain.cli.exits import CommandError, UsageError
from musictrain.cli.options import CommandParser
from musictrain.cli.recipes import with_recipes
from musictrain.cli.training import train
from musictrain.cli.version_choice import version_of
from musictrain.runs import RunFolder, find_run
from musictrain.runs.config_changes import config_changes, without_new_defaults
from musictrain.runs.rollbacks import FILE_NAME, read_rollbacks

FIXED = ("model.class_path", "model.init_args.network", "data.class_path", "data.init_args.corpus", "data.init_args.tokenizer")


def run(command: str, arguments: list[str]) -> int:
    """Go on with a run; gives back the exit status.

    Raises:
        RunNotFoundError: if there is no such run, or more than one.
        UsageError: if there is nothing to go on with, or another model, tokenizer or corpus is asked for.
    """
    options, overrides = parser().parse_known_args(arguments)
    overrides = with_recipes(overrides)
    found, checkpoint = run_and_version(options)
    check_unfinished(found, checkpoint, overrides)
    words = ["--config", str(found.config), "--ckpt_path", str(checkpoint), "--runs", str(found.path.parent), *overrides]
    return train("fit", words, folder=found.path)


def run_and_version(options: argparse.Namespace) -> tuple[RunFolder, Path]:
    """The run that is meant and what to go on from, as the first of several processes sees it.

    Raises:
        RunNotFoundError, UsageError, CommandError: if there is none, or it cannot be used.
    """
    # That module needs this one's view of a run's configuration.
    from musictrain.cli.auto_resume import agreed

    def find() -> tuple[RunFolder, Path]:
        run = find_run(options.run, options.runs)
        finish_going_back(run)
        return run, version_of(run, options.version)

    found = agreed(f"resume {options.run}", find)
    assert found is not None
    return found


def finish_going_back(run: RunFolder) -> None:
    """Set aside what a run was turning away from when it was killed, so that its last version is the one it goes on from.

    Raises:
        CommandError: if that cannot be done, saying why.
    """
    if all(rollback.settled for rollback in read_rollbacks(run.path / FILE_NAME)):
        return
    from musictrain.checkpoints.lock import FolderInUseError
    from musictrain.rolling_back.settling import settle_rollbacks

    try:
        print(settle_rollbacks(run.checkpoints)[-1].sentence())
    except (FolderInUseError, NoGoodVersionError, OSError) as error:
        raise CommandError(str(error)) from error


def parser() -> CommandParser:
    """The options of ``resume``; everything else is passed on to ``fit``."""
    parser = CommandParser("resume", "Go on with a run in its own folder, from its last checkpoint.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Every option of `musictrain fit` can be added, such as --trainer.max_steps 2000.\n"
        "The model, the tokenizer and the corpus stay those of the run."
    )
    parser.add_argument("run", metavar="RUN", help="a folder, a name, a unique part of one, 'latest' or 'best'")
    parser.add_argument(
        "--version",
        default="last",
        metavar="V",
        help="go on from this version: last (the highest step that verifies), best, a number or a name",
    )
    return parser


def check_unfinished(run: RunFolder, version: Path, overrides: list[str]) -> None:
    """Refuse to go on with a run that has done all its steps, unless a new end is given.

    Raises:
        UsageError: if nothing is left to do.
    """
    steps, total = step_of(version), max_steps_of(run)
    if total is not None and 0 <= total <= steps and not any(word.startswith("--trainer.max_") for word in overrides):
        raise UsageError(f"Run {run.name} has done all its {total:,} steps. To go on, give it a new end: --trainer.max_steps {2 * total}")


def step_of(version: Path) -> int:
    """Optimizer steps that a version has done, by its seal; 0 for a file without one."""
    try:
        return read_seal(version).step
    except (SealError, OSError):
        return 0


def max_steps_of(run: RunFolder) -> int | None:
    """``trainer.max_steps`` of a run's configuration, None if it has none."""
    value = (read_config(run).get("trainer") or {}).get("max_steps")
    return value if isinstance(value, int) else None


def read_config(run: RunFolder) -> dict[str, Any]:
    """A run's configuration as plain values.

    Raises:
        UsageError: if the run has none, or it is not a mapping in YAML.
    """
    import yaml

    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"Run {run.name} has no readable config.yaml: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{run.config} is not a configuration.")
    return config


def check_same_parts(run: RunFolder, config: dict[str, Any]) -> None:
    """Refuse a configuration whose model, tokenizer or corpus is not that of the run.

    Raises:
        UsageError: naming the key and both values.
    """
    began = read_config(run)
    config = without_new_defaults(began, config)
    for key in FIXED:
        for path, was, now in part_changes(value_at(began, key), value_at(config, key), key):
            raise UsageError(
                f"Run {run.name} began with {path} = {was}, and this asks for {now}. A run goes on with the model, the tokenizer and the "
                f"corpus it began with; for others start a new one: musictrain fit --config {run.config} --{path} {now}"
            )


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key, None if there is none."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def part_changes(was: Any, now: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf in which two parts differ, but for import paths that lead to one class."""
    for path, then, since in config_changes(was, now, key):
        if not (path.endswith("class_path") and same_class(then, since)):
            yield path, then, since


def same_class(was: Any, now: Any) -> bool:
    """Whether two import paths lead to one class, as ``musictrain.Decoder`` and ``musictrain.models.Decoder`` do."""
    found = [imported(path) for path in (was, now)]
    return found[0] is not None and found[0] is found[1]


def imported(path: Any) -> Any:
    """What a dotted path leads to, None if nothing does."""
    module, _, name = str(path).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None
