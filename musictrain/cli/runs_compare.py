"""``runs compare``: in which settings runs differ, and what came of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.runs_list import finite, shortened
from musictrain.cli.runs_texts import figure, inert, table
from musictrain.runs import find_run
from musictrain.runs.config_changes import ELSEWHERE
from musictrain.runs.folder import BEST_METRIC, RunFolder
from musictrain.runs.index import RunIndex
from musictrain.runs.rows import VETOED

MISSING = "-"
# Of the machine, and of what AnomalyAlerts looks at.
ASIDE = ("speed/", "health/")
OF_THE_MACHINE = ("speed/tokens_per_second", "speed/mfu", "speed/memory_peak_mib")


def compare_command(options: argparse.Namespace, index: RunIndex) -> int:
    """Settings and metrics of two or more runs.

    Raises:
        UsageError: for fewer than two.
    """
    runs = list(dict.fromkeys(find_run(text, options.runs) for text in options.run))
    if len(runs) < 2:
        raise UsageError(f"runs compare needs two different runs, got only {runs[0].name}.")
    outside = [run for run in runs if not index.holds(run)]
    if outside:
        raise UsageError(f"{outside[0].path} is not in {options.runs}. Compare runs of one folder, named with --runs.")
    settings = settings_of(index, runs, everything=options.all)
    metrics = metrics_of(index, runs)
    if options.json:
        print(json.dumps({"runs": [run.name for run in runs], "settings": settings, "metrics": metrics}, indent=1))
        return FINISHED
    shown, left_out = of_interest(metrics, everything=options.all)
    lines = [*_names(runs), "", *_settings_lines(runs, settings, options.all), "", *_metric_lines(runs, shown), *left_out]
    print("\n".join(lines))
    return FINISHED


def settings_of(index: RunIndex, runs: Sequence[RunFolder], *, everything: bool = False) -> dict[str, list[Any]]:
    """Every setting in which the runs differ, with the value of each; where something is written or shown is left out."""
    values = [_of_run(index, "SELECT key, value FROM config WHERE run = ?", run, "value") for run in runs]
    keys = dict.fromkeys(key for each in values for key in each)
    shown = {key: [finite(each.get(key)) for each in values] for key in keys}
    if everything:
        return shown
    elsewhere = tuple(f"{key}." for key in ELSEWHERE)
    return {key: each for key, each in shown.items() if not f"{key}.".startswith(elsewhere) and any(value != each[0] for value in each)}


def metrics_of(index: RunIndex, runs: Sequence[RunFolder]) -> dict[str, list[dict[str, Any] | None]]:
    """Every metric that any of the runs recorded: last, lowest and highest value with their steps; the validation loss first."""
    query = "SELECT key, last, last_step, min, min_step, max, max_step FROM metrics WHERE run = ?"
    found = [
        {row.pop("key"): {key: finite(value) for key, value in row.items()} for row in index.select(query, (run.name,))} for run in runs
    ]
    keys = sorted(
        {key for each in found for key in each},
        key=lambda key: (key != BEST_METRIC, not key.startswith("val/"), key.startswith(ASIDE), key),
    )
    return {key: [each.get(key) for each in found] for key in keys}


def of_interest(metrics: dict[str, Any], *, everything: bool) -> tuple[dict[str, Any], list[str]]:
    """The metrics that a person looks for first, and what there is to say besides: how many more, and that vetoed steps do not compete."""
    values = {key: value for key, value in metrics.items() if key != VETOED}
    shown = {key: value for key, value in values.items() if everything or not key.startswith(ASIDE) or key in OF_THE_MACHINE}
    num = len(values) - len(shown)
    lines = [f"and {num} more of machine and health: --all shows them"] if num else []
    return shown, lines + (
        ["Steps that were vetoed are neither lowest nor highest: none of them is to be called best."] if VETOED in metrics else []
    )


def _of_run(index: RunIndex, query: str, run: RunFolder, column: str) -> dict[str, Any]:
    return {row["key"]: row[column] for row in index.select(query, (run.name,))}


def _letters(runs: Sequence[RunFolder]) -> list[str]:
    return [chr(ord("A") + number) if number < 26 else str(number + 1) for number in range(len(runs))]


def _names(runs: Sequence[RunFolder]) -> list[str]:
    return [f"{letter}  {inert(run.name)}" for letter, run in zip(_letters(runs), runs, strict=True)]


def _settings_lines(runs: Sequence[RunFolder], settings: dict[str, list[Any]], everything: bool) -> list[str]:
    if not settings:
        return ["No configuration is recorded." if everything else "The settings are the same."]
    rows = [[inert(key), *(MISSING if value is None else shortened(figure(value)) for value in values)] for key, values in settings.items()]
    return table(["settings" if everything else "settings that differ", *_letters(runs)], rows)


def _metric_lines(runs: Sequence[RunFolder], metrics: dict[str, list[dict[str, Any] | None]]) -> list[str]:
    if not metrics:
        return ["No metrics are recorded."]
    rows = []
    for key, values in metrics.items():
        for what in ("last", "min", "max"):
            if what == "last" or any(each is not None and each[what] != each["last"] for each in values):
                rows.append([inert(key) if what == "last" else "", what, *(_value(each, what) for each in values)])
    return table(["metric", "", *_letters(runs)], rows, [False, False, *(True for _ in runs)])


def _value(extent: dict[str, Any] | None, what: str) -> str:
    return MISSING if extent is None or extent[what] is None else f"{figure(extent[what])} @ {extent[f'{what}_step']:,}"
