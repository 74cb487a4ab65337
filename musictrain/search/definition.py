"""What a search is: the space, how it is gone through, what is measured, when a trial is given up, and how much it may cost.

    name: depth-and-rate
    config: [chorales]                        # recipes or files, in layers; further words for fit: overrides
    space:
      grid: {model.init_args.network.init_args.layers: [1, 2]}
      random: {n: 20, seed: 0, space: {model.init_args.optimizer.init_args.lr: "loguniform(1e-4, 1e-2)"}}
    seeds: [0, 1, 2]
    objectives: [{metric: val/loss, mode: min, value: best}]
    rule: {name: halving, factor: 3, rungs: [100, 300, 900]}

Plain values only; ``musictrain.search.reading`` makes them from YAML and says what cannot be meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from musictrain.search.distributions import Distribution

MODES = ("min", "max")
VALUES = ("best", "last")
RULES = ("none", "halving", "median")
DEFAULT_SEED = 1  # that of fit, and of every recipe
MOST_TRIALS = 500


class SearchError(ValueError):
    """What a search says cannot work; the message says what came, what was expected and what to do."""


@dataclass(frozen=True)
class Objective:
    """A metric that a point is judged by.

    Args:
        metric: as the run logs it.
        mode: ``min`` or ``max``.
        value: the ``best`` so far at a step, or the ``last`` recorded by then.
    """

    metric: str = "val/loss"
    mode: str = "min"
    value: str = "best"

    def words(self) -> str:
        """Such as ``lowest val/loss``.

        >>> Objective("val/groove_similarity", "max", "last").words()
        'highest val/groove_similarity (last)'
        """
        return f"{'lowest' if self.mode == 'min' else 'highest'} {self.metric}{' (last)' if self.value == 'last' else ''}"


@dataclass(frozen=True)
class Rule:
    """When points are given up.

    Args:
        name: ``none``: never; ``halving``: all but one of ``factor`` at each rung; ``median``: those worse than the median of a rung.
        factor: of halving.
        rungs: optimizer steps at which trials pause and are judged, increasing; the last one is where the training ends. As loaded by the
            commands it is complete, with that one, for every rule; before that it may be empty.
        min_steps: the first rung, where only that is said; the others follow by ``factor``.
    """

    name: str = "none"
    factor: float = 3
    rungs: tuple[int, ...] = ()
    min_steps: int | None = None


@dataclass(frozen=True)
class Random:
    """Points that are drawn.

    Args:
        n: how many, for each combination of the grid if there is one.
        seed: of the draws.
        spaces: what each key is drawn from; of several spaces each draw takes one.
    """

    n: int
    seed: int = 0
    spaces: tuple[Mapping[str, Distribution], ...] = ({},)


@dataclass(frozen=True)
class Condition:
    """A part of the space that is there only where a point has certain values.

    Args:
        holds_for: the values, by key; of a tuple any one will do.
        space: what each key is drawn from, or takes in turn where nothing is drawn.
    """

    holds_for: Mapping[str, tuple[Any, ...]]
    space: Mapping[str, Distribution]


@dataclass(frozen=True)
class Most:
    """What a search may cost.

    Args:
        trials: points times seeds.
        hours: of the whole search, None for no limit.
    """

    trials: int = MOST_TRIALS
    hours: float | None = None


@dataclass(frozen=True)
class Definition:
    """A search, whole.

    Args:
        name: what its folder is called.
        config: what is laid over one another before a point is: recipes or files, as they were named.
        overrides: further words for ``fit``, such as ``--trainer.max_steps 600``, over the files.
        grid: values of each key; every combination. Of several grids one after the other.
        random: what is drawn, None for nothing.
        when: parts of the space that hang on others.
        constraints: expressions that every point meets, see ``musictrain.search.constraints``.
        seeds: of ``seed_everything``; each point is tried with all. Where a command says none, it is the configuration's own.
        objectives: the first one is that of tables and of the best.
        rule: when points are given up.
        slots: how many trials train at the same time.
        threads: of each of them.
        most: what it may cost.
    """

    name: str
    config: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    grid: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    random: Random | None = None
    when: tuple[Condition, ...] = ()
    constraints: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (DEFAULT_SEED,)
    objectives: tuple[Objective, ...] = field(default_factory=lambda: (Objective(),))
    rule: Rule = field(default_factory=Rule)
    slots: int = 1
    threads: int = 1
    most: Most = field(default_factory=Most)

    def parameters(self) -> list[str]:
        """Every key of the space, sorted."""
        spaces: list[Mapping[str, Any]] = [*self.grid, *(self.random.spaces if self.random else ()), *(each.space for each in self.when)]
        return sorted({key for space in spaces for key in space})

    def distribution_of(self, key: str) -> Distribution | None:
        """What a key is drawn from; of a key of the grid, and of one that has several, None."""
        drawn = [space for space in (*(self.random.spaces if self.random else ()), *(each.space for each in self.when)) if key in space]
        found = list(dict.fromkeys(str(space[key]) for space in drawn))
        return drawn[0][key] if len(found) == 1 else None

    def told(self) -> dict[str, Any]:
        """The same as plain values that ``reading.read_definition`` takes: what ``search.yaml`` holds."""
        random = None if self.random is None else {"n": self.random.n, "seed": self.random.seed}
        if random is not None and self.random is not None:
            spaces = [{key: each.told() for key, each in space.items()} for space in self.random.spaces]
            random["space"] = spaces[0] if len(spaces) == 1 else spaces  # type: ignore[assignment]
        grids = [{key: list(values) for key, values in grid.items()} for grid in self.grid]
        when = [
            {
                "if": {key: values[0] if len(values) == 1 else list(values) for key, values in each.holds_for.items()},
                "space": {key: drawn.told() for key, drawn in each.space.items()},
            }
            for each in self.when
        ]
        space = {"grid": grids[0] if len(grids) == 1 else grids, "random": random, "when": when, "constraints": list(self.constraints)}
        return {
            "name": self.name,
            "config": list(self.config),
            "overrides": list(self.overrides),
            "space": {key: value for key, value in space.items() if value},
            "seeds": list(self.seeds),
            "objectives": [asdict(each) for each in self.objectives],
            "rule": {key: value for key, value in (asdict(self.rule) | {"rungs": list(self.rule.rungs)}).items() if value is not None},
            "slots": self.slots,
            "threads": self.threads,
            "most": asdict(self.most),
        }
