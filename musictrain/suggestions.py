"""'Did you mean': the nearest known word for a misspelled one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, or an empty string when none is near.

    >>> did_you_mean("choralse", ["chorales", "ryans"])
    "Did you mean 'chorales'?"
    >>> did_you_mean("xyz", ["chorales"])
    ''
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""
