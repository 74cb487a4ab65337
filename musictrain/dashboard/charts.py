"""Which curve is drawn where: sections, charts, and what stands together in one.

Conventions:

- ``train/x`` and ``val/x`` are one chart. So are ``train_x`` and ``val_x``, as other people's modules log them.
- A value of ``val/...`` that is no likelihood is a musical score.
- Nothing is left out: what nobody thought of gets a chart of its own under "learning".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from musictrain.dashboard.score_words import CORPUS_BAND, SCORES

# What everybody looks at first: never left out, and drawn in full detail as long as anything is.
MAIN = ("train/loss", "val/loss", "train/lr", "train/gradient_norm", "train/tokens", "speed/tokens_per_second")
SPLITS = ("train", "val", "valid", "validation", "test")
PREFIX = re.compile(rf"^({'|'.join(SPLITS)})[/_.](.+)$")
LIKELIHOOD = re.compile(r"(^|[/_.])(loss|nll|nats|bits|ppl|perplexity|likelihood|cross_entropy|accuracy|top_?\d+)([/_.]|$)", re.IGNORECASE)
MACHINE = re.compile(r"^(speed|system|device|gpu|cuda|memory)([/_.]|$)|(per_second|_per_sec|mib|_gib)$|^DeviceStatsMonitor", re.IGNORECASE)
RANK = re.compile(r"^speed/rank_(\d+)/(.+)$")
PARTS_OF_TIME = ("data", "forward", "backward", "optimizer", "validation", "sampling", "saving", "reporting", "other")
SHARE = re.compile(rf"^speed/({'|'.join(PARTS_OF_TIME)})_share$")
TOKENS = "train/tokens"
LEARNING_RATE = re.compile(r"(^|[/_.])(lr|learning_rate)([-/_.]|$)", re.IGNORECASE)
GRADIENT_NORM = re.compile(r"grad(ient)?s?_(2\.0_)?norm", re.IGNORECASE)

TITLES = {
    "loss": ("Loss", ""),
    "nats_per_note": ("Nats per note", ""),
    "bits_per_beat": ("Bits per beat", ""),
    "soft_loss": ("Distance from the teacher's predictions", "nats"),
    "soft_weight": ("Weight of the teacher's predictions in the loss", "share"),
    "hidden_loss": ("Distance from the teacher's hidden states", "share"),
    "speed/tokens_per_second": ("Tokens per second", ""),
    "speed/notes_per_second": ("Notes per second", ""),
    "speed/pieces_per_second": ("Pieces per second", ""),
    "speed/steps_per_second": ("Steps per second", ""),
    "speed/mfu": ("MFU, share of the device's peak", "share"),
    "speed/data_wait": ("Waiting for data", "share"),
    "speed/memory_peak_mib": ("Memory, at most", "MiB"),
    "speed/straggler": ("Straggler, share above the median", "share"),
    "train/tokens": ("Tokens read", ""),
    "train/tokens_not_finite": ("Tokens left out of the loss, which is not finite there", ""),
    "train/tokens_per_second": ("Tokens per second, training steps alone", ""),
}
# What AnomalyAlerts has seen at its looks: chart, section, title, unit, the word in the chart.
HEALTH = {
    "loss": ("health/loss", "learning", "Loss of single steps", "", "loss"),
    "gradient_norm": ("gradient norm", "learning", "Gradient norm", "", "seen at looks"),
    "lr_factor": ("health/lr_factor", "learning", "Learning rate, lowered after an alert", "", "factor"),
    "loss_scale": ("health/loss_scale", "learning", "Loss scale", "", "loss scale"),
    "entropy": ("health/entropy", "learning", "Entropy of the predictions", "nats", "entropy"),
    "update_ratio": ("health/update_ratio", "learning", "Update as a share of the weights, in the middle", "", "share"),
    "update_ratio_max": ("health/update_ratio_max", "learning", "Update as a share of the weights, at most", "", "share"),
    "dead_units_max": ("health/units", "learning", "Dead or saturated units of the worst layer", "share", "dead"),
    "saturated_units_max": ("health/units", "learning", "Dead or saturated units of the worst layer", "share", "saturated"),
    "tokens_per_second": ("health/tokens_per_second", "machine", "Tokens per second, between looks", "", "tokens per second"),
    "data_wait": ("health/data_wait", "machine", "Waiting for data, longest of all ranks", "share", "waiting for data"),
    "memory_mib": ("health/memory_mib", "machine", "Memory held, most of all ranks", "MiB", "memory"),
    "slowest_rank": ("health/slowest_rank", "machine", "Slowest rank, times the usual one", "", "slowest rank"),
}
# What CurriculumSchedule says of the batches: the word in the chart; a corpus has its own name.
CURRICULUM = {"difficulty": "windows drawn from", "length": "of a window kept", "competence": "competence"}
OF_BATCHES = (
    "What batches are made of: the share of the windows, easiest first, that are drawn from; the share of a window that rows keep; the "
    "shares of the corpora."
)
# The order within a section; what is not named here follows by its name.
FIRST: tuple[str, ...] = (
    *("loss", "learning rate", "gradient norm", "curriculum", "nats_per_note", "bits_per_beat"),
    *("where the time goes", "speed/tokens_per_second", "speed/mfu", "speed/data_wait", "speed/memory_peak_mib"),
    *SCORES,
)


@dataclass
class Chart:
    """One chart: the curves in it by key, each with the word it has in the legend.

    ``kind`` is ``lines`` or ``stack``; ``unit`` is a word for the values, ``share`` for a part of one; ``about`` is a sentence on what they
    mean, empty where the title says it; ``band`` says what the corpus' band is, if there is one.
    """

    name: str
    section: str
    title: str
    unit: str = ""
    kind: str = "lines"
    about: str = ""
    band: str = CORPUS_BAND
    curves: list[tuple[str, str]] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """For the page."""
        told: dict[str, Any] = {"name": self.name, "section": self.section, "title": self.title, "unit": self.unit, "kind": self.kind}
        # There may be thousands of charts, and the page has a megabyte.
        words = {"about": self.about, "band": "" if self.band == CORPUS_BAND else self.band}
        return {**told, **{name: text for name, text in words.items() if text}, "curves": [list(curve) for curve in self.curves]}


def charts_of(keys: Iterable[str]) -> list[Chart]:
    """The charts for these curves, in the order in which they are shown."""
    charts: dict[tuple[str, str], Chart] = {}
    for key in keys:
        fresh, label = _place(key)
        charts.setdefault((fresh.section, fresh.name), fresh).curves.append((key, label))
    for chart in charts.values():
        chart.curves.sort(key=lambda curve: _curve_order(curve[1]))
    return sorted(charts.values(), key=_chart_order)


def _place(key: str) -> tuple[Chart, str]:
    """The chart for a key, as if it were the first there, and the key's word in it."""
    if match := RANK.match(key):
        title, unit = TITLES.get(f"speed/{match[2]}", (_words(match[2]), ""))
        return Chart(f"rank/{match[2]}", "machine", f"{title}, by rank", unit), f"rank {match[1]}"
    if (told := HEALTH.get(key.removeprefix("health/"))) and key.startswith("health/"):
        name, section, title, unit, word = told
        return Chart(name, section, title, unit), word
    if key.startswith("curriculum/"):
        part = key.removeprefix("curriculum/")
        word = CURRICULUM.get(part, part.removeprefix("share_"))
        return Chart("curriculum", "learning", "Curriculum", "share", about=OF_BATCHES), word
    if match := SHARE.match(key):
        return Chart("where the time goes", "machine", "Where the time goes", "share", "stack"), match[1]
    if MACHINE.search(key) or key == TOKENS:
        title, unit = TITLES.get(key, (_words(key.removeprefix("speed/")), ""))
        return Chart(key, "machine", title, unit), title.lower()
    if LEARNING_RATE.search(key):
        return Chart("learning rate", "learning", "Learning rate"), _words(key.removeprefix("train/")) if key != "train/lr" else "rate"
    if GRADIENT_NORM.search(key):
        return Chart("gradient norm", "learning", "Gradient norm"), "norm" if key == "train/gradient_norm" else key
    return _by_split(key)


