"""``rollbacks.jsonl``: how often a run has gone back to an earlier version, why, and which batches it has passed over since.

Two records of each. The first is durable before anything else happens: from then on the run has gone back, whatever kills it. The second,
which bears the same ``number``, says that what lay beyond the version was set aside, so that all versions are of the new branch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from musictrain.runs.atomic import sync_folder
from musictrain.runs.records import Records, read_records

FILE_NAME = "rollbacks.jsonl"


@dataclass(frozen=True)
class Rollback:
    """One going back.

    Args:
        number: counts those of the run, from 1.
        step: optimizer steps done when it was asked for.
        trusted: no version of more steps than these is gone back to.
        version: name of the version, such as ``v000003_step000080``.
        to: optimizer steps of that version.
        reason: why, in a sentence.
        first, last: numbers of the batches that are passed over from now on; None if none are.
        batch_size: rows of such a batch, None if unknown.
        kind: of what was wrong, in a word, by which people count.
        settled: whether everything beyond the version was set aside.
    """

    number: int
    step: int
    trusted: int
    version: str
    to: int
    reason: str = ""
    first: int | None = None
    last: int | None = None
    batch_size: int | None = None
    kind: str = ""
    settled: bool = False

    @property
    def passed_over(self) -> str:
        """The batches in words, empty if there are none.

        >>> Rollback(1, 90, 80, "v000003_step000080", 80, first=88, last=89).passed_over
        'batches 88 to 89'
        """
        if self.first is None or self.last is None:
            return ""
        return f"batch {self.first:,}" if self.first == self.last else f"batches {self.first:,} to {self.last:,}"

    def sentence(self) -> str:
        """From where to where, what is passed over, and why.

        >>> Rollback(1, 90, 80, "v000003_step000080", 80, "The loss is nan.", 88, 89).sentence()
        'Rolled back from step 90 to step 80, passing over batches 88 to 89. The loss is nan.'
        """
        over = f", passing over {self.passed_over}" if self.passed_over else ""
        return f"Rolled back from step {self.step:,} to step {self.to:,}{over}. {self.reason}".rstrip()

    def as_event(self) -> dict[str, Any]:
        """What ``events.jsonl`` says of it."""
        facts = {"number": self.number, "step": self.step, "to": self.to, "version": self.version, "passed_over": self.passed_over}
        return {"time": round(time.time(), 3), "event": "rolled_back", **facts, "reason": self.reason, "kind": self.kind}


class RolledBack(Exception):  # noqa: N818  (nothing has gone wrong in the program)
    """Ends a fit whose state is spoiled: nobody saves it. Whoever called fit goes on from the version that is named.

    Args:
        rollback: what was decided, the same in every process.
    """

    def __init__(self, rollback: Rollback) -> None:
        super().__init__(f"{rollback.sentence()} Go on with ckpt_path='last', or with musictrain resume.")
        self.rollback = rollback

    def __reduce__(self) -> tuple[type, tuple[Rollback]]:
        return type(self), (self.rollback,)


def read_rollbacks(path: str | Path) -> list[Rollback]:
    """All of a run, oldest first; none if the file is missing. What cannot be understood is passed over."""
    found: dict[int, Rollback] = {}
    for record in read_records(path):
        number = record.get("number")
        if record.get("settled") and number in found:
            to = {key: record[key] for key in ("version", "to") if key in record}
            found[number] = replace(found[number], settled=True, **to)
        elif (asked := _asked(record)) is not None:
            found[asked.number] = asked
    return [found[number] for number in sorted(found)]


def _asked(record: Mapping[str, Any]) -> Rollback | None:
    known = {each.name for each in fields(Rollback)}
    try:
        return Rollback(**{key: value for key, value in record.items() if key in known})
    except TypeError:
        return None


def ask(path: str | Path, rollback: Rollback) -> None:
    """Write down that the run goes back; it is durable when this returns.

    Raises:
        OSError: if the disk does not take it; then nothing is decided.
    """
    _write(Path(path), {"time": round(time.time(), 3), **asdict(rollback)})


def settle(path: str | Path, rollback: Rollback) -> None:
    """Write down that everything beyond the version was set aside; durable as well.

    Raises:
        OSError: if the disk does not take it; it will be looked at again.
    """
    facts = {"number": rollback.number, "settled": True, "version": rollback.version, "to": rollback.to}
    _write(Path(path), {"time": round(time.time(), 3), **facts})


def _write(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = Records(path)
    try:
        file.append(record)
        if not file.sync():
            raise OSError(f"{path} could not be made durable.")
    finally:
        file.close()
    sync_folder(path.parent)
