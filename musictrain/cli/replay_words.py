"""What is said of a replayed step: which batches, how it compares with what the run recorded, and what limits the comparison."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from musictrain.checkpoints.circumstances import circumstances_of
from musictrain.dashboard.event_reading import ACTIONS
from musictrain.replay.found import Replayed
from musictrain.replay.scores import changes_since, jump_of
from musictrain.replay.writing import Told
from musictrain.runs.status import read_status

if TYPE_CHECKING:
    from musictrain.cli.replay_trainer import ReplayCLI
    from musictrain.cli.replaying import Replaying


def intro(of: Replaying, cli: ReplayCLI, told: Told, batches: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The step, its batches, its loss, and how that compares."""
    numbers = ", ".join(f"{int(batch['number']):,}" for batch in batches)
    yield f"{of.run.name}, step {of.step:,}: {'batch' if len(batches) == 1 else 'batches'} {numbers}, {len(told.rows)} rows"
    if told.result is None:
        return
    result = told.result
    yield f"loss {result.loss:.6f} nats per token, gradient norm {result.gradient_norm:.4f} before clipping"
    if not result.optimizer_stepped:
        yield "The update was skipped: there was no gradient to step with."
    yield from comparison(of, told)
    yield from jump(of, result)
    yield from alerts(of, told)


def comparison(of: Replaying, told: Told) -> Iterator[str]:
    """The line of the records that holds the step, beside the same line of the replay."""
    line, loss = of.recorded.line, next(iter(told.compared), None)
    if line is None:
        who = "The run" if of.attempt.number == of.attempts[-1].number else f"Attempt {of.attempt.number}"
        yield f"{who} has written no line at or after this step, so there is no recorded loss to compare with."
    elif loss is None:
        yield f"The line of step {line:,} was not reached, and nothing is compared with it."
    else:
        mean = f", the mean of steps {of.recorded.since:,} to {line:,}" if of.recorded.since < line else ""
        same = (
            "the replay's is equal to the bit"
            if loss.equal
            else f"the replay's is {loss.replayed!r}, {abs(loss.replayed - loss.recorded):.2g} off"
        )
        yield f"The run recorded {loss.key} {loss.recorded!r} at step {line:,}{mean}: {same}."


def jump(of: Replaying, result: Replayed) -> Iterator[str]:
    """At which of the steps that were done again the loss rose as it usually does not."""
    if (found := jump_of(result.traces)) is not None:
        where = "here" if found.step == of.step else f"at step {found.step:,}"
        yield f"The loss jumped {where}, from {found.before:.4f} to {found.after:.4f} nats per token."


def alerts(of: Replaying, told: Told) -> Iterator[str]:
    """What the run said of the step, the loss that it said it of, and what it did."""
    for event in told.said:
        loss = event.get("loss")
        again = f" It was said of a loss of {loss:.6f}." if isinstance(loss, float) else ""
        if event["event"] in ACTIONS:
            yield f"What the run did: {ACTIONS[event['event']](event)}."
        else:
            yield f"The run said: {event.get('message') or event.get('reason') or event['event']}{again}"


def advice(of: Replaying, cli: ReplayCLI, told: Told) -> Iterator[str]:
    """What is not as it was, and what follows from it."""
    if cli.left_out:
        yield f"Left out, since it is not known whether they change training: {', '.join(cli.left_out)}. --keep NAME wakes one."
    if told.result is None:
        return
    changed = changes_since(of.then, circumstances_of(cli.trainer, None))
    status = read_status(of.run.status)
    if status is not None and status.host and status.host != socket.gethostname():
        changed.append("another machine")
    if changed:
        yield f"Not as when the run did it: {'; '.join(changed)}."
    processes = int(of.then.get("world_size") or 1)
    if processes > 1:
        yield (
            f"The run used {processes} processes. Here one works on the rows of all of them: the same music and the same mean, added "
            "up in another order, so that the last bits differ; dropout's masks are others."
        )
        if of.recorded.line is not None and of.recorded.since <= of.began_at:
            yield "Of the line's first steps the version knows the share of one process alone."
    if of.goes_on:
        yield "The run is still training; it was only read."
    if told.compared and not all(each.equal for each in told.compared) and not changed and processes == 1:
        yield "No difference in circumstances is known: something that the step depends on is kept in no version, or changes by itself."
