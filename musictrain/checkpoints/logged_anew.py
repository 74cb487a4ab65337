"""Which of the logged values belong to this validation: Lightning keeps showing what earlier ones have logged, such as scores of samples
that come only when there is time for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer


class LoggedAnew:
    """Tells values that were logged since the last validation from those that only stand there still.

    Lightning makes a new tensor for each value that is logged: what is the same one was there before.
    """

    def __init__(self) -> None:
        self._before: Mapping[str, Any] = {}
        self._notes = True

    def validated(self) -> None:
        """A validation is over; until the next batch its values are new."""
        self._notes = True

    def begins(self, trainer: Trainer) -> None:
        """A batch begins, the first one after a validation or a resume: what stands among the logged values now is old."""
        if self._notes:
            self._notes, self._before = False, dict(trainer.callback_metrics)

    def of(self, trainer: Trainer) -> dict[str, Any]:
        """The new ones by name. With several processes all must ask: some are means over all of them."""
        return {name: value for name, value in dict(trainer.callback_metrics).items() if value is not self._before.get(name)}
