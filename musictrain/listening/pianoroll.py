"""A piece as a picture: a piano roll in systems, read like a score from left to right and from top to bottom."""

from __future__ import annotations

import itertools
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from musictrain.listening.bars import bar_lines
from musictrain.listening.instruments import drum_name, part_names
from musictrain.notes import Notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart, without its yellow (too pale on white).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D4E8C", "#4D4D4D")
VOICE_COLOURS = ("#D55E00", "#E69F00", "#009E73", "#0072B2")  # soprano to bass
DRUM_COLOUR = "#4D4D4D"
INK, GUIDE, BLACK_KEY, PROMPT, PROMPT_EDGE = "#222222", "#D9D9DE", "#0000000B", "#FBF2D5", "#B09A5B"

WIDTH_INCHES, DOTS_PER_INCH = 13.0, 110
MARGIN_INCHES = {"left": 0.55, "right": 0.2, "top": 0.62, "bottom": 0.15}
GAP_INCHES = 0.3
BEATS_PER_SYSTEM, FEWEST_BEATS = 36.0, 12.0  # nine bars of 4/4; long pieces get more, so that there are about MOST_SYSTEMS
MOST_SYSTEMS = 14
USUAL_SYSTEM_INCHES, PITCH_INCHES = 2.9, (0.045, 0.085)  # a semitone is as high as fits, within these limits
MOST_INCHES = 55.0
LONGEST_TITLE = 110


@dataclass(frozen=True)
class Layout:
    """What stands where: rows of pitches, rows of drums below them, and the bars of each system."""

    lowest: int
    highest: int  # below lowest if there are only drums
    drums: tuple[str, ...]  # names of drums, top row first
    systems: tuple[NDArray[np.float64], ...]  # the bar lines of each system, its end included
    first_bars: tuple[int, ...]  # number of each system's first bar, from 1

    @property
    def bottom(self) -> float:
        """The lower edge of a system, in semitones: drum rows lie below the lowest pitch, two semitones each."""
        return self.lowest - 1.0 - (2.0 * len(self.drums) + 0.5 if self.drums else 0.0)

    @property
    def top(self) -> float:
        """The upper edge of a system, in semitones."""
        return self.highest + 1.0 if self.has_pitches else self.lowest - 1.25

    @property
    def has_pitches(self) -> bool:
        """False if there are drums alone."""
        return self.highest >= self.lowest

    @property
    def system_inches(self) -> float:
        """The height of one system."""
        rows = self.top - self.bottom
        usual = rows * float(np.clip(USUAL_SYSTEM_INCHES / rows, *PITCH_INCHES))
        return max(0.6, min(usual, MOST_INCHES / len(self.systems)))

    @property
    def width_beats(self) -> float:
        """How many beats fill the width: those of the longest system."""
        return max(FEWEST_BEATS, *(float(lines[-1] - lines[0]) for lines in self.systems))

    @property
    def drum_rows(self) -> dict[str, float]:
        """The middle of each drum's row, by its name."""
        return {name: self.lowest - 2.4 - 2.0 * index for index, name in enumerate(self.drums)}

    def drum_row(self, pitch: int) -> float:
        """The middle of the row of the drum at ``pitch``."""
        return self.drum_rows[drum_name(pitch)]


