"""What the index keeps of one run, read from its folder: each file only if it changed since the last time."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from musictrain.runs.config_changes import config_fingerprint
from musictrain.runs.folder import BEST_METRIC, RunFolder, number
from musictrain.runs.index_metrics import Extent, Place, read_extents
from musictrain.runs.labels import read_labels
from musictrain.runs.lineage import Parent, parents_of
from musictrain.runs.records import read_records
from musictrain.runs.status import ENDED, Status, read_status

ReadConfig = Callable[[Path], Any]
"""Reads a ``config.yaml``. Handed in: YAML is not in the standard library."""

FILES = ("status.json", "metrics.jsonl", "events.jsonl", "labels.json", "lineage.json", "config.yaml", "env.json")
OF_STANDING = {"status.json", "metrics.jsonl", "events.jsonl"}
THAT_MAKE_A_RUN = {"config.yaml", "env.json", "metrics.jsonl"}
MISSING = "-"
STATE_AFTER = {state: state for state in ENDED}
LARGEST = 2**63 - 1
MOST_LEAVES = 20_000


@dataclass
class RunFacts:
    """All that the index keeps of a run: the columns of its row, and the rows of the other tables (None: as they were)."""

    columns: dict[str, Any]
    extents: dict[str, Extent] | None = None
    config: dict[str, Any] | None = None
    tags: tuple[str, ...] | None = None
    parents: list[Parent] | None = None
    read: set[str] = field(default_factory=set)


def fingerprints(folder: str) -> tuple[str, ...]:
    """Number, size and time of each file of a run, in the order of ``FILES``; ``-`` for what is missing."""
    return tuple(_fingerprint(f"{folder}{os.sep}{name}") for name in FILES)


def _fingerprint(path: str) -> str:
    try:
        # By number too: two files that replace one another within a tick of the clock may be of one size.
        told = os.stat(path)  # noqa: PTH116  (fourteen thousand of them have to be quick)
    except OSError:
        return MISSING
    return f"{told.st_ino:x}.{told.st_size:x}.{told.st_mtime_ns:x}"


def makes_a_run(prints: tuple[str, ...]) -> bool:
    """Whether a folder with these files is a run: ``RunFolder.is_run`` without looking again."""
    return any(each != MISSING for name, each in zip(FILES, prints, strict=True) if name in THAT_MAKE_A_RUN)


def metrics_bytes(prints: tuple[str, ...]) -> int:
    """How large the metrics file with this fingerprint is."""
    told = prints[FILES.index("metrics.jsonl")]
    return 0 if told == MISSING else int(told.split(".")[1], 16)


def changed_files(was: str, now: tuple[str, ...], *, with_config: bool) -> set[str]:
    """The names of the files that are not as they were. Without a way to read configurations, theirs is passed over."""
    before = was.split(";") if was else [""] * len(FILES)
    changed = {name for name, then, print_ in zip(FILES, before, now, strict=True) if then != print_}
    return changed if with_config else changed - {"config.yaml"}


def read_facts(
    run: RunFolder,
    prints: tuple[str, ...],
    was: Mapping[str, Any],
    extents: Callable[[], dict[str, Extent]],
    read_config: ReadConfig | None,
) -> RunFacts:
    """Read again what changed.

    Args:
        run: the run.
        prints: its ``fingerprints``, taken before anything is read, so that what changes meanwhile is read again next time.
        was: the run's row in the index, empty if it has none.
        extents: gives what the index keeps of its metrics.
        read_config: None to leave the configuration for somebody who can read it.
    """
    changed = changed_files(was.get("files", ""), prints, with_config=read_config is not None)
    kept = (was.get("files") or ";".join([""] * len(FILES))).split(";")
    files = [now if name in changed else then for name, then, now in zip(FILES, kept, prints, strict=True)]
    facts = RunFacts({"name": run.name, "path": str(run.path), "files": ";".join(files)}, read=changed)
    if "metrics.jsonl" in changed:
        _read_metrics(facts, run, was, extents)
    if changed & OF_STANDING:
        facts.columns.update(_standing(run, facts.extents if facts.extents is not None else extents()))
    if "labels.json" in changed:
        labels = read_labels(run)
        facts.tags = labels.tags
        facts.columns.update(tags=", ".join(labels.tags), note=labels.note, archived=int(labels.archived))
    if "lineage.json" in changed:
        facts.parents = parents_of(run)
    if "config.yaml" in changed and read_config is not None:
        _read_config(facts, run, read_config)
    if "env.json" in changed:
        facts.columns["parameters"] = _whole(_json(run.environment).get("parameters"))
    return facts


def _read_metrics(facts: RunFacts, run: RunFolder, was: Mapping[str, Any], extents: Callable[[], dict[str, Extent]]) -> None:
    if not run.metrics.exists():
        facts.extents = {}
        facts.columns.update(metrics_offset=0, metrics_before=b"")
        return
    place = Place(was.get("metrics_offset") or 0, was.get("metrics_before") or b"")
    facts.extents, place = read_extents(run.metrics, extents() if place.offset else {}, place)
    facts.columns.update(metrics_offset=place.offset, metrics_before=place.before)


def _standing(run: RunFolder, extents: Mapping[str, Extent]) -> dict[str, Any]:
    """Columns of the run's state: by its own words, or, of a run without ``status.json``, by its events."""
    status = read_status(run.status) or status_by_events(run, extents)
    best = _best(status, extents)
    return {
        "told_state": str(status.state),
        **{key: _whole(getattr(status, key)) for key in ("step", "total", "epoch", "attempt", "pid", "world_size", "num_alerts")},
        **{key: _finite(getattr(status, key)) for key in ("updated", "ended", "elapsed_seconds", "left_seconds", "tokens_per_second")},
        **{key: str(getattr(status, key) or "") for key in ("host", "process_started", "reason", "advice")},
        "created": _finite(status.first_started) or started_by_name(run.name) or _finite(status.updated),
        "last_alert": json.dumps(status.last_alert) if status.last_alert else None,
        **dict(zip(("best_metric", "best_value", "best_step"), best, strict=True)),
    }


