"""The index over all runs: ``runs/index.sqlite``. Plain files are the truth; it can be deleted at any time.

Whoever looks refreshes it first: every run's files are compared by number, size and time with what was read last, and only what changed
is read again. A training process may bring its own run up to date with ``update_run``, but need not.

What if it fails: an index that is broken or somebody else's is set aside and made again, with a word in the log; where nothing can be
written, or another process holds the file for too long, the index lives in memory for as long as it is needed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from musictrain.runs.folder import RunFolder
from musictrain.runs.index_metrics import Extent
from musictrain.runs.index_opening import INDEX, copied_into_memory, inode_of, is_broken, is_unusable, open_index, set_aside
from musictrain.runs.index_reading import ReadConfig, RunFacts, changed_files, fingerprints, makes_a_run, metrics_bytes, read_facts
from musictrain.runs.index_sql import Answer, ask, ask_connection
from musictrain.runs.index_writing import extent_of_row, write_facts
from musictrain.runs.status import ACTIVE, Status

log = logging.getLogger(__name__)

LOOKING_SECONDS = 3.0
UPDATING_SECONDS = 30.0
MANY = 200
MOST_AT_ONCE = 50
MOST_TIMES_OVERTAKEN = 10
LONGEST_UNWRITTEN_SECONDS = 1.0
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
        self._connection, self.in_memory = open_index(self.path, wait_seconds)

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
        stale = self._stale(known, folders)
        new_bytes = sum(metrics_bytes(prints) for name, prints in stale if name not in known)
        if len(stale) >= MANY or new_bytes >= MUCH:
            self._tell(f"Indexing {len(stale):,} run{'s' if len(stale) != 1 else ''}, once ...")
        overtaken = self._index(stale)
        for _ in range(MOST_TIMES_OVERTAKEN if overtaken else 0):
            overtaken = self._index(self._stale(self._known(overtaken), dict(run_folders(self.runs_dir, overtaken))))
        gone = known.keys() - folders.keys()
        if gone:
            self._connection.executemany("DELETE FROM runs WHERE name = ?", [(name,) for name in gone])
        self._update_paths()
        self._update_states()
        return [name for name, _ in stale]

    def _stale(self, known: Mapping[str, str], folders: Mapping[str, tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
        with_config = self._read_config is not None
        every = folders.items()
        return [
            (name, prints) for name, prints in every if name not in known or changed_files(known[name], prints, with_config=with_config)
        ]

    def _known(self, names: Iterable[str] | None) -> dict[str, str]:
        if names is None:
            return {row["name"]: row["files"] for row in self._connection.execute("SELECT name, files FROM runs")}
        found = (self._row(name) for name in names)
        return {row["name"]: row["files"] for row in found if row}

    def _row(self, name: str) -> dict[str, Any]:
        row = self._connection.execute("SELECT * FROM runs WHERE name = ?", (name,)).fetchone()
        return {} if row is None else dict(row)

    def _index(self, stale: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
        """Read these runs again; gives back those that another process has written in the meantime."""
        # Several runs a transaction, since each waits for the disk; but soon, so that what was read is not lost with this process.
        read: list[tuple[RunFacts, str | None]] = []
        began, overtaken = time.monotonic(), []
        for name, prints in stale:
            if (facts := self._read(name, prints)) is not None:
                read.append(facts)
            if len(read) >= MOST_AT_ONCE or time.monotonic() - began > LONGEST_UNWRITTEN_SECONDS:
                overtaken += write_facts(self._connection, read)
                read, began = [], time.monotonic()
        return overtaken + write_facts(self._connection, read)

    def _read(self, name: str, prints: tuple[str, ...]) -> tuple[RunFacts, str | None] | None:
        was = self._row(name)
        run = RunFolder(self.runs_dir / name)
        try:
            return read_facts(run, prints, was, lambda: self._extents(was), self._read_config), was.get("files")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("Run %r could not be read and is left out of the index: %s", name, error)
            return None

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
            if self.in_memory or not (is_broken(error) or is_unusable(error)):
                raise
            inode = inode_of(self.path)
            self._connection.close()
            if is_broken(error):
                set_aside(self.path, str(error), inode)
                self._connection, self.in_memory = open_index(self.path, self._wait_seconds)
            else:
                self._connection, self.in_memory = copied_into_memory(self.path, str(error)), True
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

    def searches(self) -> dict[int, str]:
        """The search that each trial was made by, by the number of the trial's row; not those that have taken it since."""
        found: dict[int, str] = {}
        for row in self.select("SELECT run_id, parent FROM run_parents WHERE relation = 'trial of' ORDER BY rowid"):
            found.setdefault(row["run_id"], row["parent"])
        return found

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
