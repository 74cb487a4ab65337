"""What each trial is given, and what is known of the whole configurations that come of it, without asking ``fit`` again.

``points.jsonl`` keeps three kinds of records: a ``base`` (what lies under every point, fully resolved), a ``space`` (its points), and
``identities`` (of each point with one seed over one base: an identity, or why there is none). All of them can be found out again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from musictrain.runs.records import Records, read_records
from musictrain.search.definition import Definition, Rule, SearchError
from musictrain.search.plan import Planned
from musictrain.search.points import Point

MOST_RUNGS = 3


@dataclass(frozen=True)
class Base:
    """What lies under every point.

    Args:
        names: of the layers, as they were named.
        texts: their content.
        overrides: further words for ``fit``.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    overrides: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for the layers and the words, whatever the files are called."""
        told = "\0".join([*self.texts, "", *self.overrides])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def files(self, folder: Path) -> list[Path]:
        """Where copies of the layers lie in a folder."""
        return [folder / f"{place}-{Path(name).stem}.yaml" for place, name in enumerate(self.names)]

    def words(self, folder: Path) -> list[str]:
        """What ``fit`` is given for them, of copies in a folder."""
        return [word for file in self.files(folder) for word in ("--config", str(file))] + list(self.overrides)


def layer_of(values: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The configuration that a point lays over what lies under it.

    >>> layer_of({"optimizer": "Lion", "optimizer.init_args.lr": 0.1}, 3)
    {'seed_everything': 3, 'optimizer': {'class_path': 'Lion', 'init_args': {'lr': 0.1}}}
    """
    layer: dict[str, Any] = {"seed_everything": seed}
    for key in sorted(values, key=lambda each: (each.count("."), each)):
        *parents, last = key.split(".")
        node = layer
        for parent in parents:
            below = node.get(parent)
            # A class by its name alone, of which arguments are said too.
            node[parent] = dict(below) if isinstance(below, Mapping) else {"class_path": below} if isinstance(below, str) else {}
            node = node[parent]
        node[last] = values[key]
    return layer


