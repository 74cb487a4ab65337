"""What of a protocol was begun and done: ``state.json`` in its folder, whole and on the disk before what it announces happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from musictrain.runs.atomic import atomic_write
from musictrain.runs.records import plain
from musictrain.stages.protocol import ProtocolError

SCHEMA = 1
BEGUN, FINISHED, STOPPED = "begun", "finished", "stopped"
STATES = (BEGUN, FINISHED, STOPPED)


@dataclass(frozen=True)
class Record:
    """A stage that has begun.

    Args:
        stage: its name.
        run: name of its run's folder, which stands beside the protocol's.
        told: its configuration and hand-over, as the protocol said them when it began.
        state: ``begun`` until it is ``finished``, or ``stopped`` by a guard.
        began, ended: seconds since 1970.
        started_from: ``RUN@VERSION``, empty for nothing.
        references: what ``stage:...`` in its configuration stands for, by the text.
        reason: why a guard stopped it.
    """

    stage: str
    run: str
    told: Mapping[str, Any] = field(default_factory=dict)
    state: str = BEGUN
    began: float = 0.0
    ended: float | None = None
    started_from: str = ""
    references: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class State:
    """All stages that have begun, in their order, and those that others have replaced.

    Args:
        records: of the stages as they stand.
        replaced: of those that ``--from`` has begun anew, oldest first.
        anew_from: the stage that the last ``--from`` named; empty if there was none.
        checked: fingerprint of the configurations that ``fit`` has been asked whether it can read them.
    """

    records: tuple[Record, ...] = ()
    replaced: tuple[Record, ...] = ()
    anew_from: str = ""
    checked: str = ""

    def record(self, stage: str) -> Record | None:
        """That of a stage, None if it has not begun."""
        return next((each for each in self.records if each.stage == stage), None)

    def with_record(self, record: Record) -> State:
        """The state with this record in the place of its stage's, or behind all others."""
        if self.record(record.stage) is None:
            return replace(self, records=(*self.records, record))
        return replace(self, records=tuple(record if each.stage == record.stage else each for each in self.records))


def read_state(path: Path) -> State:
    """What was written; nothing has begun where there is no file.

    Raises:
        ProtocolError: if it cannot be understood. Nothing is ever begun anew for that.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return State()
    except (OSError, ValueError) as error:
        raise ProtocolError(
            f"{path} cannot be read, so nobody knows what was done: {error}. Bring it back, or use another name."
        ) from error
    try:
        if told["schema"] != SCHEMA:
            raise ProtocolError(f"{path} was written by another version of musictrain (schema {told['schema']}, here {SCHEMA}).")
        records, replaced = (tuple(map(_record, told[key])) for key in ("records", "replaced"))
        return State(records, replaced, str(told["anew_from"]), str(told.get("checked", "")))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ProtocolError):
            raise
        raise ProtocolError(f"{path} is not the state of a protocol: {type(error).__name__}: {error}.") from error


def _record(told: Mapping[str, Any]) -> Record:
    record = Record(**{key: value for key, value in told.items() if key in {each.name for each in fields(Record)}})
    if record.state not in STATES:
        raise ValueError(f"a stage is {record.state!r}")
    return record


def write_state(path: Path, state: State) -> None:
    """Write it so that a kill or a power cut leaves the old one or the new one.

    Raises:
        OSError: if it cannot be written.
    """
    told = {"schema": SCHEMA, **asdict(state)}
    atomic_write(path, json.dumps(plain(told), indent=1) + "\n", durable=True)
