"""Keeps a protocol's page up to date while it trains; what cannot be drawn holds nobody up."""

from __future__ import annotations

import logging
import time

from musictrain.cli.stages_loading import Loaded
from musictrain.cli.stages_telling import courses_of
from musictrain.dashboard.stages import StagesData, write_stages_data, write_stages_page
from musictrain.stages.progress import left_of_all, share_of_all
from musictrain.stages.state import State

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
REST = 20.0  # times as long as a drawing takes


class Page:
    """Page and data of a protocol.

    Args:
        loaded: the protocol.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._data = StagesData(loaded.folder.path, loaded.protocol.name)
        self._next = 0.0
        self._complained = False

    def open(self, state: State) -> None:
        """Write page and data."""
        self._try(lambda: write_stages_page(self._loaded.folder.path, self._loaded.protocol.name))
        self.write(state)

    def write(self, state: State, *, going_on: bool = True) -> None:
        """The data, if it is time for them; the last ones in any case."""
        if going_on and time.monotonic() < self._next:
            return
        began = time.monotonic()
        self._try(lambda: write_stages_data(self._loaded.folder.path, self._data.read(self._told(state), going_on=going_on)))
        self._next = time.monotonic() + max(EVERY_SECONDS, REST * (time.monotonic() - began))

    def _told(self, state: State) -> dict[str, object]:
        """What the page cannot find in the runs' folders."""
        courses = courses_of(self._loaded, state)
        left = left_of_all(list(courses.values()))
        stages = []
        for name, resolved in self._loaded.stages.items():
            record, over = state.record(name), resolved.stage.hand_over
            stages.append(
                {
                    "name": name,
                    "budget": resolved.stage.budget.words(),
                    "takes_over": over.words() if over is not None else str(resolved.config.get("init_from") or "nothing"),
                    "started_from": "" if record is None else record.started_from,
                    "state": "to come" if record is None else record.state,
                    "run": "" if record is None else record.run,
                    "reason": "" if record is None else record.reason,
                }
            )
        return {
            "stages": stages,
            "replaced": [{"stage": record.stage, "run": record.run} for record in state.replaced],
            "left": None if left is None else [left.seconds, left.low, left.high],
            "share": share_of_all(list(courses.values())),
        }

    def _try(self, work: object) -> None:
        try:
            work()  # type: ignore[operator]
        except Exception as error:
            if not self._complained:
                self._complained = True
                log.warning(
                    "The page of the protocol could not be drawn, and training goes on without it: %s: %s", type(error).__name__, error
                )
