"""Runs with samples for the tests of what the page lets people hear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from musictrain.listening.sample_files import write_sample
from musictrain.notes import Notes
from musictrain.runs import RunFolder


def chorale(beats: int = 24, seed: int = 0) -> Notes:
    """Four voices in steps; the first eight beats are the same for every seed."""
    rows, tracks = [], []
    for track, home in enumerate((72, 67, 60, 48)):
        start, rest = np.random.default_rng(track), np.random.default_rng([seed, track])
        moves = [*start.integers(-2, 3, 8), *rest.integers(-2, 3, max(0, beats - 8))]
        pitches = home + np.clip(np.cumsum(moves), -7, 7)
        rows += [(float(beat), 1.0, int(pitch)) for beat, pitch in enumerate(pitches[:beats])]
        tracks += [track] * beats
    return Notes.from_rows(rows, track=tracks)


def add_sample(run: RunFolder, folder: str, name: str, notes: Notes, **info: Any) -> dict[str, Path]:
    """Write one sample as a run does."""
    prompt_beats = info.pop("prompt_beats", 0.0)
    return write_sample(notes, run.samples / folder / name, info=info, prompt_beats=prompt_beats)


def run_with_samples(path: Path, steps: tuple[int, ...] = (150, 300), prompt: str = "bwv 5.7", rows: int = 2) -> RunFolder:
    """One piece from nothing and some continuations at every step, and how the corpus goes on."""
    run = RunFolder(path)
    for step in steps:
        told = {"step": step, "seed": 0, "weights": "current", "log_prob_per_token": -0.5}
        add_sample(run, f"step_{step:06d}", "from_nothing", chorale(16, step + 7), prompt=None, **told)
        for row in range(1, rows + 1):
            add_sample(run, f"step_{step:06d}", f"continued_{row}", chorale(24, step + row), prompt=prompt, prompt_beats=8.0, **told)
    for row in range(1, rows + 1):
        add_sample(run, "reference", f"continued_{row}", chorale(32, row), prompt=prompt, prompt_beats=8.0, step=None, reference=True)
    return run
