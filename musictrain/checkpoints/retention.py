"""Which versions of a folder stay. Standard library only.

Conventions:

- One pure function of names and seals: no file is opened, no clock is read, so that what `prune --dry-run` shows is what happens.
- Newer means more steps, and of as many steps the higher number. Good means healthy, with a seal that can be read.
- What is not understood, was pinned, or was made by the user (averages, weights) is never touched, and takes nobody's place.
- Versions that are not healthy take nobody's place either: they change nothing for the others.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, NamedTuple

from musictrain.checkpoints.catalog import Version, best_versions
from musictrain.suggestions import did_you_mean

MODES = ("min", "max")


@dataclass(frozen=True)
class Retention:
    """Which versions are kept; the newest good one that can be resumed always is.

    Args:
        newest: so many of the newest good versions that can be resumed.
        best: so many of the best good versions by each metric.
        metrics: name of a logged metric to ``min`` or ``max``, whichever is better.
        every_n_steps: for good, the first good version at or after each multiple of so many steps, but 0; 0 for none.
        every_n_minutes: for good, the first good version of each stretch of so many minutes of clock time, that of step 0 left out;
            0 for none.
        thin_after: versions kept by the three rules above alone are reduced to their weights once this many newer numbers were given;
            0 for never.
        keep_all: nothing is removed or thinned.

    Raises:
        ValueError: if a number is negative or no number, or a mode is neither ``min`` nor ``max``.
    """

    newest: int = 3
    best: int = 1
    metrics: Mapping[str, Literal["min", "max"]] = field(default_factory=lambda: {"val/loss": "min"})
    every_n_steps: int = 0
    every_n_minutes: float = 0.0
    thin_after: int = 0
    keep_all: bool = False

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name not in ("metrics", "keep_all"):
                _check_number(each.name, getattr(self, each.name), whole=each.name != "every_n_minutes")
        if not isinstance(self.keep_all, bool):
            raise ValueError(f"Retention got keep_all={self.keep_all!r}, expected true or false.")
        _check_metrics(self.metrics)


def _check_number(name: str, value: object, *, whole: bool) -> None:
    kinds = int if whole else int | float
    if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"Retention got {name}={value!r}, expected {'a whole number' if whole else 'a number'} from 0 on.")


def _check_metrics(metrics: object) -> None:
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) and name for name in metrics):
        raise ValueError(f"Retention got metrics={metrics!r}, expected names of metrics with min or max, such as {{'val/loss': 'min'}}.")
    for name, mode in metrics.items():
        if mode not in MODES:
            raise ValueError(
                f"Retention got {mode!r} for the metric {name!r}, expected min or max. {did_you_mean(str(mode), MODES)}".rstrip()
            )


@dataclass(frozen=True)
class Decision:
    """What retention says of each version, by number.

    Args:
        keep: stay as they are.
        thin: are to be reduced to their weights.
        remove: are to be removed.
        reasons: of everything that is not removed, in words, by its path.
    """

    keep: tuple[Version, ...]
    thin: tuple[Version, ...]
    remove: tuple[Version, ...]
    reasons: Mapping[Path, tuple[str, ...]]

    def why(self, version: Version) -> str:
        """The reasons why a version stays, in one line: ``newest, best val/loss``; empty if it does not."""
        return ", ".join(self.reasons.get(version.path, ()))


def decide(versions: Sequence[Version], retention: Retention, protected: Collection[int] | Mapping[int, str] = ()) -> Decision:
    """What stays of some versions; changes nothing. Deciding again on what stays removes nothing.

    Args:
        versions: of one folder, in any order.
        retention: the rules.
        protected: numbers of versions that must not be touched, such as the parent of a running job; a mapping says why.
    """
    ordered = sorted(versions, key=_age)
    reasons: dict[Path, list[_Reason]] = {version.path: [] for version in ordered}
    for version, reason in _rules(ordered, retention, protected):
        if reason not in reasons[version.path]:
            reasons[version.path].append(reason)
    by_number = sorted(ordered, key=lambda version: (version.number, version.step, version.path))
    newest = next(reversed(_resumable(ordered)), None)
    to_thin = {version.path for version in by_number if newest and _to_thin(version, reasons[version.path], newest, retention)}
    return Decision(
        keep=tuple(version for version in by_number if reasons[version.path] and version.path not in to_thin),
        thin=tuple(version for version in by_number if version.path in to_thin),
        remove=tuple(version for version in by_number if not reasons[version.path]),
        reasons={path: tuple(reason.words for reason in found) for path, found in reasons.items() if found},
    )


class _Reason(NamedTuple):
    words: str
    weights_will_do: bool = False


def _age(version: Version) -> tuple[int, int, str]:
    return version.step, version.number, version.path.name


def _rules(versions: list[Version], retention: Retention, protected: Collection[int]) -> Iterator[tuple[Version, _Reason]]:
    """Every reason to keep a version; ``versions`` from the oldest to the newest."""
    if retention.keep_all:
        yield from ((version, _Reason("all are kept")) for version in versions)
    yield from _untouchable(versions, protected)
    yield from _to_go_on_from(versions, retention.newest)
    yield from _of_lasting_interest([version for version in versions if version.good and not _users_own(version)], retention)


def _untouchable(versions: list[Version], protected: Collection[int]) -> Iterator[tuple[Version, _Reason]]:
    for version in versions:
        if version.pinned:
            yield version, _Reason("pinned")
        if version.number in protected:
            yield version, _Reason(protected[version.number] if isinstance(protected, Mapping) else "in use")
        if version.seal is None:
            yield version, _Reason("its seal cannot be read")
        elif _users_own(version):
            yield version, _Reason(f"made by hand ({version.seal.kind})")


def _users_own(version: Version) -> bool:
    return version.seal is not None and not version.resumable and not version.thin


def _resumable(versions: Iterable[Version], *, good: bool = True) -> list[Version]:
    return [version for version in versions if version.resumable and not version.thin and (version.good or not good)]


def _to_go_on_from(versions: list[Version], newest: int) -> Iterator[tuple[Version, _Reason]]:
    good = _resumable(versions)
    yield from ((version, _Reason("newest")) for version in good[len(good) - min(newest, len(good)) :])
    yield from ((version, _Reason("newest good")) for version in good[-1:] if not newest)
    # An interrupted run goes on from the newest whose weights are finite, a loss spike or not.
    every = _resumable(versions, good=False)
    finite = [version for version in every if version.seal is not None and "finite" not in version.seal.ill]
    yield from ((version, _Reason("newest to go on from")) for version in (*every[-1:], *finite[-1:]) if not version.good)


def _of_lasting_interest(versions: list[Version], retention: Retention) -> Iterator[tuple[Version, _Reason]]:
    for metric, mode in retention.metrics.items():
        best = best_versions(versions, metric, mode)[: retention.best]
        yield from ((version, _Reason(f"best {metric}", weights_will_do=True)) for version in best)
    if steps := retention.every_n_steps:
        # The stretch before the first multiple begins with the random weights of the start.
        stretches: list[tuple[Version, float]] = [(version, version.step // steps) for version in versions if version.step >= steps]
        yield from ((version, _Reason(f"every {steps:,} steps", weights_will_do=True)) for version in _first_of_each(stretches))
    if minutes := retention.every_n_minutes:
        stretches = [(version, _stretch(version, 60 * minutes)) for version in versions if version.step]
        yield from ((version, _Reason(f"every {minutes:g} minutes", weights_will_do=True)) for version in _first_of_each(stretches))


def _stretch(version: Version, seconds: float) -> float:
    # Counted from 1970, not from the first version: that one may be gone next time.
    created = version.seal.created if version.seal is not None else 0.0
    return created // seconds if math.isfinite(created) else -1.0


def _first_of_each(stretches: Iterable[tuple[Version, float]]) -> list[Version]:
    first: dict[float, Version] = {}
    for version, stretch in stretches:
        first.setdefault(stretch, version)
    return list(first.values())


def _to_thin(version: Version, reasons: list[_Reason], newest: Version, retention: Retention) -> bool:
    if version.thin or version.seal is None or not version.resumable or not retention.thin_after:
        return False
    # Age in numbers given, not in versions still there: it never shrinks because others were removed.
    is_old = newest.number - version.number > retention.thin_after
    return bool(reasons) and is_old and all(reason.weights_will_do for reason in reasons)
