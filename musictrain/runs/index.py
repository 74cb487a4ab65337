"""The index over all runs: ``runs/index.sqlite``. Plain files are the truth; it can be deleted at any time.

Whoever looks refreshes it first: every run's files are compared by number, size and time with what was read last, and only what changed
is read again. A training process may bring its own run up to date with ``update_run``, but need not.

What if it fails: an index that is broken or somebody else's is set aside and made again, with a word in the log; where nothing can be
written, or another process holds the file for too long, the index lives in memory for as long as it is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from musictrain.runs.folder import RunFolder
from musictrain.runs.index_metrics import Extent
from musictrain.runs.index_reading import ReadConfig, changed_files, fingerprints, makes_a_run, metrics_bytes, read_facts
from musictrain.runs.index_schema import ForeignIndexError, connect
from musictrain.runs.index_sql import Answer, ask, ask_connection
from musictrain.runs.index_writing import extent_of_row, write_facts
from musictrain.runs.one_at_a_time import one_at_a_time
from musictrain.runs.status import ACTIVE, Status

log = logging.getLogger(__name__)

INDEX = "index.sqlite"
TRIES = 5
LOOKING_SECONDS = 3.0
UPDATING_SECONDS = 30.0
MANY = 200
MUCH = 50_000_000  # bytes of metrics: two seconds or more


class RunIndex:
    """An open index. Use it in a ``with``, by one thread.

    Args:
        runs_dir: the folder of all runs.
        read_config: reads a ``config.yaml``; without it, configurations are left for somebody who can.
        tell: is called with a sentence before something takes long.
        wait_seconds: how long to wait for a process that holds the file.
    """

    def __init__(
        self,
        runs_dir: str | Path,
        read_config: ReadConfig | None = None,
        *,
        tell: Callable[[str], None] | None = None,
        wait_seconds: float = LOOKING_SECONDS,
    ) -> None:
        self.runs_dir = Path(runs_dir).resolve()
        self._read_config, self._wait_seconds = read_config, wait_seconds
        self._tell = tell or log.info
        self.in_memory = False
        self._connection = self._open()

    @property
    def path(self) -> Path:
        """The file, which is not there if the index lives in memory."""
        return self.runs_dir / INDEX

    def __enter__(self) -> RunIndex:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    # Opening

    def _open(self) -> sqlite3.Connection:
        if not self.runs_dir.is_dir():
            return self._in_memory("there is no such folder", quiet=True)
        for _ in range(TRIES):
            inode = _inode(self.path)
            try:
                return connect(self.path, self._wait_seconds)
            except sqlite3.OperationalError as error:
                if not _is_broken(error):
                    return self._in_memory(str(error))
                self._set_aside(str(error), inode)
            except (sqlite3.DatabaseError, ForeignIndexError) as error:
                self._set_aside(str(error), inode)
        return self._in_memory("it is broken again and again")

    def _in_memory(self, why: str, *, quiet: bool = False) -> sqlite3.Connection:
        if not quiet:
            log.warning("The index %s cannot be used (%s): working from memory, which is slower.", self.path, why)
        self.in_memory = True
        memory = connect(":memory:")
        # What was indexed before, if it can still be read, need not be read again.
        with contextlib.suppress(sqlite3.Error, ValueError, OSError):
            source = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True, timeout=1)
            with contextlib.closing(source):
                version = source.execute("PRAGMA user_version").fetchone()[0]
                if version == memory.execute("PRAGMA user_version").fetchone()[0]:
                    source.backup(memory)
        return memory

    def _set_aside(self, why: str, inode: int) -> None:
        with contextlib.suppress(OSError, TimeoutError), one_at_a_time(self.path):
            if _inode(self.path) != inode or not inode:
                return  # somebody else has done it
            aside = self.path.with_name(f"{INDEX}.{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.aside")
            self.path.rename(aside)
            for ending in ("-journal", "-wal", "-shm"):
                self.path.with_name(INDEX + ending).unlink(missing_ok=True)
            log.warning("The index %s could not be used (%s). It was set aside as %s and is made again.", self.path, why, aside.name)

    # Refreshing

    def refresh(self, names: Iterable[str] | None = None) -> list[str]:
        """Read again what changed since the last time; gives back the names of the runs that did.

        Args:
            names: only these runs; all if left out, and those whose folders are gone are forgotten.
        """
        return self._tried(lambda: self._refresh(names))

    def _refresh(self, names: Iterable[str] | None) -> list[str]:
        known = self._known(names)
        folders = dict(run_folders(self.runs_dir, names))
        stale = [
            (name, prints)
            for name, prints in folders.items()
            if name not in known or changed_files(known[name], prints, with_config=self._read_config is not None)
        ]
        new_bytes = sum(metrics_bytes(prints) for name, prints in stale if name not in known)
        if len(stale) >= MANY or new_bytes >= MUCH:
            self._tell(f"Indexing {len(stale):,} run{'s' if len(stale) != 1 else ''}, once ...")
        for name, prints in stale:
            self._index(name, prints)
        gone = known.keys() - folders.keys()
        if gone:
            self._connection.executemany("DELETE FROM runs WHERE name = ?", [(name,) for name in gone])
        self._update_paths()
        self._update_states()
        return [name for name, _ in stale]

    def _known(self, names: Iterable[str] | None) -> dict[str, str]:
        if names is None:
            return {row["name"]: row["files"] for row in self._connection.execute("SELECT name, files FROM runs")}
        found = (self._row(name) for name in names)
        return {row["name"]: row["files"] for row in found if row}

    def _row(self, name: str) -> dict[str, Any]:
        row = self._connection.execute("SELECT * FROM runs WHERE name = ?", (name,)).fetchone()
        return {} if row is None else dict(row)

    def _index(self, name: str, prints: tuple[str, ...]) -> None:
        was = self._row(name)
        run = RunFolder(self.runs_dir / name)
        try:
            facts = read_facts(run, prints, was, lambda: self._extents(was), self._read_config)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("Run %r could not be read and is left out of the index: %s", name, error)
            return
        write_facts(self._connection, facts)

    def _extents(self, row: dict[str, Any]) -> dict[str, Extent]:
        rows = self._connection.execute("SELECT * FROM metric_values WHERE run_id = ?", (row.get("id", -1),))
        return {each["key"]: extent_of_row(each) for each in rows}

    def _update_paths(self) -> None:
        """A folder of runs may have been moved as a whole, with its index."""
        root = (f"{self.runs_dir}{os.sep}",)
        if self._connection.execute("SELECT 1 FROM runs WHERE path != ? || name LIMIT 1", root).fetchone():
            self._connection.execute("UPDATE runs SET path = ? || name", root)

    def _update_states(self) -> None:
        """Runs that say they go on may have died meanwhile: nobody wrote that down."""
        marks = ", ".join("?" * len(ACTIVE))
        rows = self._connection.execute(f"SELECT * FROM runs WHERE told_state IN ({marks}) OR state IS NOT told_state", ACTIVE).fetchall()
        changed = [(state, row["id"]) for row in rows if (state := shown_state(row)) != row["state"]]
        if changed:
            self._connection.executemany("UPDATE runs SET state = ? WHERE id = ?", changed)

    def rebuild(self) -> list[str]:
        """Forget everything and read every run again."""
        self._tried(lambda: self._connection.execute("DELETE FROM runs"))
        return self.refresh()

    # Trouble

    def _tried(self, act: Callable[[], Any]) -> Any:
        """What ``act`` gives back. A broken index is made again first; one that cannot be used is left for memory."""
        try:
            return act()
        except sqlite3.DatabaseError as error:
            if self.in_memory or not (_is_broken(error) or _is_unusable(error)):
                raise
            inode = _inode(self.path)
            self._connection.close()
            if _is_broken(error):
                self._set_aside(str(error), inode)
                self._connection = self._open()
            else:
                self._connection = self._in_memory(str(error))
            self._refresh(None)
            return act()

    # Looking

    def select(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query of ours, as dictionaries. (Other people's go through ``ask``.)"""
        rows: list[dict[str, Any]] = self._tried(lambda: [dict(row) for row in self._connection.execute(query, values)])
        return rows

    def ask(self, query: str) -> Answer:
        """The answer to somebody's query in SQL, which can only read.

        Raises:
            QueryError: if it cannot be answered.
        """
        return ask_connection(self._connection, query) if self.in_memory else ask(self.path, query)

    def holds(self, run: RunFolder) -> bool:
        """Whether a run lies in the folder of this index."""
        return run.path.parent.resolve() == self.runs_dir

    def children_of(self, name: str) -> list[dict[str, Any]]:
        """The runs that came from one: ``run``, ``relation``, ``version`` and ``step``."""
        return self.select("SELECT run, relation, version, step FROM lineage WHERE parent = ? ORDER BY run", (name,))