def draw_pianoroll(notes: Notes, path: str | os.PathLike[str], *, title: str = "", prompt_beats: float = 0.0) -> None:
    """Draw a piece as a .png, 1,430 pixels wide, higher for longer pieces.

    Colour tells voices or instruments apart, strength of colour is velocity, dotted lines are Cs, numbers are bars.

    Args:
        notes: the piece; without notes an empty bar is drawn.
        path: the file; the same notes give the same bytes.
        title: plain text, whatever it contains; cut after 110 characters.
        prompt_beats: how much of the beginning was given to the model: it is shaded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = lay_out(notes)
    height = MARGIN_INCHES["top"] + MARGIN_INCHES["bottom"] + len(layout.systems) * (layout.system_inches + GAP_INCHES)
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    parts = part_names(notes)
    colours = colours_of(parts)
    for index in range(len(layout.systems)):
        axes = _system_axes(figure, layout, index, height)
        _draw_frame(axes, layout, index, prompt_beats)
        _draw_notes(axes, notes, layout, index, colours)
    _draw_heading(figure, height, _plain(title), _legend(notes, parts, colours), with_prompt=prompt_beats > 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a title may use letters that no font here has
        figure.savefig(os.fspath(path), format="png", metadata={"Software": None})


def lay_out(notes: Notes) -> Layout:
    """Choose the range of pitches and where systems break."""
    lines = bar_lines(notes)
    breaks = _breaks(lines)
    lowest, highest = _range(notes)
    return Layout(
        lowest=lowest,
        highest=highest,
        drums=tuple(dict.fromkeys(drum_name(pitch) for pitch in sorted(set(notes.pitch[notes.drum].tolist()), reverse=True))),
        systems=tuple(lines[first : stop + 1] for first, stop in itertools.pairwise(breaks)),
        first_bars=tuple(first + 1 for first in breaks[:-1]),
    )


def _range(notes: Notes) -> tuple[int, int]:
    """The lowest and the highest pitch to show: at least an octave and a half, unless there are drums alone."""
    pitched = notes.pitched().pitch
    if not len(pitched):
        return (60, 59) if len(notes) else (52, 69)
    missing = max(0, 18 - int(pitched.max() - pitched.min()))
    return int(pitched.min()) - missing // 2, int(pitched.max()) + (missing + 1) // 2


def _breaks(lines: NDArray[np.float64]) -> list[int]:
    """The bar lines at which systems begin and end, so that systems are about equally long."""
    total = float(lines[-1] - lines[0])
    target = total / min(MOST_SYSTEMS, int(np.ceil(total / BEATS_PER_SYSTEM)))
    breaks = [0]
    while breaks[-1] < len(lines) - 1:
        # Round up to whole bars, so that the last system is the short one.
        stop = int(np.searchsorted(lines, lines[breaks[-1]] + target - 1e-6, side="left"))
        breaks.append(min(max(stop, breaks[-1] + 1), len(lines) - 1))
    return breaks


def _plain(title: str) -> str:
    """A title on one line, without control characters and not too long."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in title).split())
    return line if len(line) <= LONGEST_TITLE else line[: LONGEST_TITLE - 1] + "…"


def colours_of(parts: dict[tuple[int, int], str]) -> dict[tuple[int, int], str]:
    """A colour for every (track, program), given their names: the voices of a chorale have their own."""
    palette = VOICE_COLOURS if list(parts.values()) == ["Soprano", "Alto", "Tenor", "Bass"] else COLOURS
    return {part: palette[index % len(palette)] for index, part in enumerate(parts)}


def _system_axes(figure: Figure, layout: Layout, index: int, height: float) -> Axes:
    """The axes of one system; the last one is as long as its bars, not as the page."""
    lines = layout.systems[index]
    page = WIDTH_INCHES - MARGIN_INCHES["left"] - MARGIN_INCHES["right"]
    width = page * float(lines[-1] - lines[0]) / layout.width_beats
    bottom = height - MARGIN_INCHES["top"] - (index + 1) * (layout.system_inches + GAP_INCHES) + GAP_INCHES / 2
    box = (MARGIN_INCHES["left"] / WIDTH_INCHES, bottom / height, width / WIDTH_INCHES, layout.system_inches / height)
    return figure.add_axes(box)


def _draw_frame(axes: Axes, layout: Layout, index: int, prompt_beats: float) -> None:
    """Bar lines and numbers, octave lines, drum rows, the shaded prompt."""
    lines, first_bar = layout.systems[index], layout.first_bars[index]
    if prompt_beats > lines[0]:
        axes.axvspan(lines[0], min(prompt_beats, lines[-1]), color=PROMPT, zorder=-1, linewidth=0)
    if lines[0] < prompt_beats < lines[-1]:
        axes.axvline(prompt_beats, color=PROMPT_EDGE, linewidth=1.2, zorder=1)
    black_keys = [pitch for pitch in range(layout.lowest, layout.highest + 1) if pitch % 12 in (1, 3, 6, 8, 10)]
    axes.barh(black_keys, lines[-1] - lines[0], left=lines[0], height=1.0, color=BLACK_KEY, zorder=0, linewidth=0)
    axes.vlines(lines, layout.bottom, layout.top, color=GUIDE, linewidth=0.9, zorder=1)
    octaves = [pitch for pitch in range(layout.lowest, layout.highest + 1) if pitch % 12 == 0]
    axes.hlines(octaves, lines[0], lines[-1], color="#A9A9B2", linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)
    if layout.drums and layout.has_pitches:
        axes.axhline(layout.lowest - 1.25, color="#9A9AA2", linewidth=0.8, zorder=1)
    rows = [(float(pitch), f"C{pitch // 12 - 1}") for pitch in octaves]
    rows += [(row, name) for name, row in layout.drum_rows.items()]
    axes.set_yticks([row for row, _ in rows], [name for _, name in rows], fontsize=6.5, color=INK)
    axes.set(xlim=(lines[0], lines[-1]), ylim=(layout.bottom, layout.top))
    every = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 1000, 10**6) if (len(lines) - 1) / step <= 26)
    numbers = [bar for bar in range(first_bar, first_bar + len(lines) - 1) if every == 1 or bar % every == 0 or bar == first_bar]
    axes.set_xticks([lines[bar - first_bar] for bar in numbers], [str(bar) for bar in numbers], fontsize=7, color="#6A6A72", ha="left")
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_color("#C8C8CE")


