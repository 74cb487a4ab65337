"""``search --show NAME``: the table of a search, from its files alone; at once, whether it goes on or not."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictrain.cli.exits import FINISHED, UsageError
from musictrain.cli.search_loading import BASE, told_before, values_under
from musictrain.cli.search_texts import alike_lines, best_lines, failure_lines, importance_lines, summary_line
from musictrain.dashboard.search import read_importance
from musictrain.runs.eta import TimeLeft
from musictrain.runs.records import plain
from musictrain.runs.summary import shown
from musictrain.search.definition import Definition, SearchError
from musictrain.search.eta import time_left
from musictrain.search.folder import SearchFolder
from musictrain.search.ledger import Ledger, read_ledger
from musictrain.search.plan import Planned
from musictrain.search.points import Point
from musictrain.search.reading import read_definition
from musictrain.search.resolving import read_known
from musictrain.search.results import Results, results_of
from musictrain.search.space import space_fingerprint
from musictrain.search.telling import OVER, progress_of, told_of, training_now
from musictrain.suggestions import did_you_mean


@dataclass(frozen=True)
class Seen:
    """A search as its files show it.

    Args:
        definition: as it was last.
        results: so far.
        ledger: what they come from.
        planned: every trial.
    """

    definition: Definition
    results: Results
    ledger: Ledger
    planned: tuple[Planned, ...]


def show_search(name: str, runs: Path, *, as_json: bool = False) -> int:
    """Print it; gives back the exit status.

    Args:
        name: of the search, or its folder.
        runs: where runs are kept.
        as_json: everything, for programs.

    Raises:
        UsageError: if there is no such search, or its files cannot be read.
    """
    folder = find_search(name, runs)
    seen = look_at(folder)
    print(json.dumps(plain(as_record(folder, seen)), indent=1) if as_json else "\n".join(lines_of(folder, seen)))
    return FINISHED


def lines_of(folder: SearchFolder, seen: Seen) -> list[str]:
    """What of it fits into a terminal: how far it is, its best points, what mattered, what failed, and where everything lies."""
    definition, results = seen.definition, seen.results
    running, left = now_at(folder, seen)
    facts = {**progress_of(definition, results, seen.ledger), "running": running, "left": None if left is None else [left.seconds]}
    lines = [summary_line(definition, results, facts), *best_lines(definition, results)]
    lines += [
        *importance_lines(definition, read_importance(folder.path)),
        *failure_lines(definition, results),
        *alike_lines(definition, results),
    ]
    for title, path in (("page", folder.page), ("best", folder.best), ("table", folder.results)):
        lines += [f"  {title:<8}  {shown(path)}"] if path.is_file() else []
    return lines


def find_search(name: str, runs: Path) -> SearchFolder:
    """The folder of a search.

    Raises:
        UsageError: naming those that there are.
    """
    for path in (Path(runs) / name, Path(name)):
        if SearchFolder(path).is_search():
            return SearchFolder(path)
    known = names_of_searches(runs)
    there_are = f"There are: {', '.join(known[:12])}." if known else "There is none yet."
    raise UsageError(f"There is no search {name!r} in {shown(runs)}. {did_you_mean(name, known) or there_are}")


def names_of_searches(runs: Path) -> list[str]:
    """The searches beside the runs, by name."""
    return sorted(path.parent.name for path in Path(runs).glob("*/search.yaml"))


def look_at(folder: SearchFolder) -> Seen:
    """What its files say; points that are not written down are those that the ledger knows.

    Raises:
        UsageError: if they cannot be read.
    """
    try:
        told = told_before(folder) or {}
        definition = read_definition({key: value for key, value in told.items() if key != BASE}, folder.name)
        ledger = read_ledger(folder.trials)
        planned = planned_of(folder, definition, str(told.get(BASE, ""))) or known_to(ledger)
        return Seen(definition, results_of(definition, planned, ledger), ledger, tuple(planned))
    except (SearchError, OSError) as error:
        raise UsageError(f"The search {folder.name!r} cannot be shown: {error}") from error


def planned_of(folder: SearchFolder, definition: Definition, base: str) -> list[Planned]:
    """Every trial, as ``points.jsonl`` has them; none where that does not say it."""
    known = read_known(folder.points)
    config = known.bases.get(base)
    points = None if config is None else known.spaces.get(space_fingerprint(definition, values_under(config)))
    return [] if points is None else known.planned(base, points, definition.seeds)[0]


def known_to(ledger: Ledger) -> list[Planned]:
    """The trials of a ledger, those of one point behind one another."""
    by_point: dict[Point, list[Planned]] = {}
    for identity, trial in ledger.trials.items():
        point = Point(dict(trial.last.point))
        by_point.setdefault(point, []).append(Planned(point, trial.last.seed, identity))
    return [each for trials in by_point.values() for each in sorted(trials, key=lambda trial: trial.seed)]


def as_record(folder: SearchFolder, seen: Seen) -> dict[str, Any]:
    """Everything that the page shows too, for programs, but for curves and importance."""
    running, left = now_at(folder, seen)
    told = told_of(seen.definition, seen.results, seen.ledger, left=left, running=running, state="going on" if running else "resting")
    return {"search": folder.name, "folder": str(folder.path), "finished": seen.results.finished, **told}


def now_at(folder: SearchFolder, seen: Seen) -> tuple[int, TimeLeft | None]:
    """How many trials train now, and the time that is left; None if none does, or nobody can tell."""
    open_ones = [trial.identity for row in seen.results.rows for trial in row.trials if trial.state not in OVER]
    running = training_now(folder.path.parent, seen.ledger, open_ones)
    return len(running), time_left(seen.definition, seen.planned, seen.ledger, running) if running else None