def _best(status: Status, extents: Mapping[str, Extent]) -> tuple[str, float | None, int | None]:
    told = status.best if isinstance(status.best, dict) else {}
    if told.get("metric") and math.isfinite(number(told.get("value"))):
        return str(told["metric"]), number(told["value"]), _whole(told.get("step"))
    extent = extents.get(BEST_METRIC)
    return (BEST_METRIC, extent.lowest, extent.lowest_step) if extent is not None else (BEST_METRIC, None, None)


def status_by_events(run: RunFolder, extents: Mapping[str, Extent]) -> Status:
    """The status of a run that wrote none: its last event says how it ended, its files when it was last heard of."""
    events = [event for event in read_records(run.events) if isinstance(event.get("event"), str)]
    starts = [event for event in events if event["event"] in ("started", "resumed")]
    turns = [event for event in events if event["event"] in ("started", "resumed", *STATE_AFTER)]
    state = STATE_AFTER.get(turns[-1]["event"], "training") if turns else "training"
    heard = max((path.stat().st_mtime for path in (run.metrics, run.events, run.environment, run.config) if path.exists()), default=0.0)
    first, ended = (number(turns[0].get("time")), number(turns[-1].get("time"))) if turns else (math.nan, math.nan)
    return Status(
        name=run.name,
        state=state,
        step=max((extent.last_step for extent in extents.values()), default=0) if state == "training" else _last_step(turns[-1], extents),
        attempt=max(len(starts), 1),
        first_started=first if math.isfinite(first) else 0.0,
        updated=heard,
        ended=None if state == "training" else ended,
        elapsed_seconds=_between(turns),
        reason=str(turns[-1].get("reason") or "") if turns else "",
    )


def _last_step(event: Mapping[str, Any], extents: Mapping[str, Extent]) -> int:
    return _whole(event.get("step")) or max((extent.last_step for extent in extents.values()), default=0)


def _between(turns: list[dict[str, Any]]) -> float:
    """Seconds between each start and the end that followed."""
    seconds, since = 0.0, math.nan
    for turn in turns:
        time = number(turn.get("time"))
        if turn["event"] not in STATE_AFTER:
            since = time
        elif math.isfinite(time - since):
            seconds, since = seconds + time - since, math.nan
    return seconds


def started_by_name(name: str) -> float | None:
    """When a run was started, by the stamp its name begins with, in local time."""
    stamp = re.match(r"\d{4}-\d{2}-\d{2}_\d{6}", name)
    try:
        return datetime.strptime(stamp.group(), "%Y-%m-%d_%H%M%S").timestamp() if stamp else None
    except (ValueError, OverflowError, OSError):
        return None


def _read_config(facts: RunFacts, run: RunFolder, read_config: ReadConfig) -> None:
    try:
        config = read_config(run.config) if run.config.exists() else {}
    except Exception:  # whatever a YAML reader raises: a run with a broken configuration is a run all the same
        config = {}
    # Aliases can make a small YAML file a tree of any size.
    facts.config = dict(itertools.islice(config_leaves(config), MOST_LEAVES))
    facts.columns.update(
        config_fingerprint=config_fingerprint(config) if 0 < len(facts.config) < MOST_LEAVES else None,
        model=_class_of(facts.config, "model.init_args.network") or _class_of(facts.config, "model"),
        corpus=facts.config.get("data.init_args.corpus") or facts.config.get("data.corpus"),
        tokenizer=_class_of(facts.config, "data.init_args.tokenizer"),
    )
    facts.columns["corpus"] = None if facts.columns["corpus"] is None else str(facts.columns["corpus"])


def _class_of(leaves: Mapping[str, Any], key: str) -> str | None:
    path = leaves.get(f"{key}.class_path")
    return str(path).rpartition(".")[2] if path else None


def config_leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf. An entry of a list goes by its class, or else its number; lists of plain values are one text.

    >>> dict(config_leaves({"a": {"b": 1, "c": [1, 2]}, "d": [{"class_path": "x.Ema", "init_args": {"decay": 0.9}}]}))
    {'a.b': 1, 'a.c': '[1, 2]', 'd.Ema.class_path': 'x.Ema', 'd.Ema.init_args.decay': 0.9}
    """
    if isinstance(config, dict) and config:
        for key, value in config.items():
            yield from config_leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(config, list) and any(isinstance(item, dict | list) for item in config):
        taken: set[str] = set()
        for position, item in enumerate(config):
            name = str(item.get("class_path", position)).rpartition(".")[2] if isinstance(item, dict) else str(position)
            name = f"{name}.{position}" if name in taken else name
            taken.add(name)
            yield from config_leaves(item, f"{path}.{name}")
    elif path:
        is_plain = isinstance(config, str | int | float | None) and not isinstance(config, bool)  # SQLite has no true, only 1
        yield path, config if is_plain else json.dumps(config, default=str)


def _json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _whole(value: Any) -> int | None:
    finite = _finite(value)
    return None if finite is None or abs(finite) >= LARGEST else int(finite)


def _finite(value: Any) -> float | None:
    told = number(value)
    return told if math.isfinite(told) else None
