"""Where the versions of one run lie in a mirror that many runs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from musictrain.suggestions import did_you_mean

if TYPE_CHECKING:
    from musictrain.checkpoints.mirror import Mirror


def mirror_of_run(url: str, run: str) -> Mirror:
    """The folder named after the run in the mirror at ``url``; fsspec is imported here and not before.

    Raises:
        ValueError: if nothing knows such a URL, or the library for it is missing.
    """
    from musictrain.checkpoints.mirror import Mirror

    _check_known(url)
    return Mirror(f"{url}{run}" if url.endswith("/") else f"{url}/{run}")


def _check_known(url: str) -> None:
    import fsspec

    scheme, separator, _ = url.partition("://")
    if not separator or "::" in scheme:
        return
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise ValueError(f"mirror={url!r} cannot be used: {error}. Or give a folder.") from error
    except ValueError as error:
        hint = did_you_mean(scheme, fsspec.available_protocols())
        raise ValueError(f"mirror={url!r} cannot be used: {error}. {hint} A folder or a URL such as s3://bucket will do.") from error
