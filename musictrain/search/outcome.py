"""What a search leaves for others: ``results.csv`` with a line for each trial, and ``best.yaml``, which ``fit`` takes.

Both are written again and again while the search goes on, whole at any moment.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from musictrain.runs.atomic import atomic_write
from musictrain.search.definition import Definition
from musictrain.search.folder import SearchFolder
from musictrain.search.results import Results, Row, TrialRow

OF_THE_TRIAL = ("name", "runs", "ckpt_path", "pause_at", "config")
"""Keys of a run's configuration that say where it lies and how far it went at once, not what it is."""


def write_results(folder: SearchFolder, definition: Definition, results: Results) -> None:
    """``results.csv``: a line for each trial, points best first; their means and bounds, then the trial's own values.

    Raises:
        OSError: if it cannot be written.
    """
    keys, metrics = definition.parameters(), [each.metric for each in definition.objectives]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    headings = ["place", "point", "state", "pareto", "step", *(f"{metric}{part}" for metric in metrics for part in ("", " low", " high"))]
    writer.writerow([*headings, *keys, "seed", "trial", "run", "trial state", *(f"{metric} of trial" for metric in metrics), "reason"])
    for row in results.rows:
        for trial in row.trials:
            writer.writerow([*_of_point(row, metrics), *(_cell(row.point.values.get(key)) for key in keys), *_of_trial(trial, metrics)])
    atomic_write(folder.results, out.getvalue(), durable=False)


def _of_point(row: Row, metrics: list[str]) -> Iterator[Any]:
    yield from (_cell(row.place), row.point.hash, row.state, int(row.pareto), row.step)
    for metric in metrics:
        mean = row.means.get(metric)
        yield from map(_cell, (None, None, None) if mean is None else (mean.mean, mean.low, mean.high))


def _of_trial(trial: TrialRow, metrics: list[str]) -> Iterator[Any]:
    yield from (
        trial.seed,
        trial.trial,
        trial.run,
        trial.state,
        *(_cell((trial.values or {}).get(metric)) for metric in metrics),
        trial.reason,
    )


def _cell(value: Any) -> Any:
    """Empty for nothing, numbers in all their digits, what has parts as JSON."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else json.dumps(value) if isinstance(value, bool | list | dict) else value


def write_best(folder: SearchFolder, definition: Definition, results: Results, config: Mapping[str, Any], run: str) -> None:
    """``best.yaml``: the whole configuration of the best point, tried as it stands, with what it came to in its first lines.

    Args:
        folder: of the search.
        definition: of it.
        results: of which there is a best.
        config: of the run, as its ``config.yaml`` holds it.
        run: its name.

    Raises:
        OSError: if it cannot be written.
    """
    best = results.best
    assert best is not None
    whole = {key: value for key, value in config.items() if key not in OF_THE_TRIAL}
    told = [f"The best of {len(results.rows):,} points of the search {definition.name}: {best.point.words()}"]
    told += [_in_words(best, metric) for metric in (each.metric for each in definition.objectives)]
    told += [f"The whole configuration of {run}, seed {whole.get('seed_everything')}. Train it again: musictrain fit --config best.yaml"]
    comment = "".join(f"# {' '.join(line.split())}\n" for line in told)
    atomic_write(folder.best, comment + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True), durable=False)


def _in_words(row: Row, metric: str) -> str:
    mean = row.means[metric]
    half = f" ± {mean.half:.2g}" if math.isfinite(mean.half) else ""
    return f"{metric} {mean.mean:.5g}{half} after {row.step:,} steps, {mean.count} seed{'' if mean.count == 1 else 's'}"
