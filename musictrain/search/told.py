"""Whether page, table and best configuration of a search that is over tell all that its records hold, so that nobody makes them again.

A search of many trials takes seconds to weigh and to draw. Whoever has done all of it says so last, with what the records were like; who
begins a round takes it back. So it never stands for a page that a killed driver has left.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from musictrain.runs.atomic import atomic_write
from musictrain.search.folder import SearchFolder

SCHEMA = 1  # another one where page, table or best configuration come to look otherwise


def is_told(folder: SearchFolder) -> bool:
    """Whether everything is there that was told last, and tells of the records as they are."""
    try:
        said = json.loads(folder.told.read_text(encoding="utf-8"))
        return bool(said["records"] == _records(folder)) and all((folder.path / name).is_file() for name in said["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def mark_told(folder: SearchFolder) -> None:
    """Say that everything has been told.

    Raises:
        OSError: if it cannot be written.
    """
    files = [path.name for path in (folder.page, folder.page_data, folder.results, folder.best) if path.is_file()]
    atomic_write(folder.told, json.dumps({"records": _records(folder), "files": files}), durable=False)


def unmark_told(folder: SearchFolder) -> None:
    """Take it back.

    Raises:
        OSError: if it cannot be removed.
    """
    folder.told.unlink(missing_ok=True)


def _records(folder: SearchFolder) -> dict[str, Any]:
    found = folder.trials.stat()
    definition = hashlib.sha256(folder.definition.read_bytes()).hexdigest()
    return {"schema": SCHEMA, "size": found.st_size, "changed": found.st_mtime_ns, "definition": definition}
