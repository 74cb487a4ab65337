"""Searches in the list of runs: the trials of one stand behind a single line, until somebody asks for them.

Conventions: a trial is folded into the search that made it, whichever others have taken it since. The line of a search stands where its
first trial would. It counts trials in place of steps; its best is that of its trials, by what the search goes by first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictrain.cli.runs_query import Row
from musictrain.cli.runs_texts import figure
from musictrain.dashboard.settings import read_config
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.index import RunIndex
from musictrain.runs.status import ACTIVE
from musictrain.search.folder import SearchFolder

NO_RUN = -1
LEAST_TRIALS = 2


@dataclass(frozen=True)
class Aim:
    """What a search goes by, where it is not the lowest ``val/loss`` that every run goes by.

    Args:
        metric: its name.
        mode: ``min`` or ``max``.
        values: of runs, with their steps, by name.
    """

    metric: str
    mode: str
    values: Mapping[str, tuple[float, int]]


def aims_of(index: RunIndex, searches: Iterable[str]) -> dict[str, Aim]:
    """What those of some searches go by that go by something else, by name; a definition that cannot be read says nothing."""
    values: dict[tuple[str, str], dict[str, tuple[float, int]]] = {}
    found = {}
    for search in sorted(set(searches)):
        told = _first_objective(read_config(SearchFolder(Path(index.runs_dir, search)).definition))
        metric, mode, which = (told.get(key) for key in ("metric", "mode", "value"))
        if not isinstance(metric, str) or mode not in ("min", "max") or (metric, mode, which) == (BEST_METRIC, "min", "best"):
            continue
        column = "last" if which == "last" else str(mode)
        if (metric, column) not in values:
            query = f"SELECT run, {column} AS value, {column}_step AS step FROM metrics WHERE key = ?"
            values[metric, column] = {row["run"]: (row["value"], row["step"]) for row in index.select(query, (metric,))}
        found[search] = Aim(metric, str(mode), values[metric, column])
    return found


def _first_objective(told: Any) -> Mapping[str, Any]:
    objectives = told.get("objectives") if isinstance(told, dict) else None
    first = objectives[0] if isinstance(objectives, list) and objectives else None
    return first if isinstance(first, dict) else {}


def folded(
    rows: Sequence[Row], searches: Mapping[int, str], *, unfold: bool = False, aims: Mapping[str, Aim] | None = None
) -> tuple[list[Row], dict[str, int]]:
    """The rows with those of trials behind one line each search, and how many each line stands for.

    Args:
        rows: of runs, in the order in which they are shown.
        searches: by the number of their row, see ``RunIndex.searches``.
        unfold: whether the trials follow the line of their search.
        aims: what searches go by, see ``aims_of``.
    """
    trials: dict[str, list[Row]] = {}
    for row in rows:
        if (search := searches.get(row["id"])) is not None:
            trials.setdefault(search, []).append(row)
    groups = {search: each for search, each in trials.items() if len(each) >= LEAST_TRIALS}
    shown: list[Row] = []
    told: set[str] = set()
    for row in rows:
        search = searches.get(row["id"], "")
        if search not in groups:
            shown.append(row)
        elif search not in told:
            told.add(search)
            shown.append(line_of(search, groups[search], (aims or {}).get(search)))
            shown += [{**each, "name": f"  {each['name']}"} for each in groups[search]] if unfold else []
    return shown, {search: len(each) for search, each in groups.items()}


def line_of(search: str, trials: Sequence[Row], aim: Aim | None = None) -> Row:
    """One row for all trials of a search: it goes on if one of them does, and is finished once none rests."""
    states = [row["state"] for row in trials]
    active = [state for state in states if state in ACTIVE]
    line: Row = dict.fromkeys(trials[0])
    line |= {"id": NO_RUN, "archived": 0, "name": f"{search} ({len(trials):,} trials)"}
    line |= {"state": "training" if active else "search", "step": len(trials) - len(active), "total": len(trials)}
    line |= {"created": min((row["created"] for row in trials if row["created"] is not None), default=None)}
    line |= {"elapsed_seconds": math.fsum(row["elapsed_seconds"] or 0.0 for row in trials)}
    return line | (_best_of(trials) if aim is None else _best_by(aim, trials))


def _best_of(trials: Sequence[Row]) -> Row:
    best = min(trials, key=_best)
    return {key: best[key] for key in ("best_metric", "best_value", "best_step")} if math.isfinite(_best(best)) else {}


def _best_by(aim: Aim, trials: Sequence[Row]) -> Row:
    """It stands in a column of other metrics, and so with its name."""
    known = [aim.values[row["name"]] for row in trials if row["name"] in aim.values]
    finite = [each for each in known if each[0] is not None and math.isfinite(each[0])]
    if not finite:
        return {}
    value, step = min(finite) if aim.mode == "min" else max(finite, key=lambda each: (each[0], -each[1]))
    named = value if aim.metric == BEST_METRIC else f"{figure(value)} ({aim.metric})"
    return {"best_metric": aim.metric, "best_value": named, "best_step": step}


def _best(row: Row) -> float:
    value: Any = row["best_value"]
    return float(value) if row["best_metric"] == BEST_METRIC and value is not None and math.isfinite(value) else math.inf


def words_of(folded_away: dict[str, int], *, unfold: bool) -> str:
    """What the last line of the list says of them; empty without any."""
    if not folded_away or unfold:
        return ""
    num = sum(folded_away.values())
    many = len(folded_away) != 1
    return f"{num:,} of them trials of {len(folded_away):,} search{'es' if many else ''} (--trials shows each)"
