"""What is to be done next, by what the protocol says, what the state knows, and what a stage's run has come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from musictrain.runs.config_changes import ELSEWHERE, config_changes
from musictrain.runs.records import plain
from musictrain.stages.protocol import Protocol, ProtocolError, Stage
from musictrain.stages.resolving import Resolved
from musictrain.stages.state import FINISHED, STOPPED, Record, State

MOST_KEYS = 6


@dataclass(frozen=True)
class Seen:
    """What the folder of a stage's run tells.

    Args:
        resumable: whether it holds a version to go on from.
        done: whether it says that it has ended by itself, and its last version is there.
        by_guard: whether a guard has ended it.
        reason: why it ended before its time.
    """

    resumable: bool = False
    done: bool = False
    by_guard: bool = False
    reason: str = ""


def next_stage(protocol: Protocol, state: State) -> Stage | None:
    """The first stage that is not done; None if all are.

    A stage that a guard has stopped is done if it goes on all the same, and the end of it all otherwise: see ``stopped_at``.
    """
    for stage in protocol.stages:
        record = state.record(stage.name)
        if record is None or not is_done(stage, record):
            return stage
    return None


def is_done(stage: Stage, record: Record) -> bool:
    """Whether nothing is left to do for it."""
    return record.state == FINISHED or (record.state == STOPPED and stage.go_on)


def stopped_at(protocol: Protocol, state: State) -> Record | None:
    """The stage that a guard has stopped, and the protocol with it; None if there is none."""
    stage = next_stage(protocol, state)
    record = None if stage is None else state.record(stage.name)
    return record if record is not None and record.state == STOPPED else None


def what_to_do(seen: Seen) -> str:
    """``note`` the end of a stage that has ended unseen, ``resume`` one that can be gone on with, or ``begin`` in its folder."""
    return "note" if seen.done else "resume" if seen.resumable else "begin"


def ended(record: Record, now: float, *, by_guard: bool, reason: str = "") -> Record:
    """The record of a stage that has ended by itself."""
    return replace(record, state=STOPPED if by_guard else FINISHED, ended=now, reason=reason if by_guard else "")


def anew(state: State, protocol: Protocol, start: str) -> State:
    """The state in which a stage and all after it are to begin anew; their records are kept as replaced.

    The same demand a second time changes nothing while what the first one began is not done: it goes on with that, since beginning anew
    once more would come to the same bits. It does begin anew where nothing is left to do.

    Raises:
        ProtocolError: if there is no such stage, or one before it has not been done.
    """
    names = [stage.name for stage in protocol.stages]
    place = names.index(protocol.stage(start).name)
    for stage in protocol.stages[:place]:
        record = state.record(stage.name)
        if record is None or not is_done(stage, record):
            raise ProtocolError(f"--from {start}: stage {stage.name!r} before it is not done yet. Leave --from out, and it goes on there.")
    later = [each for each in state.records if each.stage not in names[:place]]
    if not later or (state.anew_from == start and next_stage(protocol, state) is not None):
        return replace(state, anew_from=start)
    kept = tuple(each for each in state.records if each.stage in names[:place])
    return replace(state, records=kept, replaced=(*state.replaced, *later), anew_from=start)


def begun_anew(protocol: Protocol, stages: Mapping[str, Resolved], state: State, start: str) -> State:
    """Like ``anew``; and what the first demand began does begin anew once more if its configuration has changed since.

    Raises:
        ProtocolError: if the stage cannot begin anew, or one before it has changed.
    """
    found = anew(state, protocol, start)
    try:
        check_unchanged(protocol, stages, found)
    except ProtocolError:
        found = anew(replace(state, anew_from=""), protocol, start)
        check_unchanged(protocol, stages, found)
    return found


def check_unchanged(protocol: Protocol, stages: Mapping[str, Resolved], state: State) -> None:
    """Refuse another order, or another configuration, of stages that have begun.

    Raises:
        ProtocolError: naming the keys that have changed, and how to go on.
    """
    names, begun = [stage.name for stage in protocol.stages], [record.stage for record in state.records]
    for place, name in enumerate(begun):
        if names[place : place + 1] != [name]:
            now = f"{names[place]!r} stands there now" if place < len(names) else "it is gone"
            begin = f"To begin anew from there: --from {names[place]}." if place < len(names) else "Put it back, or use another name."
            raise ProtocolError(f"Stage {place + 1} has begun as {name!r}, and {now}. Stages that have begun keep their places. {begin}")
    for record in state.records:
        if changes := list(changed_keys(record.told, stages[record.stage].told())):
            raise ProtocolError(_refusal(record, changes))


def changed_keys(was: Any, now: Any) -> Iterable[tuple[str, Any, Any]]:
    """Every key in which two configurations train something else."""
    for key, then, since in config_changes(plain(was), plain(now)):
        if not f"{key}.".startswith(tuple(f"{each}." for each in ELSEWHERE)):
            yield key, then, since


def _refusal(record: Record, changes: list[tuple[str, Any, Any]]) -> str:
    shown = "; ".join(f"{key} was {then!r}, is {since!r}" for key, then, since in changes[:MOST_KEYS])
    more = f"; and {len(changes) - MOST_KEYS} more" if len(changes) > MOST_KEYS else ""
    done = "is done" if record.ended is not None else "has begun"
    return (
        f"Stage {record.stage!r} {done}, and its configuration has changed since: {shown}{more}. Put that back to go on; or begin anew "
        f"with --from {record.stage} (its run {record.run} stays); or use another --name."
    )
