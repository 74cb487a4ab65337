"""``runs list``, ``runs best`` and ``runs --sql``: many runs at once."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from musictrain.cli.exits import FINISHED, CommandError, UsageError
from musictrain.cli.runs_query import ALIASES, HIDDEN, TIMES, Row, Runs, parse_condition
from musictrain.cli.runs_searches import aims_of, folded, words_of
from musictrain.cli.runs_texts import duration, figure, inert, moment, progress, table
from musictrain.runs.index import RunIndex
from musictrain.runs.index_sql import QueryError
from musictrain.runs.status import ACTIVE
from musictrain.runs.summary import shown
from musictrain.suggestions import did_you_mean

DEFAULT_COLUMNS = ("run", "state", "progress", "best", "at", "elapsed", "started", "tags")
COMPOSED = {
    "progress": lambda row: progress(row["step"], row["total"]),
    "elapsed": lambda row: duration(row["elapsed_seconds"] or None),
    "left": lambda row: duration(row["left_seconds"]) if row["state"] in ACTIVE else "",
}
LONGEST_CELL = 60


def list_command(options: argparse.Namespace, index: RunIndex) -> int:
    """A line for each run."""
    if options.sql is not None:
        return sql_command(options, index)
    runs = Runs(index)
    rows = selected(runs, options)
    num = len(rows)
    searches: dict[str, int] = {}
    if _folds(options):
        made_by = index.searches()
        rows, searches = folded(rows, made_by, unfold=options.trials, aims=aims_of(index, made_by.values()))
    lines = len(rows)
    rows = rows[: options.limit]
    columns = columns_of(options.columns)
    if options.columns is None and any(COMPOSED["left"](row) for row in rows):
        columns = (*columns[:3], "left", *columns[3:])
    if options.json:
        print(json.dumps(as_records(runs, rows) if options.columns is None else picked(runs, rows, columns), indent=1))
        return FINISHED
    if not rows:
        print(nothing_found(runs, options))
        return FINISHED
    print("\n".join(lines_of(runs, rows, columns)))
    print(footing(runs, num, num if len(rows) == lines else len(rows), options, words_of(searches, unfold=options.trials)))
    return FINISHED


def _folds(options: argparse.Namespace) -> bool:
    """Whether trials stand behind their searches: not for programs, nor where somebody looks for certain runs or values."""
    asked = (options.tag, options.state, options.name, options.where, options.columns)
    return not options.json and not any(asked)


def selected(runs: Runs, options: argparse.Namespace) -> list[Row]:
    """The runs that meet every condition, in the order asked for."""
    rows = [row for row in runs.rows if options.archived == "only" or not row["archived"] or options.archived == "too"]
    if options.archived == "only":
        rows = [row for row in rows if row["archived"]]
    if options.tag:
        tags = runs.tags()
        rows = [row for row in rows if set(options.tag) <= set(tags.get(row["id"], ()))]
    if options.state:
        rows = [row for row in rows if row["state"] in options.state]
    if options.name:
        rows = [row for row in rows if options.name.lower() in row["name"].lower()]
    for condition in options.where or ():
        meets = runs.holds(parse_condition(condition))
        rows = [row for row in rows if meets(row)]
    return runs.ordered(rows, getattr(options, "sort", None), reverse=getattr(options, "reverse", False))


def columns_of(text: str | None) -> tuple[str, ...]:
    """The columns asked for, the run's name first."""
    asked = DEFAULT_COLUMNS if text is None else tuple(word.strip() for word in text.split(",") if word.strip())
    if not asked:
        raise UsageError("--columns expects names with commas between, such as state,val/loss,lr.")
    return asked if {"run", "name"} & set(asked) else ("run", *asked)


def lines_of(runs: Runs, rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """The table."""
    cells = [cells_of(runs, rows, column) for column in columns]
    right = [column not in ("run", "name", "tags", "note") and _numeric(each) for column, each in zip(columns, cells, strict=True)]
    states = columns.index("state") if "state" in columns else None
    return table([heading(runs, column) for column in columns], list(zip(*cells, strict=True)), right, states)


def heading(runs: Runs, column: str) -> str:
    """A column's name; of ``best`` the metric, if it is one for all."""
    metrics = {row["best_metric"] for row in runs.rows if row["best_value"] is not None}
    return f"best {inert(metrics.pop())}" if column == "best" and len(metrics) == 1 else inert(column)


def cells_of(runs: Runs, rows: Sequence[Row], column: str) -> list[str]:
    """What one column says of each run."""
    if column in COMPOSED:
        return [COMPOSED[column](row) for row in rows]
    value_of = runs.value(column)
    if ALIASES.get(column, column) in TIMES:
        return [moment(value_of(row)) for row in rows]
    if ALIASES.get(column, column) == "name":
        return [inert(value_of(row)) for row in rows]
    return [shortened(figure(value_of(row))) for row in rows]


def shortened(text: str) -> str:
    """At most 60 characters."""
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 3] + "..."


def _numeric(cells: Sequence[str]) -> bool:
    return all(not cell or cell.lstrip("-")[:1].isdigit() or cell in ("nan", "inf", "-inf") for cell in cells)


