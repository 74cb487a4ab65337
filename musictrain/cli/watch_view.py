"""What ``watch`` shows, as lines of words with a style each: for rich on a terminal, and as plain text."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from typing import Any

from musictrain.cli.runs_texts import figure, inert, moment
from musictrain.cli.watched_run import WatchedRun
from musictrain.runs.folder import number
from musictrain.runs.standing import LOSS, SCORE, clock, duration, joined
from musictrain.runs.status import STALE

Line = list[tuple[str, str]]
"""Words, and a style of rich for each."""

STATE_STYLES = {
    **dict.fromkeys(("starting", "training", "validating", "sampling", "saving"), "bold cyan"),
    **dict.fromkeys(("stopped", "interrupted", "paused"), "bold yellow"),
    **{"finished": "bold green", "failed": "bold red", STALE: "bold magenta"},
}
STEPS = "▁▂▃▄▅▆▇█"
PLAIN_STEPS = "_.-=+*#@"
MACHINE = (
    ("speed/memory_peak_mib", 1, "memory {:,.0f} MiB"),
    ("speed/data_wait", 100, "waiting for data {:.1f} %"),
    ("speed/mfu", 100, "{:.1f} % of the peak"),
    ("train/lr", 1, "learning rate {:.3g}"),
    ("train/gradient_norm", 1, "gradient {:.3g}"),
)
MOST_ALERTS, MOST_EVENTS = 3, 5
LONGEST_NAME = 24


def view(watched: WatchedRun, now: float, width: int) -> list[Line]:
    """One run, in lines of at most ``width`` columns."""
    lines = [heading(watched, now, width), progress_line(watched, now, width), machine_line(watched, now)]
    lines += [curve_line(watched, name, width) for name in shown_metrics(watched)]
    lines += [*ending(watched, now), *alert_lines(watched), *event_lines(watched)]
    return [cropped(line, width) for line in lines if line]


def heading(watched: WatchedRun, now: float, width: int) -> Line:
    """Name, state, and how old the news are."""
    status, state = watched.status, watched.state(now)
    line = [(shortened(watched.run.name, width - len(state) - 2), "bold"), ("  ", ""), (state, STATE_STYLES.get(state, ""))]
    if status is None:
        return [*line, ("  no status.json: the run is older than that, or not musictrain's", "bright_black")]
    line += [(f"  attempt {status.attempt}", "")] if status.attempt > 1 else []
    age = max(now - status.updated, 0.0)
    return [*line, (f"  heard of {duration(age)} ago", "bright_black")] if status.is_active() and age >= 10 else line


def shortened(name: str, width: int) -> str:
    """The name of a run, without its date and then by its last two words where there is no room; each is enough to type.

    >>> shortened("2026-11-22_120000-chorales-wandering-quartet", 30)
    'chorales-wandering-quartet'
    """
    names = (name, re.sub(r"^\d{4}-\d\d-\d\d_\d{6}-", "", name), "-".join(name.split("-")[-2:]))
    return inert(next((each for each in names if len(inert(each)) <= width), min(names, key=len)))


def progress_line(watched: WatchedRun, now: float, width: int) -> Line:
    """A bar, and what the run's own progress line says."""
    standing = watched.standing(now)
    elsewhere = ("loss", "score", "state", *(() if watched.status is not None else ("elapsed",)))
    parts = {name: words for name, words in standing.parts().items() if name not in elsewhere}
    for name in ("bounds", "elapsed", "rate", "end"):
        if len(joined(parts)) > width:
            parts.pop(name, None)
    words = joined(parts)
    if standing.share is None:
        return [(words, "")]
    room = min(width - len(words) - 2, 32)
    return [*(bar(standing.share, room) if room >= 6 else []), ("  " if room >= 6 else "", ""), (words, "")]


def bar(share: float, width: int) -> Line:
    """A share in [0, 1]."""
    filled = int(share * width)
    full, empty = ("━", "─") if can_show("━─") else ("#", "-")
    return [(full * filled, "green"), (empty * (width - filled), "bright_black")]


def machine_line(watched: WatchedRun, now: float) -> Line:
    """What is known of memory, waiting, learning rate."""
    values = watched.standing(now).values
    told = [words.format(factor * values[name]) for name, factor, words in MACHINE if math.isfinite(values.get(name, math.nan))]
    return [("   ".join(told), "bright_black")] if told else []


def shown_metrics(watched: WatchedRun) -> list[str]:
    """The first name of a loss and of a validation score that the run has, and what was asked for."""
    losses = [next((name for name in names if name in watched.curves), None) for names in (LOSS, SCORE)]
    return list(dict.fromkeys([*(name for name in losses if name), *(name for name in watched.metrics if name in watched.curves)]))


def curve_line(watched: WatchedRun, name: str, width: int) -> Line:
    """Name, last value, curve, best value."""
    points = watched.curves[name].points
    best = watched.status.best if watched.status is not None else {}
    told = f"  best {figure(best.get('value'))} at step {figure(best.get('step'))}" if best.get("metric") == name else ""
    label = f"{inert(name)[:LONGEST_NAME]:<12}  {figure(watched.values[name]):>8}  "
    room = max(min(width - len(label) - len(told), 80), 8)
    return [(label, ""), (sparkline([value for _, value in points], room), "cyan"), (told, "green")]


