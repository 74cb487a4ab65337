"""Searches in the list of runs: the trials of one stand behind a single line, until somebody asks for them.

Conventions: a trial is folded into the search that made it, whichever others have taken it since. The line of a search stands where its
first trial would. It counts trials in place of steps; its best is that of its trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from musictrain.cli.runs_query import Row
from musictrain.runs.folder import BEST_METRIC
from musictrain.runs.status import ACTIVE

NO_RUN = -1
LEAST_TRIALS = 2


def folded(rows: Sequence[Row], searches: dict[int, str], *, unfold: bool = False) -> tuple[list[Row], dict[str, int]]:
    """The rows with those of trials behind one line each search, and how many each line stands for.

    Args:
        rows: of runs, in the order in which they are shown.
        searches: by the number of their row, see ``RunIndex.searches``.
        unfold: whether the trials follow the line of their search.
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
            shown.append(line_of(search, groups[search]))
            shown += [{**each, "name": f"  {each['name']}"} for each in groups[search]] if unfold else []
    return shown, {search: len(each) for search, each in groups.items()}


def line_of(search: str, trials: Sequence[Row]) -> Row:
    """One row for all trials of a search: it goes on if one of them does, and is finished once none rests."""
    states = [row["state"] for row in trials]
    active = [state for state in states if state in ACTIVE]
    best = min(trials, key=_best)
    line: Row = dict.fromkeys(trials[0])
    line |= {"id": NO_RUN, "archived": 0, "name": f"{search} ({len(trials):,} trials)"}
    line |= {"state": "training" if active else "search", "step": len(trials) - len(active), "total": len(trials)}
    line |= {"created": min((row["created"] for row in trials if row["created"] is not None), default=None)}
    line |= {"elapsed_seconds": math.fsum(row["elapsed_seconds"] or 0.0 for row in trials)}
    return line | ({key: best[key] for key in ("best_metric", "best_value", "best_step")} if math.isfinite(_best(best)) else {})


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