def _by_split(key: str) -> tuple[Chart, str]:
    match = PREFIX.match(key)
    split, name = (match[1], match[2]) if match else ("", key)
    split = "val" if split in ("valid", "validation") else split
    musical = split in ("val", "test") and not LIKELIHOOD.search(name)
    label = {"train": "train", "val": "validation", "test": "test"}.get(split, _words(name).lower())
    if musical and name in SCORES:
        title, unit, about, band = SCORES[name]
        return Chart(name, "music", title, unit, about=about, band=band), label
    title, unit = TITLES.get(name, (_words(name), ""))
    return Chart(name, "music" if musical else "learning", title, unit), label


def is_musical(key: str) -> bool:
    """Whether a key is a musical score: a validation value that is no likelihood.

    >>> is_musical("val/groove_similarity"), is_musical("val/loss")
    (True, False)
    """
    return _place(key)[0].section == "music"


def _words(name: str) -> str:
    words = re.sub(r"[_\s]+", " ", name).strip()
    return words[:1].upper() + words[1:] if words else name


def _curve_order(label: str) -> tuple[int, int, str]:
    if label in PARTS_OF_TIME:
        # In the order of a step, but what the time should go to lies at the bottom of the stack.
        return ((*PARTS_OF_TIME[1:4], "data", *PARTS_OF_TIME[4:]).index(label), 0, label)
    rank = re.fullmatch(r"rank (\d+)", label)
    return ({"train": 0, "validation": 1, "test": 2}.get(label, 3), int(rank[1]) if rank else 0, label)


def _chart_order(chart: Chart) -> tuple[int, int, list[tuple[int, str]], str]:
    sections = ("learning", "music", "machine")
    first = FIRST.index(chart.name) if chart.name in FIRST else len(FIRST)
    # Layer 10 comes after layer 9.
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,9})", chart.name)]
    return (sections.index(chart.section), first, parts, chart.name)
