"""A callback in the place of those that sample, for runs of which nobody wants to hear anything."""

from __future__ import annotations

from typing import Any

from musictrain.callbacks import WriteSamples


class Silent(WriteSamples):
    """Plays nothing, and takes no time."""

    def setup(self, *args: Any, **kwargs: Any) -> None:
        super().setup(*args, **kwargs)
        self.rest()
