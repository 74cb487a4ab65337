"""What a corpus holds, for people (data_report.md) and for programs (data_report.json).

Both say the same, in the same order: counts per split, what its user should know, groups, twins, and what was rejected. The JSON is
complete, the page names at most ``MOST_ROWS`` of a kind and says how many more there are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musictrain.data.corpora import Corpus, Piece
from musictrain.data.splits import SPLITS
from musictrain.notes import Notes

MOST_ROWS = 200
PITCH_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def write_data_report(corpus: Corpus, folder: str | Path) -> Path:
    """Write data_report.md and data_report.json into the folder, made if missing; gives back the path of the .md file.

    Raises:
        OSError: if the files cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report = describe_corpus(corpus)
    (folder / "data_report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = folder / "data_report.md"
    page.write_text(_page(report), encoding="utf-8")
    return page


def describe_corpus(corpus: Corpus) -> dict[str, Any]:
    """The report as plain JSON values; beats are quarter notes, the pitch range leaves drums out."""
    return {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "splits": {split: _describe_split(corpus.split(split)) for split in SPLITS},
        "warnings": list(corpus.warnings),
        "groups": {name: [piece.name for piece in members] for name, members in corpus.groups().items()},
        "divided_groups": sorted(name for name, members in corpus.groups().items() if len({piece.split for piece in members}) > 1),
        "twins": [list(names) for names in corpus.twins],
        "rejected": [{"source": source, "reason": reason} for source, reason in corpus.rejected],
    }


def _describe_split(pieces: Sequence[Piece]) -> dict[str, Any]:
    notes, beats, low, high = 0, 0.0, 128, -1
    meters: Counter[str] = Counter()
    for piece in pieces:
        columns = piece.notes
        pitch = columns.pitch[~columns.drum]
        notes, beats = notes + len(columns), beats + columns.end
        low, high = int(np.min(pitch, initial=low)), int(np.max(pitch, initial=high))
        meters[_meter(columns)] += 1
    counts = {"pieces": len(pieces), "groups": len({piece.group for piece in pieces}), "notes": notes, "beats": round(beats, 2)}
    return {**counts, "lowest_pitch": low if low <= high else None, "highest_pitch": high if low <= high else None, "meters": dict(meters)}


def _meter(notes: Notes) -> str:
    """The time signature that holds longest; 4/4 if there is none."""
    if not notes.time_signatures:
        return "4/4"
    starts = [signature.onset for signature in notes.time_signatures]
    lengths = np.diff([*starts, max(notes.end, starts[-1])])
    longest = notes.time_signatures[int(np.argmax(lengths))]
    return f"{longest.numerator}/{longest.denominator}"


def _page(report: dict[str, Any]) -> str:
    parts = [
        f"# {_text(report['name'])}: what is in the corpus\n\nFingerprint `{report['fingerprint']}`. A beat is a quarter note.\n",
        _split_table(report["splits"]),
        *(["## To know\n\n" + "".join(f"- {_text(warning)}\n" for warning in report["warnings"])] if report["warnings"] else []),
        _group_part(report),
        _list_part("Twins", "The same notes, perhaps transposed.", [", ".join(map(_text, names)) for names in report["twins"]]),
        _list_part(
            "Rejected",
            "Left out, and why. Nothing takes their place.",
            [f"{_text(row['source'])}: {_text(row['reason'])}" for row in report["rejected"]],
        ),
    ]
    return "\n".join(parts)


def _split_table(splits: dict[str, dict[str, Any]]) -> str:
    rows = ["| split | pieces | groups | notes | beats | pitches | meters |", "|---|---:|---:|---:|---:|---|---|"]
    for split, counts in splits.items():
        pitches = "" if counts["lowest_pitch"] is None else f"{pitch_name(counts['lowest_pitch'])} to {pitch_name(counts['highest_pitch'])}"
        meters = ", ".join(f"{meter} ({count})" for meter, count in Counter(counts["meters"]).most_common(4))
        numbers = f"{counts['pieces']:,} | {counts['groups']:,} | {counts['notes']:,} | {counts['beats']:,.0f}"
        rows.append(f"| {split} | {numbers} | {pitches} | {meters} |")
    return "\n".join(rows) + "\n"


def _group_part(report: dict[str, Any]) -> str:
    several = {name: members for name, members in report["groups"].items() if len(members) > 1}
    ordered = sorted(several.items(), key=lambda item: (-len(item[1]), item[0]))
    marks = dict.fromkeys(report["divided_groups"], " (**in more than one split**)")
    rows = [f"{len(members)}: {', '.join(map(_text, members))}{marks.get(name, '')}" for name, members in ordered]
    single = len(report["groups"]) - len(several)
    what = f"Copies, transpositions and settings of one tune, never divided by our own splits. {single:,} more pieces stand alone."
    return _list_part("Groups", what, rows)


def _list_part(title: str, what: str, rows: list[str]) -> str:
    shown = "".join(f"- {row}\n" for row in rows[:MOST_ROWS])
    more = f"- and {len(rows) - MOST_ROWS:,} more, in data_report.json\n" if len(rows) > MOST_ROWS else ""
    return f"## {title}: {len(rows):,}\n\n{what}\n\n{shown}{more}"


def pitch_name(pitch: int) -> str:
    """A MIDI number as a musician says it.

    >>> pitch_name(60), pitch_name(70)
    ('C4', 'Bb4')
    """
    return f"{PITCH_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _text(value: str) -> str:
    """A name from a file, safe in Markdown."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in " ".join(str(value).split()))
