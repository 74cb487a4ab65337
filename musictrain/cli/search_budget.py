"""Whether a search is larger than was asked for: how many trials and steps, and how long, by earlier runs of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from musictrain.dashboard.settings import read_config
from musictrain.runs import RunFolder, list_runs
from musictrain.runs.status import read_status
from musictrain.search.asking import value_of
from musictrain.search.definition import Definition, SearchError
from musictrain.search.eta import cost_of
from musictrain.search.folder import SearchFolder

# What mostly says how long a step takes.
OF_A_KIND = (
    *("model.class_path", "model.init_args.network.class_path", "data.init_args.tokenizer.class_path", "data.init_args.corpus"),
    *("data.init_args.batch_size", "data.init_args.window", "trainer.accumulate_grad_batches", "global_batch_tokens"),
)
FEWEST_STEPS = 5  # below that a run's time is that of its start
MOST_RUNS = 30  # that are looked at, the newest


@dataclass(frozen=True)
class Pace:
    """How long a step takes.

    Args:
        seconds: of an optimizer step, validations included; the median.
        runs: how many runs say so.
    """

    seconds: float
    runs: int


def check_budget(definition: Definition, points: int, config: Mapping[str, Any], folder: SearchFolder) -> list[str]:
    """Refuse more trials, or more hours, than there may be; gives back what there is to say.

    Args:
        definition: with all its rungs.
        points: at most.
        config: what lies under them, fully resolved.
        folder: of the search. Of one that has begun the hours are its driver's to watch.

    Raises:
        SearchError: saying how many trials and steps, and how long as far as anybody knows.
    """
    cost, most = cost_of(definition, points), definition.most
    too_many = cost.trials > most.trials
    if not too_many and (most.hours is None or folder.trials.is_file()):
        return []
    pace = pace_of(config, folder.path.parent)
    seconds = None if pace is None else cost.seconds(pace.seconds, definition.slots, len(definition.seeds))
    words = f"{_points(definition, points)}: {cost.words()}{how_long(seconds, pace, definition.slots)}"
    if too_many:
        raise SearchError(
            f"The space has {words}. No more than {most.trials:,} trials are asked for: make it smaller, draw some of it by --random, "
            f"or say --most-trials {cost.trials}."
        )
    if seconds is not None and most.hours is not None and seconds > 3600 * most.hours:
        raise SearchError(
            f"The space has {words}. No more than {most.hours:g} hours are asked for: make it smaller, give points up early by --halving, "
            f"train several at the same time by --slots, or say --most-hours {1.1 * seconds / 3600:.2g}."
        )
    return [] if seconds is not None else ["No run of this kind says how long a step takes; the search ends when its hours are over."]


def _points(definition: Definition, points: int) -> str:
    seeds = len(definition.seeds)
    return f"{points:,} point{'s' if points != 1 else ''}{f' with {seeds} seeds each' if seeds > 1 else ''}"


def how_long(seconds: float | None, pace: Pace | None, slots: int) -> str:
    """Such as ``, about 3.5 hours (0.25 s a step, by 4 runs)``; empty if nobody knows."""
    if seconds is None or pace is None:
        return ""
    took = f"{seconds / 3600:.2g} hours" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"
    at_once = f", {slots} at the same time" if slots > 1 else ""
    return f", about {took}{at_once} ({pace.seconds:.2g} s a step, by {pace.runs} run{'s' if pace.runs != 1 else ''} of this kind)"


def pace_of(config: Mapping[str, Any], runs_dir: Path) -> Pace | None:
    """How long a step takes by the newest runs of the same kind; None if there is none."""
    wanted = _kind(config)
    found = [
        pace for run in list_runs(runs_dir)[-MOST_RUNS:] if (pace := _pace(run)) is not None and _kind(read_config(run.config)) == wanted
    ]
    return Pace(median(found), len(found)) if found else None


def _pace(run: RunFolder) -> float | None:
    status = read_status(run.status)
    if status is None or status.step < FEWEST_STEPS or status.elapsed_seconds <= 0:
        return None
    return status.elapsed_seconds / status.step


def _kind(config: Any) -> list[Any]:
    return [value_of(config, key) for key in OF_A_KIND]