def _draw_notes(axes: Axes, notes: Notes, layout: Layout, index: int, colours: dict[tuple[int, int], str]) -> None:
    """One rectangle a note, cut at the system's edges; loud notes are strong in colour."""
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    start, stop = layout.systems[index][0], layout.systems[index][-1]
    here = notes.select((notes.onset < stop) & (notes.onset + notes.duration > start))
    if not len(here):
        return
    left = np.maximum(here.onset, start)
    shortest = layout.width_beats / 700  # a grace note stays visible
    right = np.minimum(np.maximum(here.onset + here.duration, left + shortest), stop)
    middle = np.array([layout.drum_row(p) if drum else p for p, drum in zip(here.pitch.tolist(), here.drum.tolist(), strict=True)])
    right = np.where(here.drum, np.minimum(left + max(0.2, shortest), stop), right)
    half = np.where(here.drum, 0.7, 0.46)
    corners = np.stack([left, middle - half, left, middle + half, right, middle + half, right, middle - half], axis=1).reshape(-1, 4, 2)
    parts = zip(here.track.tolist(), here.program.tolist(), here.drum.tolist(), strict=True)
    rgb = np.array([to_rgb(DRUM_COLOUR if drum else colours[(track, program)]) for track, program, drum in parts])
    alpha = 0.3 + 0.7 * np.clip(here.velocity / 100.0, 0.0, 1.0)
    faces = np.concatenate([rgb, alpha[:, None]], axis=1)
    axes.add_collection(PolyCollection(list(corners), facecolors=faces, edgecolors="white", linewidths=0.4, zorder=3), autolim=False)
    # A dark edge at the onset: repeated notes stay two notes.
    began = here.onset >= start
    axes.vlines(left[began], (middle - half)[began], (middle + half)[began], colors=rgb[began] * 0.6, linewidth=0.9, zorder=4)


def _legend(notes: Notes, parts: dict[tuple[int, int], str], colours: dict[tuple[int, int], str]) -> list[tuple[str, str]]:
    """(name, colour) of every voice or instrument; equal pairs once, at most nine."""
    entries = dict.fromkeys((name, colours[part]) for part, name in parts.items())
    shown = list(entries)[:8] + ([(f"and {len(entries) - 8} more", "#FFFFFF")] if len(entries) > 8 else [])
    return shown + ([("Drums", DRUM_COLOUR)] if notes.drum.any() else [])


def _draw_heading(figure: Figure, height: float, title: str, legend: list[tuple[str, str]], *, with_prompt: bool) -> None:
    """Title on the left, legend below it."""
    from matplotlib.patches import Patch

    left = MARGIN_INCHES["left"] / WIDTH_INCHES
    figure.text(left, 1 - 0.16 / height, title, fontsize=11, color=INK, va="top", ha="left", weight="bold", parse_math=False)
    patches: list[Any] = [Patch(facecolor=colour, label=name) for name, colour in legend]
    if with_prompt:
        patches.append(Patch(facecolor=PROMPT, edgecolor=PROMPT_EDGE, linewidth=0.8, label="prompt"))
    if patches:
        anchor = (left, 1 - 0.38 / height)
        shape: dict[str, Any] = {"handlelength": 1.2, "handleheight": 0.7, "columnspacing": 1.4, "borderpad": 0, "borderaxespad": 0}
        figure.legend(handles=patches, loc="upper left", bbox_to_anchor=anchor, ncol=10, frameon=False, fontsize=8, labelcolor=INK, **shape)
