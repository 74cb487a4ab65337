"""What was read of runs into the tables of the index, some runs in one short transaction."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from musictrain.runs.index_metrics import Extent
from musictrain.runs.index_reading import LARGEST, RunFacts


def write_facts(connection: sqlite3.Connection, runs: Sequence[tuple[RunFacts, str | None]]) -> list[str]:
    """Replace what the index keeps of some runs by what was read.

    Args:
        connection: to the index.
        runs: what was read, and the files that the index told of then, None for a run that it did not know.

    Returns:
        Names of the runs that another process has written since: what it read may be newer, and stays.

    Raises:
        sqlite3.Error: if it cannot be written; nothing has then changed.
    """
    if not runs:
        return []
    overtaken: list[str] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for facts, before in runs:
            if _files(connection, facts.columns["name"]) == before:
                _write_run(connection, facts)
            else:
                overtaken.append(str(facts.columns["name"]))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return overtaken


def _files(connection: sqlite3.Connection, name: Any) -> str | None:
    row = connection.execute("SELECT files FROM runs WHERE name = ?", (storable(name),)).fetchone()
    return None if row is None else row[0]


def _write_run(connection: sqlite3.Connection, facts: RunFacts) -> None:
    run_id = _write_row(connection, facts.columns)
    if facts.extents is not None:
        _replace(connection, "metric_values", run_id, (_metric_row(key, extent) for key, extent in facts.extents.items()))
    if facts.config is not None:
        _replace(connection, "config_values", run_id, ((key, value) for key, value in facts.config.items()))
    if facts.tags is not None:
        _replace(connection, "run_tags", run_id, ((tag,) for tag in facts.tags))
    if facts.parents is not None:
        _replace(connection, "run_parents", run_id, ((each.relation, each.run, each.version, each.step) for each in facts.parents))


def _write_row(connection: sqlite3.Connection, columns: Mapping[str, Any]) -> int:
    names, values = list(columns), [storable(value) for value in columns.values()]
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name != "name")
    connection.execute(f"INSERT INTO runs ({', '.join(names)}) VALUES ({_marks(names)}) ON CONFLICT (name) DO UPDATE SET {changes}", values)
    return int(connection.execute("SELECT id FROM runs WHERE name = ?", (storable(columns["name"]),)).fetchone()[0])


def _replace(connection: sqlite3.Connection, table: str, run_id: int, rows: Iterable[tuple[Any, ...]]) -> None:
    connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
    stored = [(run_id, *map(storable, row)) for row in rows]
    if stored:
        # Two keys may become one when what cannot be stored in them is written out: the later stays.
        width = _COLUMNS[table]
        connection.executemany(f"INSERT OR REPLACE INTO {table} ({width}) VALUES ({_marks(stored[0])})", stored)


_COLUMNS = {
    "metric_values": "run_id, key, last, last_step, min, min_step, max, max_step, curve_steps, curve_values",
    "config_values": "run_id, key, value",
    "run_tags": "run_id, tag",
    "run_parents": "run_id, relation, parent, version, step",
}


def _metric_row(key: str, extent: Extent) -> tuple[Any, ...]:
    numbers = (extent.last, extent.last_step, extent.lowest, extent.lowest_step, extent.highest, extent.highest_step)
    return key, *numbers, extent.steps.tobytes(), extent.values.tobytes()


def extent_of_row(row: Mapping[str, Any]) -> Extent:
    """What ``write_facts`` stored of one metric."""
    last = row["last"] if row["last"] is not None else float("nan")
    values = (row["last_step"], row["min"], row["min_step"], row["max"], row["max_step"])
    return Extent(last, *values, array("d", row["curve_steps"]), array("d", row["curve_values"]))


def storable(value: Any) -> Any:
    """A value that SQLite can hold: halves of characters written out, whole numbers beyond 64 bits as text.

    >>> storable(10**30), storable("\\ud800")
    ('1000000000000000000000000000000', '\\\\ud800')
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, int) and abs(value) > LARGEST:
        return str(value)
    return value


def _marks(values: Any) -> str:
    return ", ".join("?" * len(values))
