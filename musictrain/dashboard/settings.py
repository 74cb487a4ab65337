"""What a run was told and what it ran on, as lines of a table, and how it differs from the run it came from."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from musictrain.dashboard.event_reading import clean
from musictrain.runs.config_changes import config_changes
from musictrain.runs.folder import RunFolder
from musictrain.runs.labels import read_labels
from musictrain.runs.lineage import parents_of

LARGEST_FILE = 4 << 20
MOST_LINES = 2_000
MOST_LEAVES = 20_000
LONGEST_VALUE = 300


class Settings:
    """Configuration, environment, descent and labels of a run, read again only when one of the files has changed.

    So a file that cannot be understood is complained of once, not at every drawing: complaints are alerts on the page that is drawn.

    Args:
        run: whatever it lacks is left empty.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._seen: list[object] = []
        self._told: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """``settings``, ``environment`` and, since ``parent``, ``changes`` in lines of a table; ``parents``, ``tags``, ``note``."""
        now: list[object] = [_stamp(path) for path in (self.run.config, self.run.environment, self.run.lineage, self.run.labels)]
        if now != self._seen:
            self._told, self._seen = self._read(), now
        return self._told

    def _read(self) -> dict[str, Any]:
        config = _leaves(self.run)
        parents = parents_of(self.run)
        labels = read_labels(self.run)
        parent = next((named for each in parents if (named := sibling(self.run, each.run)) is not None), None)
        before = _leaves(parent) if parent is not None else {}
        changes = config_changes(before, config) if before and config else ()
        return {
            "tags": [clean(tag, 60) for tag in labels.tags[:50]],
            "note": clean(labels.note, 1000),
            "settings": _lines(config.items()),
            "num_settings": len(config),
            "environment": _lines(flattened(_readable(_read_json(self.run.environment)))),
            "parents": [clean(each.sentence(), 200) for each in parents[:20]],
            "parent": clean(parent.name, 200) if parent is not None and before else None,
            "changes": [[clean(key, LONGEST_VALUE), shown(was), shown(is_now)] for key, was, is_now in changes][:MOST_LINES],
        }


def _leaves(run: RunFolder) -> dict[str, Any]:
    # Aliases can make a small YAML file a tree of any size.
    return dict(itertools.islice(flattened(read_config(run.config)), MOST_LEAVES))


def sibling(run: RunFolder, name: str) -> RunFolder | None:
    """The run of that name beside this one; None if there is none. A name with a path in it names nobody."""
    if not name or Path(name).name != name or name in (".", ".."):
        return None
    other = RunFolder(run.path.parent / name)
    return other if other.config.is_file() else None


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a configuration with its dotted key; lists of plain values are leaves.

    >>> list(flattened({"a": {"b": 1, "c": [1, 2]}, "d": [{"e": 3}]}))
    [('a.b', 1), ('a.c', [1, 2]), ('d[0].e', 3)]
    """
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flattened(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for place, item in enumerate(value):
            yield from flattened(item, f"{path}[{place}]")
    elif path:
        yield path, value


def shown(value: Any) -> str:
    """A value as the configuration would say it, cut to a length that can be shown.

    >>> shown(None), shown(True), shown([1, "a"])
    ('null', 'true', '[1, "a"]')
    """
    return clean(value if isinstance(value, str) else json.dumps(value, default=str), LONGEST_VALUE)


def read_config(path: Path) -> Any:
    """The content of a ``config.yaml``; None if there is none that can be understood."""
    import yaml  # some 20 ms that a command which shows no settings need not wait for

    try:
        if path.stat().st_size > LARGEST_FILE:
            return None
        return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= LARGEST_FILE else None
    except (OSError, ValueError, RecursionError):
        return None


def _readable(environment: Any) -> Any:
    """The command as it was typed, and of a patch of uncommitted changes only its length."""
    if not isinstance(environment, dict):
        return None
    told = dict(environment)
    if isinstance(command := told.get("command"), list):
        told["command"] = " ".join(map(str, command))
    if isinstance(git := told.get("git"), dict):
        lines = len(str(git.get("diff") or "").splitlines())
        uncommitted = f"{lines:,} lines of changes, in env.json" if lines else "nothing"
        told["git"] = {**{key: value for key, value in git.items() if key != "diff"}, "uncommitted": uncommitted}
    return told


def _lines(pairs: Any) -> list[list[str]]:
    return [[clean(key, LONGEST_VALUE), shown(value)] for _, (key, value) in zip(range(MOST_LINES), pairs, strict=False)]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
