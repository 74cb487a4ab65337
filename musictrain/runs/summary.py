"""What a run has come to, and what to type next: read from its folder alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from musictrain.runs.folder import BEST_METRIC, RunFolder, number
from musictrain.runs.rows import read_rows

SCORES = (("val/nats_per_note", "nats per note"), ("val/bits_per_beat", "bits per beat"))


def summary(run: RunFolder, *, command: str = "musictrain", runs_dir: Path | None = None, facts: Sequence[tuple[str, str]] = ()) -> str:
    """Best value and its step, likelihoods, where the samples are and how to listen, the checkpoint, and the commands to go on.

    Args:
        run: a run that has been training; whatever it lacks is left out.
        command: how this program is called here.
        runs_dir: added as ``--runs`` to the commands; None if they find the run without it.
        facts: further lines of the table, such as what the run has saved and how fast it was.
    """
    rows = read_rows(run.metrics)
    table = [("run", shown(run.path)), *_likelihood(run, rows), *facts, *_samples(run)]
    where = f" --runs {shown(runs_dir)}" if runs_dir is not None else ""
    name = "-".join(run.name.split("-")[-2:])
    todo = [
        ("more music", f"{command} sample {name} --n 8{where}"),
        ("go on", f"{command} resume {name} --trainer.max_steps {max(2 * run.last_step(), 1)}{where}"),
    ]
    return "\n".join([*_table(table), "Next", *_table(todo)])


def _likelihood(run: RunFolder, rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    best = run.best()
    if best is None:
        return []
    at_best = {key: row[key] for row in rows if row.get("step") == best[1] for key, _ in SCORES if key in row}
    words = [f"{number(at_best[key]):.4f} {unit}" for key, unit in SCORES if key in at_best]
    return [(f"best {BEST_METRIC}", f"{best[0]:.4f} nats per token at step {best[1]:,}" + (f" ({', '.join(words)})" if words else ""))]


def _samples(run: RunFolder) -> list[tuple[str, str]]:
    facts = []
    folders = sorted(run.samples.glob("step_*"))
    if folders:
        songs = sorted(folders[-1].glob("*.wav"))
        facts.append(("samples", f"{shown(folders[-1])} ({len(songs)} pieces: .wav and .mid to hear, .png to see)"))
        facts += [("listen to", shown(songs[0])), ("look at", shown(songs[0].with_suffix(".png")))] if songs else []
    return facts


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(label) for label, _ in rows), default=0)
    return [f"  {label:<{width}}  {text}" for label, text in rows]


def shown(path: Path) -> str:
    """A path as short as it can be typed: relative if it lies below the working directory."""
    path = Path(path)
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
