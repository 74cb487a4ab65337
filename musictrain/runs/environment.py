"""What a run ran on: enough to repeat it, nothing that should stay private.

Environment variables are never recorded, and secrets are hidden in everything that is, the uncommitted changes of a checkout included.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from musictrain.runs.secrets import hidden, hidden_command, hide

PACKAGES = ("musictrain", "torch", "lightning", "torchmetrics", "numpy", "symusic", "miditok", "music21", "jsonargparse", "rich")
LONGEST_DIFF = 200_000
# Read beyond the cut, so that it goes through no secret before that is found.
LONGEST_SECRET = 20_000


def describe_environment(
    *,
    command: Sequence[str] | None = None,
    seeds: Mapping[str, int | None] | None = None,
    fingerprints: Mapping[str, str] | None = None,
    source: str | Path | None = None,
) -> dict[str, Any]:
    """The content of ``env.json``, as plain JSON values. Nothing here fails: what cannot be found out is None.

    Args:
        command: the command line, ``sys.argv`` if left out.
        seeds: by name, as they were used.
        fingerprints: of the tokenizer, the corpus, the token store.
        source: if this folder lies in a git checkout, its commit and uncommitted changes are recorded; the working directory if
            left out.
    """
    record = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": without_secrets(sys.argv if command is None else command),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": {"cpu_count": cpu_count(), "memory_gib": memory_gib()},
        "packages": package_versions(PACKAGES),
        "git": git_state(Path.cwd() if source is None else Path(source)),
        "seeds": dict(seeds or {}),
        "fingerprints": dict(fingerprints or {}),
    }
    return dict(hidden(record))


def package_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed versions by package name, None for what is missing; reads metadata only and imports nothing."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_count() -> int:
    """Cores this process may use, which a container or ``taskset`` can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def memory_gib() -> float | None:
    """Main memory in GiB, None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, whether it was dirty, and the uncommitted changes as a diff (the first 200,000 characters); None outside a checkout."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    diff = _git(folder, "diff", "HEAD") or ""
    return {"commit": commit, "dirty": bool(diff), "diff": hide(diff[: LONGEST_DIFF + LONGEST_SECRET])[:LONGEST_DIFF]}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def without_secrets(command: Sequence[str]) -> list[str]:
    """The command line with the values of secret options hidden, and secrets inside other words.

    >>> without_secrets(["fit", "--logger.api_key", "abc", "--data.tokenizer=REMI", "--password=x"])
    ['fit', '--logger.api_key', '***', '--data.tokenizer=REMI', '--password=***']
    """
    return hidden_command(command)
