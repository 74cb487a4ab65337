"""A replayed step as a folder: every row to hear and to see, worst first, a report to read, one for programs and one for a browser."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from musictrain.listening.sample_files import write_sample
from musictrain.replay.found import Replayed
from musictrain.replay.pictures import draw_layers, draw_row
from musictrain.replay.scores import Compared, PieceScore, RowScore, TokenScore
from musictrain.runs import atomic_write
from musictrain.runs.records import plain

REPORTS = ("report.md", "replay.json", "index.html", "layers.png")
ROW_FILE = re.compile(r"\d{2,}_batch\d+_row\d{2,}\.(?:mid|wav|png|js|json|loss\.png)")
LEAST_HIGHEST_NATS = 4.0
MOST_LAYERS = 12


@dataclass
class Told:
    """Everything that is told of a step.

    Args:
        run: name of the run.
        step: which.
        rows: worst first.
        intro: lines on where the replay began and how it compares.
        advice: lines on what limits the comparison.
        result: what was found; None if nothing was run.
        pieces: worst first.
        tokens: worst first.
        compared: with the records.
        line: the step of the line of the records that holds it.
        since: the first step of that line.
        said: the run's events of the step.
        files: of each row, by its ending; filled in by ``write_rows``.
    """

    run: str
    step: int
    rows: Sequence[RowScore]
    intro: Sequence[str] = ()
    advice: Sequence[str] = ()
    result: Replayed | None = None
    pieces: Sequence[PieceScore] = ()
    tokens: Sequence[TokenScore] = ()
    compared: Sequence[Compared] = ()
    line: int | None = None
    since: int = 0
    said: Sequence[Mapping[str, Any]] = ()
    files: list[dict[str, Path]] = field(default_factory=list)


def stem_of(place: int, score: RowScore) -> str:
    """``01_batch1233_row07``: worst first in any list of files."""
    return f"{place + 1:02d}_batch{score.music.number}_row{score.music.row:02d}"


def write_rows(told: Told, folder: Path, most: int | None = None) -> None:
    """Write the rows, or the first ``most`` of them: .mid, .wav, .png, .json, and .loss.png where there is a likelihood.

    Rows of nothing but padding have no files.
    """
    highest = highest_nats(told.rows)
    for place, score in enumerate(told.rows[:most]):
        stem, music = folder / stem_of(place, score), score.music
        if not music.parts:
            told.files.append({})
            continue
        loss = f" · {score.loss:.3f} nats a token" if score.nll is not None else ""
        title = f"step {told.step:,}, batch {music.number:,}, row {music.row} · {music.where}{loss}"
        info = {"run": told.run, "step": told.step, "batch": music.number, "row": music.row, "where": music.where,
                "transpose": music.transpose, "loss": score.loss}  # fmt: skip
        files = write_sample(music.notes, stem, info=info, title=title)
        if score.nll is not None:
            files["loss.png"] = stem.with_name(f"{stem.name}.loss.png")
            draw_row(score, files["loss.png"], title=title, highest_nats=highest)
        told.files.append(files)


def highest_nats(rows: Sequence[RowScore]) -> float:
    """What the darkest colour stands for in all rows of a step."""
    values = np.concatenate([row.values() for row in rows]) if rows else np.zeros(0)
    finite = values[np.isfinite(values)]
    return max(LEAST_HIGHEST_NATS, float(np.quantile(finite, 0.995))) if len(finite) else LEAST_HIGHEST_NATS


def clear(folder: Path) -> None:
    """Make a folder, and remove what an earlier replay has left in it, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name in REPORTS or ROW_FILE.fullmatch(path.name):
            path.unlink()


def write_reports(told: Told, folder: Path) -> None:
    """``report.md``, ``replay.json``, ``index.html`` and, of a step that was run, ``layers.png``."""
    if told.result is not None and told.result.layers:
        draw_layers(told.result.layers, folder / "layers.png", title=f"step {told.step:,} of {told.run}: gradients and updates")
    atomic_write(folder / "report.md", "\n".join(markdown(told)) + "\n")
    atomic_write(folder / "index.html", page(told, folder))
    atomic_write(folder / "replay.json", json.dumps(as_record(told), indent=1, allow_nan=False) + "\n")


# In words.