@dataclass
class Known:
    """What was found out before.

    Args:
        bases: fully resolved configurations, by the fingerprint of their layers.
        spaces: points by the fingerprint of their space.
        identities: by base, hash of the point and seed: an identity and an empty text, or an empty one and what is wrong.
    """

    bases: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    spaces: dict[str, list[Point]] = field(default_factory=dict)
    identities: dict[tuple[str, str, int], tuple[str, str]] = field(default_factory=dict)

    def take(self, record: Mapping[str, Any]) -> None:
        """Learn of a record; what is none is passed over."""
        try:
            if "resolved" in record:
                self.bases[record["base"]] = record["resolved"]
            elif "points" in record:
                self.spaces[record["space"]] = [Point(values) for values in record["points"]]
            elif "identities" in record:
                base, seed = record["base"], int(record["seed"])
                self.identities |= {(base, each, seed): (identity, "") for each, identity in record["identities"].items()}
                self.identities |= {(base, each, seed): ("", error) for each, error in record.get("errors", {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return

    def planned(self, base: str, points: Sequence[Point], seeds: Sequence[int]) -> tuple[list[Planned], list[tuple[Point, int]]]:
        """Every trial whose identity is known, those of one point behind one another; and the points and seeds of the others."""
        found, missing = [], []
        for point in points:
            for seed in seeds:
                known = self.identities.get((base, point.hash, seed))
                if known is None:
                    missing.append((point, seed))
                else:
                    found.append(Planned(point, seed, *known))
        return found, missing


def read_known(path: Path) -> Known:
    """What was written; nothing where there is no file."""
    known = Known()
    for record in read_records(path):
        known.take(record)
    return known


def add_known(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records, and wait for the disk.

    Raises:
        OSError: if it does not take them.
    """
    file = Records(path)
    try:
        for record in records:
            file.append(record)
        file.sync()
    finally:
        file.close()


def records_of_identities(base: str, found: Iterable[Planned]) -> Iterator[dict[str, Any]]:
    """One record for each seed."""
    by_seed: dict[int, list[Planned]] = {}
    for each in found:
        by_seed.setdefault(each.seed, []).append(each)
    for seed, trials in by_seed.items():
        identities = {each.point.hash: each.identity for each in trials if not each.error}
        errors = {each.point.hash: each.error for each in trials if each.error}
        yield {"base": base, "seed": seed, "identities": identities, "errors": errors}


def with_rungs(definition: Definition, config: Mapping[str, Any]) -> tuple[Definition, list[str]]:
    """A search with all its rungs, the last one where the training ends; and what there is to say of them.

    Args:
        definition: the search.
        config: what lies under every point, fully resolved.

    Raises:
        SearchError: if the training has no end by steps, or a rung lies beyond it.
    """
    trainer = config.get("trainer") or {}
    steps, rule = trainer.get("max_steps"), definition.rule
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise SearchError(
            f"A search needs trainer.max_steps, where every trial ends, got {steps!r}. Say --trainer.max_steps 600 or the like."
        )
    interval = validation_interval(trainer)
    if rule.name == "none":
        said = [f"Rungs are not needed: no rule looks at {', '.join(map(str, rule.rungs))}."] if rule.rungs else []
        return replace(definition, rule=replace(rule, rungs=(steps,), min_steps=None)), said
    wanted = _wanted_rungs(rule, steps, interval)
    if (beyond := [each for each in wanted if each > steps]) and (rule.rungs or rule.min_steps):
        raise SearchError(f"A rung at step {beyond[0]:,} lies beyond trainer.max_steps, {steps:,}. Lower it, or train longer.")
    moved = [min(_next_validation(each, interval), steps) for each in wanted]
    said = [
        f"The rung at step {was:,} is moved to step {now:,}, the next validation."
        for was, now in zip(wanted, moved, strict=True)
        if was != now
    ]
    if len(dict.fromkeys([*moved, steps])) == 1:
        said.append(f"There is one rung alone, step {steps:,}: nothing can be given up before the end. Validate more often, or name rungs.")
    if interval is None:
        said.append("How many steps lie between two validations cannot be told; a rung without one is judged by the validation before it.")
    return replace(definition, rule=replace(rule, rungs=tuple(dict.fromkeys([*moved, steps])), min_steps=None)), said


def _wanted_rungs(rule: Rule, steps: int, interval: int | None) -> list[int]:
    if rule.rungs:
        return list(rule.rungs)
    if rule.min_steps is not None:
        number = max(0, math.ceil(math.log(steps / rule.min_steps, rule.factor) - 1e-9)) if rule.min_steps < steps else 0
        return [math.ceil(rule.min_steps * rule.factor**place - 1e-9) for place in range(max(number, 1))]
    # From the end: each rung is a factor below the next, as long as there is a validation before it.
    rungs = [math.ceil(steps / rule.factor**place - 1e-9) for place in range(MOST_RUNGS - 1, 0, -1)]
    return list(dict.fromkeys(_next_validation(each, interval) for each in rungs))


def _next_validation(step: int, interval: int | None) -> int:
    return step if interval is None else math.ceil(step / interval) * interval


def validation_interval(trainer: Mapping[str, Any]) -> int | None:
    """Optimizer steps between two validations; None if that hangs on the length of an epoch, or on a schedule.

    >>> validation_interval({"val_check_interval": 150, "check_val_every_n_epoch": None, "accumulate_grad_batches": 3})
    50
    """
    batches, gathered = trainer.get("val_check_interval"), trainer.get("accumulate_grad_batches") or 1
    if trainer.get("check_val_every_n_epoch") is not None or isinstance(batches, bool) or not isinstance(batches, int):
        return None
    return batches // gathered if isinstance(gathered, int) and batches % gathered == 0 else None