def sparkline(values: Sequence[float], width: int) -> str:
    """Values in a row of blocks, one for each stretch of them: its mean between the lowest and the highest of all means.

    >>> sparkline([3.0, 2.0, 1.0, 0.0], 4)
    '█▆▃▁'
    """
    steps = STEPS if can_show(STEPS) else PLAIN_STEPS
    count = min(width, len(values))
    means = [_mean(values[place * len(values) // count : (place + 1) * len(values) // count]) for place in range(count)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    span = high - low or 1.0
    return "".join(steps[round((mean - low) / span * (len(steps) - 1))] for mean in means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def ending(watched: WatchedRun, now: float) -> list[Line]:
    """Why it ended, or that it is stale, and what to do."""
    state, status = watched.state(now), watched.status
    if state == STALE and status is not None:
        gone = f"Nobody writes this run any more: process {status.pid} on {inert(status.host)} was last heard of "
        when = f"{duration(max(now - status.updated, 0))} ago."
        return [[(gone + when, "magenta")], [(f"  -> go on with: musictrain resume {inert(watched.run.name)}", "cyan")]]
    told = watched.as_json(now)
    reason = [[(f"{state}: {inert(told['reason'])}", STATE_STYLES.get(state, ""))]] if told["reason"] else []
    return [*reason, *([[(f"  -> {inert(told['advice'])}", "cyan")]] if told["advice"] else [])]


def alert_lines(watched: WatchedRun) -> list[Line]:
    """The last alerts, newest first, each with its advice."""
    lines: list[Line] = [[(f"Alerts ({watched.num_alerts:,})", "bold yellow")]] if watched.num_alerts else []
    for alert in list(watched.alerts)[: -MOST_ALERTS - 1 : -1]:
        step = f"step {figure(alert['step'])}  " if alert.get("step") is not None else ""
        lines.append([(f"  {_time(alert)}  {step}", "bright_black"), (inert(alert.get("message", alert.get("kind", ""))), "yellow")])
        lines += [[(f"         -> {inert(alert['advice'])}", "cyan")]] if alert.get("advice") else []
    return lines


def event_lines(watched: WatchedRun) -> list[Line]:
    """The last things that happened, newest first."""
    lines: list[Line] = [[("Events", "bold")]] if watched.events else []
    for event in list(watched.events)[: -MOST_EVENTS - 1 : -1]:
        facts = [
            f"{key} {figure(value)}"
            for key, value in event.items()
            if key not in ("time", "event") and isinstance(value, str | int | float)
        ]
        lines.append([(f"  {_time(event)}  ", "bright_black"), (inert(event["event"]), ""), ("  " + ", ".join(facts), "bright_black")])
    return lines


def _time(event: dict[str, Any]) -> str:
    return moment(number(event.get("time")), "%H:%M:%S") or "--:--:--"


# Several runs.

HEADINGS = ("run", "state", "progress", "loss", "val", "tokens/s", "left", "ends", "alerts")


def table_view(runs: Sequence[WatchedRun], now: float, width: int) -> list[Line]:
    """A line for each run, as its status tells."""
    cells = [cells_of(run, now) for run in runs]
    widths = [max(len(row[column]) for row in [HEADINGS, *cells]) for column in range(len(HEADINGS))]
    if (over := sum(widths) + 2 * len(widths) - width) > 0:
        cells = [(shortened(run.run.name, widths[0] - over), *row[1:]) for run, row in zip(runs, cells, strict=True)]
        widths[0] = max(len(row[0]) for row in [HEADINGS, *cells])
    lines: list[Line] = [[("  ".join(f"{word:<{size}}" for word, size in zip(HEADINGS, widths, strict=True)), "bold")]]
    for row in cells:
        styles = ["", STATE_STYLES.get(row[1], ""), *[""] * (len(row) - 2)]
        lines.append([(f"{cell:<{size}}  ", style) for cell, size, style in zip(row, widths, styles, strict=True)])
    return [cropped(line, width) for line in lines]


def cells_of(watched: WatchedRun, now: float) -> tuple[str, ...]:
    """What the table says of one run."""
    standing = watched.standing(now)
    parts, left = standing.parts(), standing.left
    share = "" if standing.share is None else f" {100 * standing.share:.0f} %"
    return (
        inert(watched.run.name),
        watched.state(now),
        parts["step"].removeprefix("step ") + share,
        parts.get("loss", "").removeprefix("loss "),
        parts.get("score", "").removeprefix("val "),
        parts.get("rate", "").removesuffix(" tokens/s"),
        "" if left is None else duration(left.seconds),
        "" if left is None else clock(now + left.seconds, now),
        figure(watched.status.num_alerts) if watched.status is not None and watched.status.num_alerts else "",
    )


# Lines.


def cropped(line: Line, width: int) -> Line:
    """At most so many columns."""
    kept: Line = []
    for words, style in line:
        room = width - sum(len(each) for each, _ in kept)
        kept.append((words if len(words) <= room else words[: max(room - 1, 0)] + ("…" if can_show("…") and room > 0 else ""), style))
    return kept


def as_text(lines: Sequence[Line]) -> str:
    """The words alone."""
    return "\n".join("".join(words for words, _ in line).rstrip() for line in lines)


def can_show(signs: str) -> bool:
    """Whether standard output takes these signs."""
    try:
        signs.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
