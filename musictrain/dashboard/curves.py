"""``curves.png``: loss, learning rate, gradient norm and speed in one picture, for a mail or a look without a browser."""

from __future__ import annotations

import io
import math
from typing import Any

from musictrain.dashboard.charts import Chart, charts_of
from musictrain.dashboard.curve_reading import CurveReader
from musictrain.dashboard.downsampling import Point
from musictrain.dashboard.event_reading import clean
from musictrain.runs.atomic import atomic_write
from musictrain.runs.folder import RunFolder

SHOWN = ("loss", "learning rate", "gradient norm", "speed/tokens_per_second")
COLOURS = {"train": "#3d73bd", "validation": "#cc5a1c"}
INK, QUIET, LINE = "#1d1e21", "#5f636b", "#e4e2dc"
MOST_CURVES = 8


def write_curves(run: RunFolder, curves: CurveReader | None = None) -> bool:
    """Draw ``curves.png`` into a run folder; False, and nothing is written, while there is no curve to draw.

    Args:
        run: which has recorded something.
        curves: its curves, if they have been read already.

    Raises:
        OSError: if the folder cannot be written.
    """
    if curves is None:
        curves = CurveReader(run)
        curves.read()
    charts = [chart for chart in charts_of(curves.curves) if chart.name in SHOWN][: len(SHOWN)]
    if not charts:
        return False
    atomic_write(run.curves, picture(run.name, charts, {key: curve.points() for key, curve in curves.curves.items()}), durable=False)
    return True


def picture(title: str, charts: list[Chart], points: dict[str, list[Point]]) -> bytes:
    """A PNG of these charts, two in a row."""
    # Imported here: a second that nobody should wait for who does not draw. No pyplot, which keeps figures and is not for threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows, columns = (len(charts) + 1) // 2, min(len(charts), 2)
    figure = Figure(
        figsize=(6.2 * columns, 3.1 * rows + 0.4), dpi=110, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    )
    FigureCanvasAgg(figure)
    # A name is a name: no "$" in it is read as mathematics.
    figure.suptitle(clean(title, 110), fontsize=11, color=INK, parse_math=False)
    for place, chart in enumerate(charts):
        _draw(figure.add_subplot(rows, columns, place + 1), chart, points)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": "musictrain"})
    return content.getvalue()


def _draw(axes: Any, chart: Chart, points: dict[str, list[Point]]) -> None:
    for key, label in chart.curves[:MOST_CURVES]:
        steps = [step for step, _ in points[key]]
        values = [value if math.isfinite(value) else math.nan for _, value in points[key]]
        few = ".-" if len(steps) <= 60 else "-"
        axes.plot(
            steps,
            values,
            few,
            linewidth=1.3,
            markersize=4,
            color=COLOURS.get(label, COLOURS["train"] if len(chart.curves) == 1 else None),
            label=clean(label, 40),
        )
    last = max((points[key][-1][0] for key, _ in chart.curves if points[key]), default=1)
    first = min((points[key][0][0] for key, _ in chart.curves if points[key]), default=0)
    axes.set_xlim(first if first > last / 2 else 0, max(last, first + 1) * 1.01)
    axes.set_title(chart.title, fontsize=10, color=INK, loc="left", parse_math=False)
    axes.set_xlabel("optimizer steps", fontsize=8.5, color=QUIET)
    axes.tick_params(labelsize=8.5, colors=QUIET)
    axes.grid(True, axis="y", color=LINE, linewidth=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    if len(chart.curves) > 1:
        legend = axes.legend(fontsize=8.5, frameon=False, labelcolor=QUIET)
        for text in legend.get_texts():
            text.set_parse_math(False)