def picked(runs: Runs, rows: Sequence[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The values of some columns, for programs."""
    fields = {column: runs.value({"progress": "step", "left": "left_seconds"}.get(column, column)) for column in columns}
    return [{column: finite(value_of(row)) for column, value_of in fields.items()} for row in rows]


def as_records(runs: Runs, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What is known of some runs, for programs."""
    tags = runs.tags()
    return [as_record(row, tags.get(row["id"], [])) for row in rows]


def as_record(row: Row, tags: Sequence[str]) -> dict[str, Any]:
    """What is known of a run, for programs."""
    record = {key: finite(value) for key, value in row.items() if key not in HIDDEN}
    record["archived"] = bool(row["archived"])
    record["tags"] = list(tags)
    record["last_alert"] = json.loads(row["last_alert"]) if row["last_alert"] else None
    record["best"] = {"metric": row["best_metric"], "value": finite(row["best_value"]), "step": row["best_step"]}
    return record


def finite(value: Any) -> Any:
    """A value that JSON can hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def nothing_found(runs: Runs, options: argparse.Namespace) -> str:
    """Why the list is empty."""
    if not runs.rows:
        return f"{shown(options.runs)} holds no runs. Start one with `musictrain fit`, or name the folder with --runs."
    archived = sum(bool(row["archived"]) for row in runs.rows)
    more = f" ({archived:,} are archived: --archived shows them too)" if archived and options.archived == "no" else ""
    known = {tag for tags in runs.tags().values() for tag in tags}
    strange = [tag for tag in options.tag or () if tag not in known]
    hint = f" No run has the tag {strange[0]!r}. {did_you_mean(strange[0], known)}".rstrip() if strange else ""
    return f"None of {len(runs.rows):,} runs fits{more}.{hint}"


def footing(runs: Runs, num: int, num_shown: int, options: argparse.Namespace, searches: str = "") -> str:
    """How many there are, and how many are not shown."""
    archived = sum(bool(row["archived"]) for row in runs.rows)
    words = [f"{num:,} run{'s' if num != 1 else ''} in {shown(options.runs)}"]
    words += [searches] if searches else []
    words += [f"{num_shown:,} shown"] if num_shown < num else []
    words += [f"{archived:,} archived"] if archived and options.archived == "no" else []
    return ", ".join(words) + "."


def sql_command(options: argparse.Namespace, index: RunIndex) -> int:
    """The answer to a query, as a table.

    Raises:
        UsageError: if it cannot be answered.
    """
    try:
        answer = index.ask(options.sql)
    except QueryError as error:
        raise UsageError(str(error)) from error
    rows = answer.rows[: options.limit]
    if options.json:
        print(json.dumps([dict(zip(answer.columns, map(_plain, row), strict=True)) for row in rows], indent=1))
        return FINISHED
    cells = [[shortened(figure(_plain(value))) for value in row] for row in rows]
    right = [_numeric([row[column] for row in cells]) for column in range(len(answer.columns))]
    print("\n".join(table([inert(column) for column in answer.columns], cells, right)))
    cut = len(rows) < len(answer.rows) or answer.cut
    print(f"{len(rows):,} row{'s' if len(rows) != 1 else ''}{', and there are more' if cut else ''}.")
    return FINISHED


def _plain(value: Any) -> Any:
    return f"{len(value):,} bytes" if isinstance(value, bytes) else finite(value)


def best_command(options: argparse.Namespace, index: RunIndex) -> int:
    """The runs with the best value of a metric, best first.

    Raises:
        CommandError: if no run has recorded it.
        UsageError: if there is no such metric.
    """
    runs = Runs(index)
    extreme = "min" if options.mode == "min" else "max"
    if options.metric not in runs.metrics():
        if not runs.metrics():
            raise CommandError(f"No best run: none of {len(runs.rows):,} has recorded a metric yet.")
        runs.value(options.metric)  # the same complaint as everywhere
        raise UsageError(f"{options.metric!r} is no metric. There are: {', '.join(map(inert, runs.metrics()[:20]))}.")
    value_of, step_of = runs.value(f"{options.metric}.{extreme}"), runs.value(f"{options.metric}.{extreme}_step")
    ranked = [row for row in selected(runs, options) if value_of(row) is not None]
    ranked.sort(key=lambda row: (-1 if options.mode == "max" else 1) * value_of(row))
    if not ranked:
        raise CommandError(f"No best run: none of those that fit has recorded a finite {options.metric}.")
    ranked = ranked[: options.limit]
    if options.json:
        places = [{"run": row["name"], "path": row["path"], "value": value_of(row), "step": step_of(row)} for row in ranked]
        print(json.dumps({"metric": options.metric, "mode": options.mode, "ranking": places}, indent=1))
        return FINISHED
    rows = [(inert(row["name"]), figure(value_of(row)), figure(step_of(row)), row["state"] or "", inert(row["tags"])) for row in ranked]
    print("\n".join(table(("run", inert(options.metric), "at step", "state", "tags"), rows, (False, True, True), states=3)))
    return FINISHED
