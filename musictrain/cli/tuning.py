"""Lightning's Tuner at work on a command line's module and data: on one device, in a scratch folder, with nothing left behind."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.tuner import Tuner
from torch.optim import Optimizer

from musictrain.cli.console import quiet_terminal
from musictrain.cli.exits import CommandError, UsageError
from musictrain.cli.lightning_cli import MusicCLI
from musictrain.cli.parse_errors import innermost
from musictrain.cli.resume import value_at
from musictrain.cli.spread_trainer import settle_device
from musictrain.cli.starting import begin_with, source_of
from musictrain.cli.tune import not_found
from musictrain.cli.tuning_curve import drawn, evened_out, single_losses, steepest
from musictrain.cli.tuning_memory import bounded_memory, count_rows, run_out_of_memory
from musictrain.data.accumulation import AccumulationRule

FIRST_BATCH_SIZE = 2
STEPS_PER_SIZE = 3
NEVER = 10**9
LEARNING_RATES = (
    *("model.init_args.optimizer.init_args.lr", "optimizer.init_args.lr", "model.init_args.lr", "model.init_args.learning_rate"),
)
BATCH_SIZES = ("data.init_args.batch_size", "model.init_args.batch_size")


class TuneCLI(MusicCLI):
    """A command line's parts, built as ``fit`` builds them, for the Tuner: one device, no loggers, no callbacks, no validation.

    Args:
        words: those of ``fit``.
        scratch: a folder for whatever wants one.
    """

    def __init__(self, words: Sequence[str], scratch: str) -> None:
        self._scratch = scratch
        alone = {"devices": "1", "num_nodes": "1", "strategy": "auto", "logger": "false", "max_epochs": "-1", "max_time": "null"}
        super().__init__("fit", [*words, *(word for name, value in alone.items() for word in (f"--trainer.{name}", value))])

    def _run_subcommand(self, subcommand: str) -> None:
        """The Tuner does."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """As said above; the module begins with what ``--init_from`` names."""
        if self._fault:
            raise UsageError(self._fault)
        settings = self._get(self.config_init, "trainer", default={})
        options, _ = settle_device(self.settings, settings, self.model, self.datamodule)
        if self.settings.get("init_from") is not None:
            begin_with(source_of(self.settings.init_from, Path(self.settings.runs)), self.model, self.datamodule, {})
        quiet = {
            **{"callbacks": [], "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
            **{"val_check_interval": NEVER, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0, "max_steps": NEVER},
            **{"default_root_dir": self._scratch, "accumulate_grad_batches": self._batches_of_first_step(settings), "fast_dev_run": False},
        }
        return LightningCLI.instantiate_trainer(self, **{**options, **kwargs, **quiet})

    def _batches_of_first_step(self, settings: Any) -> int:
        """How many batches a run's first step gathers: by the trainer, by tokens, or by a callback's schedule."""
        of_batch = getattr(self.datamodule, "tokens_per_batch", None)
        given = settings.get("callbacks")
        schedules = [each for each in (given if isinstance(given, list) else [given]) if type(each).__name__ == "AccumulationSchedule"]
        tokens: Any = {0: every} if (every := self.settings.get("global_batch_tokens")) is not None else None
        for schedule in schedules:
            if schedule.rule is not None:
                return int(schedule.rule.at(0))
            tokens = schedule.tokens
        if tokens is not None and of_batch is not None:
            return AccumulationRule.of_tokens(tokens, of_batch).at(0)
        return int(settings.get("accumulate_grad_batches") or 1)


def tuned(words: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """What was found, as plain values; the drawn curve as bytes under ``lr.drawn``.

    Raises:
        UsageError: if module or data module cannot be tuned, or the configuration cannot work.
        CommandError: if nothing was found.
    """
    with quiet_terminal(), tempfile.TemporaryDirectory(prefix="tune-") as scratch, _no_bar():
        try:
            cli = TuneCLI(words, scratch)
            found: dict[str, Any] = {}
            if options.batch_size:
                found["batch_size"] = find_batch_size(cli, options.max_batch_size)
            if options.lr:
                found["lr"] = find_learning_rate(cli, options.steps, options.min_lr, options.max_lr)
        except (UsageError, CommandError):
            raise
        except (MisconfigurationException, ValueError) as error:
            raise UsageError(innermost(str(error))) from error
        except RuntimeError as error:
            raise not_found("learning rate" if "batch_size" in found or not options.batch_size else "batch size", str(error)) from error
        return {**found, "config": config_lines(yaml.safe_load(cli.resolved_config()), found)}


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """Lightning draws a bar wherever standard error goes; only a terminal is meant."""
    with Path(os.devnull).open("w") as nowhere, contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(nowhere):
        yield


# Batch size


def find_batch_size(cli: TuneCLI, most: int) -> dict[str, Any]:
    """The most rows whose steps fit into memory, from two on by doubling; the data module has that batch size afterwards.

    Raises:
        UsageError: if nobody has a ``batch_size``.
        CommandError: if not even one row fits.
    """
    holder = next((each for each in (cli.datamodule, cli.model) if hasattr(each, "batch_size")), None)
    if holder is None:
        raise UsageError(
            f"{type(cli.datamodule or cli.model).__name__} has no attribute batch_size that could be tried out. Give it one, which its "
            "train_dataloader reads each time it is asked; or leave --batch-size out."
        )
    before = int(holder.batch_size)
    with run_out_of_memory(cli.model), count_rows(cli.datamodule) as counted, bounded_memory(cli.trainer.strategy.root_device.type):
        limits = {"init_val": min(FIRST_BATCH_SIZE, most), "max_val": most + 1, "steps_per_trial": STEPS_PER_SIZE}
        found = Tuner(cli.trainer).scale_batch_size(cli.model, datamodule=cli.datamodule, **limits)  # type: ignore[arg-type]
    assert found is not None
    tried = [*counted, found]
    if found > most:
        # Lightning gives back the limit itself, which it has not tried.
        found = min(FIRST_BATCH_SIZE, most) << (most // min(FIRST_BATCH_SIZE, most)).bit_length() - 1
        why = f"the most that was tried (--max-batch-size {most}); memory would have room for it"
    elif max(tried) > found:
        why = f"{max(tried):,} do not fit into memory"
    else:
        why = "more would be more than the corpus gives in an epoch"
    holder.batch_size = found
    return {"found": int(found), "before": before, "why": why, "tried": sorted(set(tried))}


# Learning rate


def find_learning_rate(cli: TuneCLI, steps: int, lowest: float, highest: float) -> dict[str, Any]:
    """The learning rate at which the loss falls fastest while it grows from step to step, and the curve of it.

    Raises:
        UsageError: if the module has several optimizers.
        CommandError: if no point of the curve can be told from the others.
    """
    proportions = keep_proportions(cli.model)
    finder = Tuner(cli.trainer).lr_find(
        cli.model, datamodule=cli.datamodule, min_lr=lowest, max_lr=highest, num_training=steps, update_attr=False
    )
    assert finder is not None
    rates, losses = list(map(float, finder.results["lr"])), evened_out(single_losses(finder.results["loss"]))
    if (place := steepest(rates, losses)) is None:
        why = f"of {len(losses)} losses there are too few that are numbers. Try a lower --max-lr, or more --steps."
        raise not_found("learning rate", why)
    finite = [each for each, loss in enumerate(losses) if math.isfinite(loss)]
    accumulated = cli.trainer.accumulate_grad_batches
    size = getattr(cli.datamodule, "batch_size", None)
    return {
        "suggestion": rates[place],
        "lowest_at": rates[min(finite, key=losses.__getitem__)],
        "rows": f"steps of {size * accumulated:,} rows" if isinstance(size, int) else "the steps",
        "note": proportions[0] if proportions else "",
        "lr": rates,
        "loss": losses,
        "drawn": drawn(rates, losses, place),
    }


def keep_proportions(model: Any) -> list[str]:
    """Let groups of an optimizer that learn at unlike rates do so while one rate for all is tried: a word on it comes into the list."""
    own: Callable[[], Any] = model.configure_optimizers
    notes: list[str] = []

    def configured() -> Any:
        made = own()
        optimizer = made.get("optimizer") if isinstance(made, dict) else made
        if isinstance(optimizer, Optimizer) and len({float(group["lr"]) for group in optimizer.param_groups}) > 1:
            _apply_shares(optimizer)
            notes.append("this is the rate of the first group of weights; the others kept their proportion to it")
        return made

    model.configure_optimizers = configured
    return notes


def _apply_shares(optimizer: Optimizer) -> None:
    whole = optimizer.param_groups[0]["lr"]
    shares = [group["lr"] / whole for group in optimizer.param_groups]
    rates: list[Any] = []

    def before(*_: Any) -> None:
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = group["lr"] * share

    def after(*_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


# For the configuration


def config_lines(config: dict[str, Any], found: dict[str, Any]) -> str:
    """YAML that puts what was found in its place; empty if the configuration has no place for it."""
    lines: dict[str, Any] = {}
    if "batch_size" in found:
        _put(lines, config, BATCH_SIZES, found["batch_size"]["found"])
    if "lr" in found:
        _put(lines, config, LEARNING_RATES, float(f"{found['lr']['suggestion']:.2g}"))
    return yaml.safe_dump(lines, sort_keys=False) if lines else ""


def _put(lines: dict[str, Any], config: dict[str, Any], places: Sequence[str], value: Any) -> None:
    for place in places:
        parent, _, name = place.rpartition(".")
        if name in (value_at(config, parent) or {}):
            node = lines
            for position, part in enumerate(parts := parent.split("."), start=1):
                at = ".".join(parts[:position])
                node = node.setdefault(part, {})
                # Arguments mean nothing without their class, which a default does not tell.
                if isinstance(described := value_at(config, at), dict) and "class_path" in described:
                    node.setdefault("class_path", described["class_path"])
            node[name] = value
            return
