"""Pictures of a step: a row's piano roll coloured by how badly each token was foretold, and the gradients of all layers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from musictrain.listening.pianoroll import lay_out
from musictrain.replay.found import Layer
from musictrain.replay.scores import RowScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GUIDE, FAINT, NOT_FINITE = "#222222", "#D9D9DE", "#EDEDF1", "#00B8D4"
COLOURS = "YlOrRd"
WIDTH_INCHES, DOTS_PER_INCH = 13.0, 110
LEFT, RIGHT, TOP, GAP, STRIP = 0.55, 0.95, 0.6, 0.34, 0.55  # inches; the strip below each system shows nats by beat
MOST_LAYERS = 60


def draw_row(score: RowScore, path: Path, *, title: str, highest_nats: float) -> None:
    """Draw a row as a .png: its notes, each token in the colour of its nats, and the nats of each quarter of a beat below.

    Args:
        score: the row.
        path: the file.
        title: plain text.
        highest_nats: what has the darkest colour; the same for all rows that are to be compared.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    layout = lay_out(score.music.notes)
    count = len(layout.systems)
    height = TOP + count * (layout.system_inches + STRIP + GAP) + 0.1
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    norm = Normalize(0.0, highest_nats)
    page = WIDTH_INCHES - LEFT - RIGHT
    for index, lines in enumerate(layout.systems):
        width = page * float(lines[-1] - lines[0]) / layout.width_beats
        bottom = height - TOP - (index + 1) * (layout.system_inches + STRIP + GAP) + GAP
        roll = figure.add_axes((LEFT / WIDTH_INCHES, (bottom + STRIP) / height, width / WIDTH_INCHES, layout.system_inches / height))
        strip = figure.add_axes((LEFT / WIDTH_INCHES, bottom / height, width / WIDTH_INCHES, (STRIP - 0.06) / height))
        _frame(roll, score, lines, (layout.bottom, layout.top), layout.lowest, layout.highest)
        _cells(roll, score, float(lines[0]), float(lines[-1]), norm)
        _strip(strip, score, lines, norm)
    _colour_bar(figure, height, norm)
    figure.text(LEFT / WIDTH_INCHES, 1 - 0.16 / height, title, fontsize=11, color=INK, va="top", weight="bold", parse_math=False)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may use letters that no font here has
        figure.savefig(path, format="png", metadata={"Software": None})


def _frame(axes: Axes, score: RowScore, lines: Any, rows: tuple[float, float], lowest: int, highest: int) -> None:
    axes.vlines(lines, *rows, color=GUIDE, linewidth=0.9, zorder=1)
    octaves = [pitch for pitch in range(lowest, highest + 1) if pitch % 12 == 0]
    axes.hlines(octaves, lines[0], lines[-1], color="#A9A9B2", linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)
    axes.set_yticks(octaves, [f"C{pitch // 12 - 1}" for pitch in octaves], fontsize=6.5, color=INK)
    axes.set(xlim=(lines[0], lines[-1]), ylim=rows)
    bars = [(line, bar) for line, bar in bars_of(score) if lines[0] - 1e-6 <= line < lines[-1] - 1e-6]
    axes.set_xticks([line for line, _ in bars], [bar for _, bar in bars], fontsize=7, color="#6A6A72", ha="left")
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_color("#C8C8CE")


def bars_of(score: RowScore) -> list[tuple[float, str]]:
    """Where in the laid-out row bars begin, and their numbers in their piece; a piece's first one with its name where there are several."""
    found = []
    for part in score.music.parts:
        for place, line in enumerate(part.bar_lines[:-1]):
            name = f" {part.name}" if place == 0 and len(score.music.parts) > 1 else ""
            found.append((float(line) - float(part.bar_lines[0]) + part.at, f"{part.bars[0] + place}{name}"))
    return found


def _cells(axes: Axes, score: RowScore, start: float, stop: float, norm: Any) -> None:
    """A rectangle for each token that has a pitch; the notes themselves in grey behind, for what is not predicted."""
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    notes = score.music.notes
    here = notes.select((notes.onset < stop) & (notes.onset + notes.duration > start))
    grey = _corners(np.maximum(here.onset, start), np.minimum(here.onset + here.duration, stop), here.pitch)
    axes.add_collection(PolyCollection(grey, facecolors=FAINT, edgecolors="#B8B8C0", linewidths=0.5, zorder=2), autolim=False)
    if score.nll is None:
        return
    beats, spans, pitches = score.music.beats[1:], score.music.spans[1:], score.music.pitches[1:]
    nats = nats_of_notes(score)
    shown = np.flatnonzero((pitches >= 0) & (beats >= start - 1e-6) & (beats < stop - 1e-6) & ~np.isnan(beats) & (nats != 0))
    corners = _corners(beats[shown], np.minimum(beats[shown] + spans[shown], stop), pitches[shown])
    colours = [colormaps[COLOURS](norm(value)) if math.isfinite(value) else NOT_FINITE for value in nats[shown]]
    axes.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="white", linewidths=0.25, zorder=3), autolim=False)
    began = here.onset >= start - 1e-6
    axes.vlines(here.onset[began], here.pitch[began] - 0.46, here.pitch[began] + 0.46, colors="#33333A", linewidth=0.9, zorder=4)


