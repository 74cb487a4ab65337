"""What the page says of a run's samples: a matrix of prompts and steps; the notes themselves are loaded when they are asked for.

Conventions: a sample is known by its folder and its name, ``step_000500/continued_1``; ``reference/continued_1`` is how the corpus goes on
from the same prompt. Beside each ``NAME.json`` lies the same as a script, ``NAME.js``, which a page can load from a disk. A file that
cannot be understood is passed over: a sample may be half written, or somebody else's.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from musictrain.runs import RunFolder

MOST_COLUMNS, MOST_ROWS = 200, 40
MOST_COLUMNS_INLINE = 24
MOST_CELLS = 2_500
LONGEST_NAME = 200
REFERENCE = "reference"
STEP = re.compile(r"step_(\d{1,18})")
REPLAY = re.compile(r"step_(\d{1,18})(?:_attempt_(\d{1,9}))?")
MOST_REPLAYS = 40
# A sample of an hour of dense music is a tenth of it.
MOST_BYTES = 8_000_000


def listen_data(run: RunFolder, inline: bool = False) -> dict[str, Any]:
    """The samples of a run, as the page's ``musictrain.sections.listen.update`` takes them.

    Args:
        run: whose.
        inline: with everything that can be heard and downloaded inside, for a page that stands alone.

    Returns:
        ``rows``: ``name``, ``prompt``, ``prompt_beats`` and ``seed`` of each prompt, those from nothing last. ``columns``: the reference
        first, if there is one, then steps from early to late: ``folder``, ``step`` (None for the reference), ``weights`` and ``cells``, by
        name ``[beats, notes, log-probability per token or None, whether it ended by itself, changed]``, the last to tell a new file from
        an old one. ``left_out``: how many steps are not shown; the first and the last always are. With ``inline``, ``rolls`` and ``midi``
        by ``folder/name``: the whole sample, and its MIDI file in base64. All lists are empty for a run without samples.
    """
    columns = [column for folder in _folders(run) if (column := _column(folder))]
    most = MOST_COLUMNS_INLINE if inline else MOST_COLUMNS
    widest = max((len(column["samples"]) for column in columns), default=1)
    kept = _thinned(columns, max(3, min(most, MOST_CELLS // widest)))
    rows = _rows(kept)
    names = {row["name"] for row in rows}
    told: dict[str, Any] = {
        "rows": rows,
        "columns": [_told(column, names) for column in kept],
        "left_out": len(columns) - len(kept),
    }
    if inline:
        every = [(run.samples / column["folder"], name) for column in told["columns"] for name in column["cells"]]
        told["rolls"] = {f"{folder.name}/{name}": sample for folder, name in every if (sample := read_sample(folder / f"{name}.json"))}
        told["midi"] = {f"{folder.name}/{name}": midi for folder, name in every if (midi := _base64(folder / f"{name}.mid"))}
    return told


def replays_of(run: RunFolder) -> list[tuple[str, int, int | None]]:
    """Steps that ``musictrain replay`` has done again and that have a page: folder, step and the attempt that was asked for, the last
    ones if there are very many."""
    pages = run.path.glob("replay/*/index.html")
    found = [(path.parent.name, match) for path in pages if (match := REPLAY.fullmatch(path.parent.name))]
    told = [(name, int(match[1]), None if match[2] is None else int(match[2])) for name, match in found]
    return sorted(told, key=lambda one: (one[1], one[2] or 0))[-MOST_REPLAYS:]


def read_sample(path: Path) -> dict[str, Any] | None:
    """A sample's .json with its roll; None for what is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        sample = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    roll = sample.get("roll") if isinstance(sample, dict) else None
    return sample if isinstance(roll, dict) and isinstance(roll.get("onset"), list) else None


def _folders(run: RunFolder) -> list[Path]:
    """The reference, then the steps in order."""
    try:
        found = [(int(match[1]), path) for path in run.samples.iterdir() if (match := STEP.fullmatch(path.name))]
    except OSError:
        return []
    return [run.references, *(path for _, path in sorted(found))]


def _column(folder: Path) -> dict[str, Any] | None:
    """Name and summary of every sample of a folder."""
    samples: dict[str, dict[str, Any]] = {}
    try:
        for path in sorted(folder.glob("*.json"))[: 10 * MOST_ROWS]:
            stat = path.stat()
            if (summary := _summary(path, stat.st_mtime_ns, stat.st_size)) is not None and len(path.stem) <= LONGEST_NAME:
                samples[path.stem] = summary
    except OSError:
        return None
    match = STEP.fullmatch(folder.name)
    return {"folder": folder.name, "step": int(match[1]) if match else None, "samples": samples} if samples else None


@lru_cache(maxsize=8192)
def _summary(path: Path, changed: int, size: int) -> dict[str, Any] | None:
    """The little of a sample that the matrix shows. The page is drawn every few seconds: each file is read once."""
    sample = read_sample(path)
    if sample is None:
        return None
    return {
        "prompt": _text(sample.get("prompt")),
        "prompt_beats": _number(sample.get("prompt_beats")) or 0.0,
        "seed": _number(sample.get("seed")),
        "weights": _text(sample.get("weights")),
        "cell": [
            _number(sample.get("beats")) or 0.0,
            len(sample["roll"]["onset"]),
            _number(sample.get("log_prob_per_token")),
            sample.get("ended") is True,
            changed // 1_000_000,
        ],
    }


def _thinned(columns: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many: the reference, and steps evenly spread from the first to the last."""
    fixed, steps = ([column for column in columns if (column["step"] is None) is reference] for reference in (True, False))
    room = most - len(fixed)
    if len(steps) <= room:
        return columns
    picked = sorted({round(index * (len(steps) - 1) / (room - 1)) for index in range(room)})
    return [*fixed, *(steps[index] for index in picked)]


def _rows(columns: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every prompt once, as its newest sample has it; pieces from nothing last, numbers in their order."""
    newest = {name: sample for column in columns for name, sample in column["samples"].items()}
    names = sorted(newest, key=lambda name: (newest[name]["prompt"] is None, _by_number(name)))[:MOST_ROWS]
    return [{"name": name, **{key: newest[name][key] for key in ("prompt", "prompt_beats", "seed")}} for name in names]


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() and len(part) < 19 else (-1, part) for part in re.split(r"(\d+)", name)]


def _told(column: dict[str, Any], names: set[str]) -> dict[str, Any]:
    samples = {name: sample for name, sample in column["samples"].items() if name in names}
    weights = next((sample["weights"] for sample in samples.values()), None)
    cells = {name: sample["cell"] for name, sample in samples.items()}
    return {"folder": column["folder"], "step": column["step"], "weights": weights, "cells": cells}


def _text(value: Any) -> str | None:
    return value[:LONGEST_NAME] if isinstance(value, str) else None


def _number(value: Any) -> float | int | None:
    """A finite number as it is, None for anything else."""
    fine = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 and math.isfinite(value)
    return value if fine else None


def _base64(path: Path) -> str | None:
    try:
        return base64.b64encode(path.read_bytes()).decode("ascii") if path.stat().st_size <= MOST_BYTES else None
    except OSError:
        return None
