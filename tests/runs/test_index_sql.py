"""Whatever somebody asks in SQL, the index stays as it is, and the answer or the complaint comes soon."""

from __future__ import annotations

from pathlib import Path

import pytest

from musictrain.runs.index import INDEX, RunIndex
from musictrain.runs.index_sql import QueryError, ask, ask_connection
from tests.runs.some_runs import losses, write_run


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write_run(tmp_path, "a", losses(0.5, 0.25), state="finished", step=20)
    write_run(tmp_path, "b", losses(0.75), state="failed", step=10)
    with RunIndex(tmp_path) as index:
        index.refresh()
    return tmp_path / INDEX


def test_a_query_is_answered(index: Path) -> None:
    answer = ask(index, "SELECT run, min AS lowest FROM metrics JOIN runs ON name = run WHERE state = 'finished'; ")
    assert (answer.columns, answer.rows, answer.cut) == (["run", "lowest"], [("a", 0.25)], False)
    with_recursion = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3) SELECT group_concat(x) FROM n"
    assert ask(index, with_recursion).rows == [("1,2,3",)]


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM runs",
        "UPDATE runs SET name = 'x'",
        "INSERT INTO run_tags VALUES (1, 'x')",
        "DROP TABLE runs",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "ATTACH 'other.db' AS other",
        "VACUUM INTO 'copy.db'",
        "PRAGMA user_version = 7",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "SELECT load_extension('x')",
        "SELECT * FROM pragma_user_version",
        "BEGIN EXCLUSIVE",
        "EXPLAIN DELETE FROM runs",
        "REPLACE INTO runs (name, path) VALUES ('x', 'y')",
        "WITH x AS (SELECT 1) DELETE FROM runs",
        "ANALYZE",
        "REINDEX",
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_nothing_but_reading_is_allowed(index: Path, query: str, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, names = index.read_bytes(), sorted(path.name for path in tmp_path.iterdir())
    with RunIndex(tmp_path) as opened:
        answer = (lambda: ask_connection(opened._connection, query)) if in_memory else (lambda: opened.ask(query))
        with pytest.raises(QueryError, match=r"Only reading is allowed|only read here"):
            answer()
    assert index.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_an_endless_query_is_stopped(index: Path) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(QueryError, match=r"took longer than 0\.1 s and was stopped"):
        ask(index, endless, longest_seconds=0.1)


def test_too_many_rows_are_cut_and_too_long_values_refused(index: Path) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"
    answer = ask(index, endless, most_rows=7)
    assert (len(answer.rows), answer.cut) == (7, True)
    with pytest.raises(QueryError, match="too big"):
        ask(index, "SELECT zeroblob(100000000)")


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("SELECT * FROM run", r"no table 'run'\. Did you mean 'runs'\? There are:\n  runs\(id, name, "),
        ("SELECT stat FROM runs", r"no column 'stat'\. Did you mean 'state'\?"),
        ("SELECT 1; SELECT 2", "One query at a time"),
        ("SELEC 1", r"SQLite says: near \"SELEC\": syntax error\. There are:"),
        ("", "That is no query"),
        ("-- nothing", "That is no query"),
    ],
)
def test_complaints_say_what_there_is(index: Path, query: str, complaint: str) -> None:
    with pytest.raises(QueryError, match=complaint):
        ask(index, query)