def run_folders(runs_dir: Path, names: Iterable[str] | None = None) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and fingerprints of every run, or of those of them that are there."""
    for name in _folder_names(runs_dir) if names is None else names:
        prints = fingerprints(os.path.join(runs_dir, name))  # noqa: PTH118  (two thousand of them have to be quick)
        if makes_a_run(prints):
            yield name, prints


def _folder_names(runs_dir: Path) -> list[str]:
    try:
        with os.scandir(runs_dir) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []
    return [name for name in names if _is_text(name)]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        log.warning("The folder %r has a name that is no text and is left out of the index.", name)
        return False
    return True


def shown_state(row: Any) -> str:
    """The state of a run by its row in the index: ``stale`` if it says that it goes on and does not."""
    status = Status(
        name=row["name"],
        state=row["told_state"] or "",
        updated=row["updated"] or 0.0,
        pid=row["pid"] or 0,
        host=row["host"] or "",
        process_started=row["process_started"] or "",
    )
    return status.shown_state()


def update_run(runs_dir: str | Path, run: str | Path | RunFolder, read_config: ReadConfig | None = None) -> bool:
    """Bring one run up to date in the index, from any process and thread but the training's own; whether that was possible.

    Nothing is raised: what fails is logged, and the next who looks reads the run's files.
    """
    try:
        name = run.name if isinstance(run, RunFolder) else Path(run).name
        with RunIndex(runs_dir, read_config, wait_seconds=UPDATING_SECONDS) as index:
            index.refresh([name])
            return not index.in_memory
    except Exception as error:
        log.warning("The run could not be brought up to date in the index, which does it no harm: %s", error)
        return False


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _is_broken(error: sqlite3.Error | ForeignIndexError) -> bool:
    """Whether the file is no index, or not any more."""
    lost = "no such table" in str(error) or "no such column" in str(error)
    return lost or _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_unusable(error: sqlite3.Error) -> bool:
    """Whether the file is held by somebody, or lies where nothing can be read or written."""
    return _code(error) in _UNUSABLE


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


_UNUSABLE = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS),
}
