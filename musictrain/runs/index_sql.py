"""Questions of other people to the index, in SQL: they read, and can do nothing else.

Guarded four times over: a connection that is opened for reading (of a file) or belongs to this process alone (in memory), ``query_only``,
an authorizer that allows reading and functions only, and limits of time, rows and the length of a value.
"""

from __future__ import annotations

import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from musictrain.runs.index_schema import FOR_PEOPLE
from musictrain.suggestions import did_you_mean

LONGEST_SECONDS = 10.0
MOST_ROWS = 100_000
LONGEST_VALUE = 1_000_000
LONGEST_QUERY = 100_000
OPCODES_BETWEEN_LOOKS = 1_000

ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION}
FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}


class QueryError(ValueError):
    """A query that cannot be answered; the message says why and what there is."""


class Answer(NamedTuple):
    """Names of the columns, rows, and whether there would have been more."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    cut: bool


def ask(path: Path, query: str, *, most_rows: int = MOST_ROWS, longest_seconds: float = LONGEST_SECONDS) -> Answer:
    """What a query gives on the index in the file ``path``.

    Raises:
        QueryError: if it is no single query that only reads, if it asks for what there is not, or takes too long.
    """
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=3.0, isolation_level=None)
    with closing(connection):
        return ask_connection(connection, query, most_rows=most_rows, longest_seconds=longest_seconds)


def ask_connection(
    connection: sqlite3.Connection, query: str, *, most_rows: int = MOST_ROWS, longest_seconds: float = LONGEST_SECONDS
) -> Answer:
    """The same on an open connection, which from then on can only read."""
    tables = _columns(connection)
    connection.execute("PRAGMA query_only = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, LONGEST_QUERY)
    connection.set_authorizer(_allow_reading)
    until = time.monotonic() + longest_seconds
    connection.set_progress_handler(lambda: int(time.monotonic() > until), OPCODES_BETWEEN_LOOKS)
    try:
        cursor = connection.execute(query)
        if cursor.description is None:
            raise QueryError("That is no query. Ask with SELECT (or WITH ... SELECT); the index is only read here.")
        rows = [tuple(row) for row in cursor.fetchmany(most_rows + 1)]
        return Answer([column[0] for column in cursor.description], rows[:most_rows], len(rows) > most_rows)
    except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
        raise QueryError(_complaint(str(error), tables, longest_seconds)) from error
    finally:
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)


def _allow_reading(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    forbidden = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FORBIDDEN_FUNCTIONS
    return sqlite3.SQLITE_OK if action in ALLOWED and not forbidden else sqlite3.SQLITE_DENY


def _columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    return {table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] for table in FOR_PEOPLE}


def _complaint(error: str, tables: dict[str, list[str]], seconds: float) -> str:
    if "interrupted" in error:
        return f"The query took longer than {seconds:g} s and was stopped. Ask for less, or add a LIMIT."
    if any(word in error for word in ("not authorized", "authorization denied", "prohibited", "readonly")):
        return "Only reading is allowed here: SELECT (or WITH ... SELECT) on the tables of the index."
    if "one statement" in error:
        return "One query at a time: leave out what stands after the semicolon."
    if found := re.search(r"no such table: (\S+)", error):
        return _joined(f"There is no table {found[1]!r}.", did_you_mean(found[1], tables), _list_of(tables))
    if found := re.search(r"no such column: (\S+)", error):
        name = found[1].rpartition(".")[2]
        known = {column for columns in tables.values() for column in columns}
        return _joined(f"There is no column {found[1]!r}.", did_you_mean(name, known), _list_of(tables))
    return f"SQLite says: {error}. {_list_of(tables)}"


def _joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def _list_of(tables: dict[str, list[str]]) -> str:
    left_out = {"files", "metrics_offset", "metrics_before", "told_state", "pid", "process_started"}
    lines = [f"  {table}({', '.join(column for column in columns if column not in left_out)})" for table, columns in tables.items()]
    return "There are:\n" + "\n".join(lines)
