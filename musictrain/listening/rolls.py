"""A piece as plain numbers and texts: what a page needs to draw it and to play it.

Conventions: beats are quarter notes; numbers are rounded to a hundred-thousandth of a beat. A roll is

- ``roll``: the columns ``onset`` ``duration`` ``pitch`` ``velocity`` ``program`` ``drum`` (0 or 1) ``track``, one entry a note;
- ``tempos``: [beat, quarter notes a minute], the first at beat 0;
- ``bars``: the beats at which bars begin, and the end of the last one;
- ``parts``: [track, program, name, colour] of every voice or instrument, coloured as in the picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from musictrain.listening.bars import bar_lines
from musictrain.listening.instruments import part_names
from musictrain.listening.pianoroll import colours_of
from musictrain.notes import COLUMNS, Notes

USUAL_BPM = 120.0


def roll_of(notes: Notes) -> dict[str, Any]:
    """The piece in JSON's own types, under the keys above.

    >>> roll_of(Notes.from_rows([(0, 1, 60)]))["tempos"]
    [[0.0, 120.0]]
    """
    tempos = [[max(0.0, tempo.onset), round(tempo.bpm, 4)] for tempo in notes.tempos]
    if not tempos or tempos[0][0] > 0.0:
        tempos = [[0.0, USUAL_BPM], *tempos]
    names = part_names(notes)
    colours = colours_of(names)
    return {
        "roll": {name: _column(getattr(notes, name)) for name in COLUMNS},
        "tempos": tempos,
        "bars": _column(bar_lines(notes)),
        "parts": [[track, program, name, colours[(track, program)]] for (track, program), name in names.items()],
    }


def roll_script(key: str, sample: Mapping[str, Any]) -> str:
    """A script that hands a sample to the page, which can load scripts from a disk but no other files.

    Args:
        key: what the page knows the sample by, such as ``step_000500/continued_1``.
        sample: in JSON's own types.
    """
    return f"musictrain.roll({script_json(key)}, {script_json(sample)});\n"


def script_json(value: Any) -> str:
    r"""JSON that is also a piece of a script and of a page: whatever a text holds, it neither ends the script nor begins a tag.

    >>> script_json("</script>")
    '"\\u003c/script\\u003e"'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _column(values: Any) -> list[float | int]:
    whole = np.asarray(values)
    return whole.astype(int).tolist() if whole.dtype == np.bool_ else np.round(whole, 5).tolist()
