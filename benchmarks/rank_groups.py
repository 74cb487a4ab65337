"""Groups of forked ranks that train in turns: a group takes a step when this process says so, the others sleep meanwhile.

So one process and two, DDP and FSDP are compared within the same seconds. To be used before torch has started threads.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.strategies.ranks import fork, free_port

GO, DONE, STOP = b"g", b"d", b"s"
START_SECONDS, STEP_SECONDS = 300.0, 300.0


class RankError(RuntimeError):
    """A rank failed or hangs; what it said stands on standard error."""


@dataclass
class Turn:
    """What a rank's loader waits for between steps."""

    go: int
    done: int

    def take(self) -> bool:
        """Tell that the last step is over and wait for the next; False if there is none."""
        os.write(self.done, DONE)
        return os.read(self.go, 1) == GO

    def batches(self, batch: Any) -> Iterator[Any]:
        """The same batch, one a turn."""
        while self.take():
            yield batch


@dataclass
class Group:
    """Ranks that train together.

    Args:
        name: of the group.
        children: process numbers.
        go: where each is told to take a step.
        done: where each tells that it has.
        reports: a file each rank may leave its numbers in.
    """

    name: str
    children: list[int]
    go: list[int]
    done: list[int]
    reports: list[Path]
    seconds: list[float] = field(default_factory=list)

    def step(self) -> None:
        """Let every rank take one step, and keep the time until the last is done."""
        start = time.perf_counter()
        for pipe in self.go:
            os.write(pipe, GO)
        self.await_all(STEP_SECONDS)
        self.seconds.append(time.perf_counter() - start)

    def await_all(self, patience: float) -> None:
        """Wait until every rank asks for a turn.

        Raises:
            RankError: if one ended or does not come back.
        """
        end = time.monotonic() + patience
        for pipe in self.done:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready or os.read(pipe, 1) != DONE:
                self.stop()
                raise RankError(f"A rank of {self.name} failed or hangs.")

    def finish(self) -> list[dict[str, Any]]:
        """Let the ranks come to their end; what each has reported."""
        # Not by closing the pipes: groups forked later hold them open.
        for pipe in self.go:
            os.write(pipe, STOP)
        for child in self.children:
            os.waitpid(child, 0)
        return [json.loads(path.read_text()) for path in self.reports]

    def stop(self) -> None:
        """End the ranks at once."""
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def start(name: str, ranks: int, function: Callable[..., None], *arguments: Any, folder: Path) -> Group:
    """Fork the ranks of a group, each calling ``function(turn, report_path, *arguments)``, and wait until all ask for their first turn."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    group = Group(name, [], [], [], [folder / f"{name.replace(' ', '-')}-{rank}.json" for rank in range(ranks)])
    for rank in range(ranks):
        (go_read, go_write), (done_read, done_write) = os.pipe(), os.pipe()
        variables = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        turn = Turn(go_read, done_write)
        group.children.append(fork(function, (turn, group.reports[rank], *arguments), variables))
        os.close(go_read)
        os.close(done_write)
        group.go.append(go_write)
        group.done.append(done_read)
    group.await_all(START_SECONDS)
    return group
