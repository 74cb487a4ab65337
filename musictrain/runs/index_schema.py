"""The tables of ``runs/index.sqlite``, their versions, and how the file is opened.

Conventions:

- Rollback journal, never WAL, which corrupts on network file systems. Short transactions.
- Times are seconds since 1970; steps are optimizer steps; what nobody knows is NULL.
- ``PRAGMA user_version`` counts the migrations that a file has seen; ``application_id`` tells our files from others.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

APPLICATION_ID = 0x6D757369  # "musi"

FIRST = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    state TEXT,
    told_state TEXT,
    step INTEGER,
    total INTEGER,
    epoch INTEGER,
    attempt INTEGER,
    created REAL,
    updated REAL,
    ended REAL,
    elapsed_seconds REAL,
    left_seconds REAL,
    tokens_per_second REAL,
    model TEXT,
    corpus TEXT,
    tokenizer TEXT,
    parameters INTEGER,
    host TEXT,
    pid INTEGER,
    process_started TEXT,
    world_size INTEGER,
    config_fingerprint TEXT,
    best_metric TEXT,
    best_value REAL,
    best_step INTEGER,
    num_alerts INTEGER,
    last_alert TEXT,
    reason TEXT,
    advice TEXT,
    tags TEXT NOT NULL DEFAULT '',
    note TEXT NOT NULL DEFAULT '',
    archived INTEGER NOT NULL DEFAULT 0,
    files TEXT NOT NULL DEFAULT '',
    metrics_offset INTEGER NOT NULL DEFAULT 0,
    metrics_before BLOB NOT NULL DEFAULT x''
);
CREATE TABLE metric_values (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    last REAL, last_step INTEGER, min REAL, min_step INTEGER, max REAL, max_step INTEGER,
    curve_steps BLOB, curve_values BLOB,
    PRIMARY KEY (run_id, key)
);
CREATE TABLE config_values (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value,
    PRIMARY KEY (run_id, key)
) WITHOUT ROWID;
CREATE TABLE run_tags (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    PRIMARY KEY (run_id, tag)
) WITHOUT ROWID;
CREATE TABLE run_parents (
    run_id INTEGER NOT NULL REFERENCES runs(id) ON DELETE CASCADE,
    relation TEXT NOT NULL,
    parent TEXT NOT NULL,
    version TEXT,
    step INTEGER
);
CREATE INDEX parents_by_run ON run_parents(run_id);
CREATE INDEX parents_by_parent ON run_parents(parent);
CREATE INDEX values_by_key ON metric_values(key, run_id);
CREATE VIEW metrics AS SELECT runs.name AS run, key, last, last_step, min, min_step, max, max_step
    FROM metric_values JOIN runs ON runs.id = run_id;
CREATE VIEW config AS SELECT runs.name AS run, key, value FROM config_values JOIN runs ON runs.id = run_id;
CREATE VIEW tags AS SELECT runs.name AS run, tag FROM run_tags JOIN runs ON runs.id = run_id;
CREATE VIEW lineage AS SELECT runs.name AS run, relation, parent, version, run_parents.step AS step
    FROM run_parents JOIN runs ON runs.id = run_id;
"""

MIGRATIONS = (FIRST,)
"""Each brings a file one version further. Never change one that was released: add another."""

FOR_PEOPLE = ("runs", "metrics", "config", "tags", "lineage")
"""What ``runs --sql`` is told of; the other tables are the same with numbers in place of names."""


class ForeignIndexError(Exception):
    """The file is a database, but none of ours, or of a later musictrain."""


def connect(path: Path | str, wait_seconds: float = 3.0) -> sqlite3.Connection:
    """An open index with all its tables, made or brought up to date if need be; ``":memory:"`` for one without a file.

    Raises:
        ForeignIndexError: if it is somebody else's database, or a later musictrain's.
        sqlite3.OperationalError: if it cannot be opened, or is locked for ``wait_seconds``.
        sqlite3.DatabaseError: if it is no database, or a broken one.
    """
    connection = sqlite3.connect(path, timeout=wait_seconds, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        # A power cut may cost an index, which is made again; a killed process never does.
        connection.execute("PRAGMA synchronous = NORMAL")
        if _version(connection) != len(MIGRATIONS) or _application(connection) != APPLICATION_ID:
            _bring_up_to_date(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")  # several processes may find an old file at once: one of them migrates
    try:
        version, tables = _version(connection), connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if _application(connection) != APPLICATION_ID and (version or tables):
            raise ForeignIndexError("it is a database of another program")
        if version > len(MIGRATIONS):
            raise ForeignIndexError(f"it was written by a later musictrain (version {version}, this one knows {len(MIGRATIONS)})")
        for script in MIGRATIONS[version:]:
            for statement in script.split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _application(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA application_id").fetchone()[0])
