"""From what a person types to the run they mean: a folder, a name, a unique part of one, ``latest`` or ``best``."""

from __future__ import annotations

import re
from pathlib import Path

from musictrain.runs.folder import BEST_METRIC, RunFolder
from musictrain.suggestions import did_you_mean

MOST_NAMES_SHOWN = 8


class RunNotFoundError(ValueError):
    """No run, or more than one, goes by that name; the message says which there are."""


def list_runs(runs_dir: str | Path) -> list[RunFolder]:
    """The runs under ``runs_dir``, oldest start first; none if the folder is missing."""
    runs_dir = Path(runs_dir)
    folders = [RunFolder(path) for path in runs_dir.iterdir() if path.is_dir()] if runs_dir.is_dir() else []
    return sorted((run for run in folders if run.is_run()), key=_start)


def _start(run: RunFolder) -> tuple[str, str]:
    stamp = re.match(r"\d{4}-\d{2}-\d{2}_\d{6}", run.name)
    return (stamp.group() if stamp else "", run.name)


def find_run(text: str, runs_dir: str | Path) -> RunFolder:
    """The run that ``text`` names.

    Args:
        text: the path of a run folder; or a run's name under ``runs_dir``, or any part of one if only one run fits, where beginnings
            and whole words go before other parts; ``latest``: the run that was started last; ``best``: the run with the lowest
            recorded val/loss.
        runs_dir: the folder of all runs.

    Raises:
        RunNotFoundError: if none or several fit, with the nearest name or all that fit.
    """
    folder = RunFolder(Path(text))
    if folder.is_run():
        return RunFolder(folder.path.resolve())
    runs = list_runs(runs_dir)
    if not runs:
        raise RunNotFoundError(
            f"No run {text!r}: {runs_dir} holds no runs. Start one with `musictrain fit`, or name the folder with --runs."
        )
    if text == "latest":
        return runs[-1]
    return _best(runs, runs_dir) if text == "best" else _by_name(text, runs, runs_dir)


def _best(runs: list[RunFolder], runs_dir: str | Path) -> RunFolder:
    # Here alone: whoever names a run otherwise needs no database.
    from musictrain.runs.index import RunIndex

    with RunIndex(runs_dir) as index:
        index.refresh()
        lowest = {row["run"]: row["min"] for row in index.select("SELECT run, min FROM metrics WHERE key = ?", (BEST_METRIC,))}
    scored = [(best, position) for position, run in enumerate(runs) if (best := lowest.get(run.name)) is not None]
    if not scored:
        raise RunNotFoundError(
            f"No best run: none of {len(runs)} has recorded {BEST_METRIC}, vetoed steps left out. Name a run, or say 'latest'."
        )
    return runs[min(scored)[1]]


def _by_name(text: str, runs: list[RunFolder], runs_dir: str | Path) -> RunFolder:
    named = [run for run in runs if run.name == text]
    words = [run for run in runs if run.name.startswith(text) or f"-{text}-" in f"-{run.name}-"]
    fitting = named or words or [run for run in runs if text and text in run.name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise RunNotFoundError(f"{text!r} fits {len(fitting)} runs: {_names(fitting)}. Type more of the name, or 'latest' or 'best'.")
    parts = [part for run in runs for part in (run.name, "-".join(run.name.split("-")[-2:]))]
    hint = did_you_mean(text, ["latest", "best", *parts]) or f"There are: {_names(runs)}."
    raise RunNotFoundError(f"No run {text!r} in {runs_dir}. {hint}")


def _names(runs: list[RunFolder]) -> str:
    names = [run.name for run in runs[-MOST_NAMES_SHOWN:]]
    more = len(runs) - len(names)
    return ", ".join(names) + (f" and {more} older" if more else "")
