"""Where the versions of one run lie in a mirror that many runs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from musictrain.checkpoints.mirror import Mirror


def mirror_of_run(url: str, run: str) -> Mirror:
    """The folder named after the run in the mirror at ``url``; fsspec is imported here and not before."""
    from musictrain.checkpoints.mirror import Mirror

    return Mirror(f"{url}{run}" if url.endswith("/") else f"{url}/{run}")
