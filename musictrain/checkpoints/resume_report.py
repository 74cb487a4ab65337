"""The resume report: what a run went on with, what it did without, and what has changed since the version was saved.

Pure functions on plain values; the callback gathers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from musictrain.runs.config_changes import ELSEWHERE, config_changes, without_new_defaults

CIRCUMSTANCES = "musictrain_circumstances"
GRADIENTS = "musictrain_gradients"
MOST_SHOWN = 8


@dataclass(frozen=True)
class ResumeReport:
    """What a resume did.

    Args:
        version: what was loaded.
        step: optimizer steps it had done.
        restored: what came back.
        missing: what did not, each with its reason.
        changed: what is different now: (what, then, now).
        exact: whether training goes on to the bit as it would have without the interruption.
    """

    version: str
    step: int
    restored: tuple[str, ...]
    missing: tuple[str, ...] = ()
    changed: tuple[tuple[str, Any, Any], ...] = ()
    exact: bool = True

    def lines(self) -> list[str]:
        """The report for people."""
        lines = [f"resumed  {self.version}, after step {self.step:,}: {', '.join(self.restored)}"]
        lines += [f"         not restored: {each}" for each in self.missing]
        shown = self.changed[:MOST_SHOWN]
        lines += [f"         changed: {what} was {_short(then)}, is {_short(now)}" for what, then, now in shown]
        if len(self.changed) > len(shown):
            lines.append(f"         and {len(self.changed) - len(shown)} more changes; train.log names them all")
        lines.append(f"         {self.verdict()}")
        return lines

    def verdict(self) -> str:
        """Whether the bits will be those of an uninterrupted run."""
        if self.missing:
            return "not exact, for what was not restored"
        return "exact: as if there had been no interruption" if self.exact else "the same state; from here on the changes count"

    def as_record(self) -> dict[str, Any]:
        """The same for ``events.jsonl``."""
        changed = [{"what": what, "was": then, "is": now} for what, then, now in self.changed]
        return {"version": self.version, "step": self.step, "restored": list(self.restored), "missing": list(self.missing),
                "changed": changed, "exact": self.exact}  # fmt: skip


def _short(value: Any, longest: int = 60) -> str:
    text = str(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


# What changes the bits that come out, and what merely may.
BITS = ("world_size", "data_shares", "precision", "accumulate_grad_batches", "threads", "seed", "strategy")
# Callbacks on whose state nothing depends that is trained.
WATCHING = ("RunRecorder", "ProgressLine", "PlainProgress")
HARMLESS = ("trainer.max_time", "trainer.logger", "trainer.callbacks", "trainer.plugins", "trainer.limit_val_batches")


@dataclass
class Found:
    """What was seen while a checkpoint was loaded, for ``report_of``.

    Args:
        checkpoint_keys: the top-level keys of the checkpoint.
        callback_states: keys of the callback states it holds.
        callbacks: keys of the trainer's callbacks that keep a state.
        circumstances: under which it was saved.
        position: whether it holds where the data stood.
    """

    checkpoint_keys: tuple[str, ...] = ()
    callback_states: tuple[str, ...] = ()
    callbacks: tuple[str, ...] = ()
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    position: bool = False


def report_of(version: str, step: int, found: Found, now: Mapping[str, Any]) -> ResumeReport:
    """Put a report together.

    Args:
        version: name of what was loaded.
        step: its optimizer steps.
        found: what it held.
        now: the circumstances of this process.
    """
    keys = set(found.checkpoint_keys)
    restored = ["weights"]
    restored += [word for key, word in _PARTS if key in keys]
    restored += ["position in the data"] if found.position else []
    if both := _names(set(found.callback_states) & set(found.callbacks)):
        restored.append(f"callbacks ({', '.join(both)})")
    gone, new = set(found.callback_states) - set(found.callbacks), set(found.callbacks) - set(found.callback_states)
    missing = [f"the state of {name}, which this run does not have" for name in _names(gone) if name not in WATCHING]
    missing += [f"{name}: the version has no state of it" for name in _names(new) if name not in WATCHING]
    if not found.position and step > 0:
        missing.append("the position in the data: neither data module nor loader keeps it, and the epoch begins again with its first items")
    changed = tuple(_changes(found.circumstances, now))
    exact = not missing and not any(map(_matters, changed))
    return ResumeReport(version, step, tuple(restored), tuple(missing), changed, exact)


_PARTS = (
    ("optimizer_states", "optimizer"),
    ("lr_schedulers", "schedule"),
    ("loops", "loops"),
    ("current_model_state", "averaged weights"),
    ("MixedPrecision", "loss scale"),
    (GRADIENTS, "accumulated gradients"),
)


def _names(keys: Iterable[str]) -> list[str]:
    return sorted({key.partition("{")[0] for key in keys})


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[tuple[str, Any, Any]]:
    for key in now:
        if key == "config":
            was, now_is = _read(then.get("config")), _read(now["config"])
            changes = config_changes(was, without_new_defaults(was, now_is))
            yield from (change for change in changes if change[0] not in ELSEWHERE)
        elif key in then and key != "config_fingerprint":
            yield from config_changes(then[key], now[key], key)


def _read(text: Any) -> Any:
    return yaml.safe_load(text) if text else None


def _matters(change: tuple[str, Any, Any]) -> bool:
    what = change[0]
    if what in BITS or what == "packages.torch":
        return True
    if what.startswith(HARMLESS) or what in ("commit", "") or what.startswith("packages."):
        return False
    return what.partition(".")[0] in ("model", "data", "trainer", "seed_everything")
