"""Orderings beside the token store: computed once for a store, found ever after.

An ordering is a file ``orderings/<name>-<fingerprint>.npz`` in the store's folder. The fingerprint is of all that its numbers depend on, so
that a file is never out of date, and the store's own is left as it is. Files are put in place by one rename: of two processes that compute
the same, the second replaces the first's file by an equal one. A damaged file is computed again.
"""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from musictrain.data.orderings.stretches import Ordering, Stretches
from musictrain.data.token_store import TokenStore
from musictrain.runs.atomic import atomic_write

log = logging.getLogger(__name__)

FORMAT = 1
CODE = ("orderings/computing", "orderings/musical", "orderings/stretches", "orderings/surprisal", "masking")


def fingerprint_of(store: TokenStore, stretches: Stretches, *others: str) -> str:
    """Sixteen hex digits of what an ordering depends on: the tokens, the stretches, the code, and whatever else is given."""
    here = Path(__file__).parents[1]
    digest = hashlib.sha256("\n".join([str(FORMAT), store.fingerprint, str(stretches.size), *others]).encode())
    for name in CODE:
        digest.update((here / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def path_of(store: TokenStore, name: str, fingerprint: str) -> Path:
    """Where an ordering lies."""
    return store.folder / "orderings" / f"{name}-{fingerprint}.npz"


def kept_ordering(store: TokenStore, stretches: Stretches, name: str, fingerprint: str) -> Ordering | None:
    """The ordering that lies beside a store; None if there is none, its checksums say it is damaged, or it has other stretches."""
    path = path_of(store, name, fingerprint)
    try:
        with np.load(path, allow_pickle=False) as columns:
            ordering = Ordering(columns["value"], columns["weight"])
        if ordering.value.shape != (len(stretches),):
            raise ValueError(f"it has {len(ordering.value)} stretches, expected {len(stretches)}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("The ordering %s cannot be used and is computed again (%s: %s)", path, type(error).__name__, error)
        return None
    return ordering


def kept_or_made(store: TokenStore, stretches: Stretches, name: str, fingerprint: str, make: Callable[[Stretches], Ordering]) -> Ordering:
    """An ordering that depends on something of its own, which ``fingerprint`` is of: kept beside the store, else made and put there.

    Raises:
        ValueError: if what was made is of other stretches.
    """
    whole = fingerprint_of(store, stretches, name, fingerprint)
    if (found := kept_ordering(store, stretches, name, whole)) is not None:
        return found
    made = make(stretches)
    if made.value.shape != (len(stretches),):
        raise ValueError(f"The ordering {name} has {made.value.size} stretches, expected the {len(stretches)} of {store.folder}.")
    keep_ordering(store, name, whole, made)
    return made


def keep_ordering(store: TokenStore, name: str, fingerprint: str, ordering: Ordering) -> None:
    """Put an ordering beside its store, whole or not at all; where the folder cannot be written, the log says so."""
    path = path_of(store, name, fingerprint)
    content = io.BytesIO()
    np.savez(content, value=ordering.value, weight=ordering.weight)
    try:
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, content.getvalue())
    except OSError as error:
        log.warning("The ordering %s cannot be kept beside the tokens and is computed in every run: %s", name, error)