def lines_for_terminal(told: Told, *, most: int = 8) -> Iterator[str]:
    """What is printed."""
    yield from told.intro
    if told.result is not None and told.result.not_finite is not None:
        yield told.result.not_finite.sentence()
    yield ""
    yield "rows, worst first" if told.result is not None else "rows"
    yield from table(row_lines(told.rows[:most]))
    if len(told.rows) > most:
        yield f"  and {len(told.rows) - most} more"
    if told.tokens:
        yield "worst tokens"
        yield from (f"  {token.sentence()}" for token in told.tokens[:5])
    yield from told.advice


def row_lines(rows: Sequence[RowScore]) -> list[tuple[str, ...]]:
    """Batch, row, loss (if it is known) and place of each row, under their headings."""
    known = any(score.nll is not None for score in rows)
    body = [(f"{score.music.number:,}", str(score.music.row), f"{score.loss:.4f}", score.music.where) for score in rows]
    lines: list[tuple[str, ...]] = [("batch", "row", "nats/token", "what it reads"), *body]
    return lines if known else [(line[0], line[1], line[3]) for line in lines]


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns flush right, the last one flush left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return ["  " + "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows]


def markdown(told: Told) -> Iterator[str]:
    """The report for people, as text."""
    yield f"# Step {told.step:,} of {_safe(told.run)}"
    yield ""
    yield from (f"- {_safe(line)}" for line in (*told.intro, *told.advice))
    if told.result is not None and told.result.not_finite is not None:
        yield f"- **{_safe(told.result.not_finite.sentence())}**"
    yield from _rows_in_markdown(told)
    if told.result is not None:
        yield from _steps_in_markdown(told)
        yield from _scores_in_markdown(told)
        yield from _layers_in_markdown(told.result)


def _rows_in_markdown(told: Told) -> Iterator[str]:
    yield from ("", "## Rows" + (", worst first" if told.result is not None else ""), "")
    yield from ("| batch | row | nats/token | not read | music | files |", "|---:|---:|---:|---:|---|---|")
    for place, score in enumerate(told.rows):
        files = told.files[place] if place < len(told.files) else {}
        links = " ".join(f"[{ending}]({path.name})" for ending, path in files.items() if ending not in ("js", "json"))
        loss = "" if score.nll is None else f"{score.loss:.4f}"
        misread = str(score.misread or "") if score.nll is not None else ""
        yield f"| {score.music.number} | {score.music.row} | {loss} | {misread} | {_safe(score.music.where)} | {links} |"


def _steps_in_markdown(told: Told) -> Iterator[str]:
    assert told.result is not None
    yield from ("", "## The steps around it", "")
    yield from ("| step | batches | nats/token | gradient norm | learning rate |", "|---:|---|---:|---:|---:|")
    for trace in told.result.traces:
        mark = "**" if trace.step == told.step else ""
        batches = ", ".join(map(str, trace.batches))
        yield f"| {mark}{trace.step}{mark} | {batches} | {trace.loss:.6f} | {trace.gradient_norm:.4f} | {trace.learning_rate:.3g} |"
    if told.compared:
        yield from ("", f"## The line of step {told.line:,}, the mean of steps {told.since:,} to {told.line:,}", "")
        yield from ("| value | recorded | replayed | to the bit |", "|---|---:|---:|---|")
        for each in told.compared:
            yield f"| {each.key} | {each.recorded!r} | {each.replayed!r} | {'equal' if each.equal else 'not equal'} |"


def _scores_in_markdown(told: Told) -> Iterator[str]:
    if told.pieces:
        yield from ("", "## Pieces, worst first", "", "| nats/token | share of all nats | tokens | piece |", "|---:|---:|---:|---|")
        yield from (f"| {each.loss:.4f} | {100 * each.share:.1f} % | {each.tokens} | {_safe(each.where)} |" for each in told.pieces)
    if told.tokens:
        yield from ("", "## The worst tokens", "")
        yield from (f"- row {each.row} of batch {each.batch}: {_safe(each.sentence())}" for each in told.tokens)


def _layers_in_markdown(result: Replayed) -> Iterator[str]:
    if not result.layers:
        return
    strongest = sorted(result.layers, key=lambda each: -(0.0 if each.gradient is None else _order(each.gradient)))[:MOST_LAYERS]
    yield from ("", "## Layers, the strongest gradients first", "", "![gradients](layers.png)", "")
    yield from ("| parameter | gradient norm | weight norm | update / weight |", "|---|---:|---:|---:|")
    for each in strongest:
        gradient = "none" if each.gradient is None else f"{each.gradient:.4g}"
        yield f"| `{each.name}` | {gradient} | {each.weight:.4g} | {each.update_ratio:.3g} |"


def _order(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _safe(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in " ".join(str(text).split()))


# For programs.


def as_record(told: Told) -> dict[str, Any]:
    """Everything that is told, in JSON's own types; nan and infinity, which JSON lacks, are texts, as in the run's records."""
    result = told.result
    rows = [
        {
            **{"batch": score.music.number, "row": score.music.row, "transpose": score.music.transpose, "loss": score.loss},
            "not_read": score.misread,
            "parts": [
                {"piece": part.name, "bars": list(part.bars), "beats": list(part.beats), "start": part.start} for part in score.music.parts
            ],
            "files": {ending: path.name for ending, path in (told.files[place] if place < len(told.files) else {}).items()},
        }
        for place, score in enumerate(told.rows)
    ]
    record: dict[str, Any] = {"run": told.run, "step": told.step, "said": [*told.intro, *told.advice], "rows": rows}
    if result is not None:
        record |= {
            "loss": result.loss,
            "gradient_norm": result.gradient_norm,
            "not_finite": None if result.not_finite is None else vars(result.not_finite) | {"sentence": result.not_finite.sentence()},
            "updated": result.optimizer_stepped,
            "from_step": result.began_at,
            "seconds": result.seconds,
            "steps": [vars(trace) for trace in result.traces],
            "line": told.line,
            "compared": [{**vars(each), "equal": each.equal} for each in told.compared],
            "equal": bool(told.compared) and all(each.equal for each in told.compared),
            "pieces": [vars(each) for each in told.pieces],
            "worst_tokens": [{**vars(each), "sentence": each.sentence()} for each in told.tokens],
            "layers": [{**vars(each), "update_ratio": each.update_ratio} for each in result.layers],
        }
    return dict(plain(record))


# For a browser.

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .3rem}img{max-width:100%}audio{width:100%;height:34px}
table{border-collapse:collapse}td,th{padding:.15rem .7rem .15rem 0;text-align:left;font-variant-numeric:tabular-nums}
.bad{color:#b3261e;font-weight:600}
@media(prefers-color-scheme:dark){body{background:#17171a;color:#ddd}img{background:#fff}}
"""


def page(told: Told, folder: Path) -> str:
    """One file to open: what was found, and every row to play under its picture. Sounds and pictures lie beside it."""
    rows = [_row_section(told, place) for place in range(len(told.files)) if told.files[place]]
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in (*told.intro, *told.advice))
    result = told.result
    bad = f'<p class="bad">{html.escape(result.not_finite.sentence())}</p>' if result is not None and result.not_finite is not None else ""
    tokens = "".join(f"<li>{html.escape(each.sentence())}</li>" for each in told.tokens)
    tokens = f"<h2>The worst tokens</h2><ol>{tokens}</ol>" if tokens else ""
    layers = (
        '<h2>Layers</h2><img src="layers.png" alt="gradient norm and update of every layer">' if (folder / "layers.png").is_file() else ""
    )
    title = html.escape(f"Step {told.step:,} of {told.run}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1>{bad}<ul>{lines}</ul>{''.join(rows)}{tokens}{layers}</html>\n"
    )


def _row_section(told: Told, place: int) -> str:
    score, files = told.rows[place], told.files[place]
    loss = f", {score.loss:.4f} nats a token" if score.nll is not None else ""
    heading = html.escape(f"{place + 1}. {score.music.where}{loss}")
    picture = html.escape(files.get("loss.png", files["png"]).name)
    sound, midi = html.escape(files["wav"].name), html.escape(files["mid"].name)
    note = html.escape(f"batch {score.music.number:,}, row {score.music.row}")
    return (
        f'<h2>{heading}</h2><p>{note} · <a href="{midi}">MIDI</a></p><audio controls preload="none" src="{sound}"></audio>'
        f'<img loading="lazy" src="{picture}" alt="piano roll of the row, coloured by nats">'
    )