def nats_of_notes(score: RowScore) -> Any:
    """Nats to draw at each target: on a grid its own; of an event's note the mean of its tokens, at the last of them; 0 for no token."""
    assert score.nll is not None
    assert score.counted is not None
    music = score.music
    nats, tokens = np.where(score.counted, score.nll, 0.0), score.counted.astype(float)
    key = np.stack([music.beats[1:], music.spans[1:], music.pitches[1:]])
    same = np.zeros(len(nats), bool)
    same[:-1] = (key[:, :-1] == key[:, 1:]).all(0) & (music.pitches[1:-1] >= 0)
    for place in np.flatnonzero(same):
        for column in (nats, tokens):
            column[place + 1] += column[place]
            column[place] = 0.0
    return nats / np.maximum(tokens, 1.0)


def _corners(left: Any, right: Any, pitch: Any) -> Any:
    low, high = pitch - 0.46, pitch + 0.46
    return np.stack([left, low, left, high, right, high, right, low], axis=1).reshape(-1, 4, 2) if len(left) else []


def _strip(axes: Axes, score: RowScore, lines: Any, norm: Any) -> None:
    """Nats of every quarter of a beat, whatever its tokens are."""
    from matplotlib import colormaps

    start, stop = float(lines[0]), float(lines[-1])
    axes.set(xlim=(start, stop))
    axes.set_xticks([])
    axes.tick_params(labelsize=6, length=0, pad=2, colors="#6A6A72")
    axes.set_ylabel("nats", fontsize=6.5, color="#6A6A72")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set_color("#C8C8CE")
    axes.vlines(lines, 0, 1, color=GUIDE, linewidth=0.9, transform=axes.get_xaxis_transform(), zorder=0)
    if score.nll is None or score.counted is None:
        return
    beats = score.music.beats[1:][score.counted]
    bins = np.floor((beats + 1e-6) * 4).astype(int)
    sums = np.bincount(bins, score.nll[score.counted], minlength=1)
    counts = np.maximum(np.bincount(bins, minlength=1), 1)
    here = np.flatnonzero((np.arange(len(sums)) / 4 >= start - 1e-6) & (np.arange(len(sums)) / 4 < stop - 1e-6))
    heights = np.where(np.isfinite(sums), sums, 0.0)
    colours = [colormaps[COLOURS](norm(sums[i] / counts[i])) if math.isfinite(sums[i]) else NOT_FINITE for i in here]
    axes.bar(here / 4, heights[here], width=0.25, align="edge", color=colours, edgecolor="#8A8A92", linewidth=0.2)
    axes.set_ylim(0, max(1e-3, float(heights.max(initial=0.0)) * 1.05))


def _colour_bar(figure: Figure, height: float, norm: Any) -> None:
    from matplotlib.cm import ScalarMappable

    axes = figure.add_axes((1 - 0.62 / WIDTH_INCHES, 1 - (TOP + min(2.4, height - TOP - 0.2)) / height, 0.14 / WIDTH_INCHES,
                            min(2.4, height - TOP - 0.2) / height))  # fmt: skip
    bar = figure.colorbar(ScalarMappable(norm, COLOURS), cax=axes)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(labelsize=6.5, length=2, colors="#6A6A72")
    bar.set_label("nats a token", fontsize=7, color="#6A6A72")


def draw_layers(layers: Sequence[Layer], path: Path, *, title: str) -> None:
    """Draw the gradient norm of every parameter, in the module's order, and how far the step moved it, as a .png."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = layers if len(layers) <= MOST_LAYERS else sorted(layers, key=lambda each: -_size(each.gradient))[:MOST_LAYERS]
    height = 1.1 + 0.19 * max(1, len(shown))
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    names = [each.name for each in shown]
    columns: list[tuple[list[float | None], str]] = [
        ([each.gradient for each in shown], "gradient norm before clipping"),
        ([each.update_ratio for each in shown], "update / weight"),
    ]
    for index, (values, label) in enumerate(columns):
        axes = figure.add_axes((0.32 + 0.35 * index, 0.45 / height, 0.31, (height - 1.1) / height))
        finite = [value if value is not None and math.isfinite(value) and value > 0 else math.nan for value in values]
        axes.barh(range(len(shown)), finite, color="#0072B2", height=0.7)
        least = min((value for value in finite if math.isfinite(value)), default=1e-3)
        for row, value in enumerate(values):
            if value is None or not math.isfinite(value) or value == 0:
                word = "none" if value is None else "0" if value == 0 else "not finite"
                axes.text(least, row, f" {word}", fontsize=6.5, va="center", color="#D55E00")
        if any(math.isfinite(value) for value in finite):
            axes.set_xscale("log")
        axes.set_yticks(range(len(shown)), names if index == 0 else [""] * len(shown), fontsize=6.5, color=INK)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(label, fontsize=8, color=INK)
        axes.tick_params(labelsize=6.5, length=2, colors=INK)
        axes.grid(axis="x", color=GUIDE, linewidth=0.6)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("bottom", "left"))
            spine.set_color("#C8C8CE")
    figure.text(LEFT / WIDTH_INCHES, 1 - 0.16 / height, title, fontsize=11, color=INK, va="top", weight="bold", parse_math=False)
    _save(figure, path)


def _size(value: float | None) -> float:
    return -1.0 if value is None else value if math.isfinite(value) else math.inf
