"""One sample as files to hear, to see and to read: .mid, .wav, .png, .json, and .js for the live page, side by side."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from musictrain.listening.instruments import is_chorale
from musictrain.listening.pianoroll import draw_pianoroll
from musictrain.listening.rolls import roll_of, roll_script
from musictrain.listening.synthesis import SAMPLE_RATE, synthesise, write_wav
from musictrain.notes import Notes, Tempo

CHORALE_BPM = 88.0


def write_sample(
    notes: Notes, stem: Path, *, info: Mapping[str, Any], prompt_beats: float = 0.0, bpm: float | None = None, title: str | None = None
) -> dict[str, Path]:
    """Write ``stem``.mid, .wav, .png, .js and .json; the folder is made.

    Everything is written beside its place and moved there when it is whole, the .json last: where it stands, the others do. The .json holds
    the notes too, as ``musictrain.listening.rolls`` describes; the .js hands all of it to a page, under the folder's and the sample's name.

    Args:
        notes: the sample, its prompt included.
        stem: folder and name without an ending, such as ``samples/step_000500/prompt_0``.
        info: how it was made: goes into the .json, with ``notes``, ``beats``, ``prompt_beats``, ``files`` and the roll added.
        prompt_beats: how much of the beginning was given to the model.
        bpm: quarter notes a minute, in sound and MIDI; None keeps the tempos of ``notes``. Where those have none, four voices go at 88, as
            a choir sings a chorale, and everything else at MIDI's 120.
        title: heading of the picture; None takes the name.

    Returns:
        The path of each file by its ending: "mid", "wav", "png", "js", "json".

    Raises:
        OSError: if the folder cannot be made or written to; then none of the files has changed half way.
        ValueError: if ``bpm`` is not positive.
    """
    stem = Path(stem)
    if bpm is None and not notes.tempos and is_chorale(notes):
        bpm = CHORALE_BPM
    if bpm is not None:
        notes = replace(notes, tempos=(Tempo(0.0, bpm),))
    paths = {ending: stem.with_name(f"{stem.name}.{ending}") for ending in ("mid", "wav", "png", "js", "json")}
    record = {
        **_plain(info),
        "notes": len(notes),
        "beats": notes.end,
        "prompt_beats": prompt_beats,
        "files": [path.name for path in paths.values()],
        **roll_of(notes),
    }
    writers: dict[str, Callable[[Path], None]] = {
        "wav": lambda path: write_wav(path, synthesise(notes), SAMPLE_RATE),
        "mid": lambda path: _write_midi(notes, path),
        "png": lambda path: draw_pianoroll(notes, path, title=stem.name if title is None else title, prompt_beats=prompt_beats),
        "js": lambda path: _write_text(roll_script(f"{stem.parent.name}/{stem.name}", record), path),
        "json": lambda path: _write_text(_json_by_lines(record), path),
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stem.parent, prefix=".writing-") as folder:
        written = {ending: Path(folder) / path.name for ending, path in paths.items()}
        for ending, write in writers.items():
            write(written[ending])
        for ending, path in paths.items():
            written[ending].replace(path)
    return paths


def _write_midi(notes: Notes, path: Path) -> None:
    # Imported here: drawing and synthesis work without symusic.
    from musictrain.data.scores import write_midi

    write_midi(notes, path)


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _json_by_lines(record: Mapping[str, Any]) -> str:
    """A line for each entry, and for each column of notes: people read it too."""
    lines = [f"{json.dumps(key)}: {_value(value)}" for key, value in record.items()]
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def _value(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "{" + ",".join(f"\n  {json.dumps(key)}: {_value(entry)}" for key, entry in value.items()) + "}"


def _plain(value: Any) -> Any:
    """The same in JSON's own types: arrays and paths are spelt out, nan and infinity, which JSON lacks, are null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
